"""R2: R1 as it would have come to x86."""

from __future__ import annotations

from mmuwitness.model.bugs.bug import Bug
from mmuwitness.model.bugs.r01_change_pte_in_foreign_window import kvm_change_spte_gfn
from mmuwitness.model.features.feature import SOURCE
from mmuwitness.model.kvm.kvm_host import Spte
from mmuwitness.model.scenarios import find_scenario


def kvm_set_spte_gfn(self, kvm, range):
    """The proposal: an absent leaf is installed as well, so that the guest need not fault."""
    kvm.spte[range.start] = Spte(present=True, page=range.arg_pte.page)
    return True


PROPOSAL = {"arch.x86.X86.kvm_set_spte_gfn": kvm_set_spte_gfn}

BUG = Bug(
    id="R2",
    text="A change_pte that prefetches needs what nobody has: it must do nothing while a second"
    " window is open, or it installs a page that is on its way out.",
    commit="6bdb913f0a70",
    subject="mm: wrap calls to set_pte_at_notify with invalidate_range_start and"
    " invalidate_range_end",
    release="v3.7",
    source=SOURCE,
    reference="Yan Zhao's proposal of 2023 to prefetch in the TDP MMU's change_pte; not merged.",
    claim="freed_page_unmapped",
    scenario=find_scenario("cow_migrate"),
    arch="x86-tdp",
    era="v6.1",
    broken=PROPOSAL,
    mended={**PROPOSAL, "kvm.kvm_main.kvm_change_spte_gfn": kvm_change_spte_gfn},
    unfixed=True,
)
