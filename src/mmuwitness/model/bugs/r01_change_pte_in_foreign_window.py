"""R1: what change_pte installs survives a window that was open already."""

from __future__ import annotations

from mmuwitness.model.bugs.bug import Bug
from mmuwitness.model.features.feature import SOURCE
from mmuwitness.model.kvm.kvm_main import observe_change_pte
from mmuwitness.model.primitives import feature
from mmuwitness.model.scenarios import find_scenario


def kvm_change_spte_gfn(kvm, range):
    """With the guard that no kernel has: under mmu_lock, nothing is done while a second window is
    open."""
    if feature.change_pte_skips_invalid_slot and range.invalid:
        return False
    if kvm.mmu_invalidate_in_progress != 1:
        return False
    old = kvm.spte[range.start]
    flush = kvm.arch.kvm_set_spte_gfn(kvm, range)
    observe_change_pte(kvm, old, kvm.spte[range.start], flush)
    return flush


BUG = Bug(
    id="R1",
    text="Compaction opens its window over a new page and zaps nothing yet. COW installs that page"
    " by change_pte, then compaction moves it away: the SPTE stays.",
    commit="6bdb913f0a70",
    subject="mm: wrap calls to set_pte_at_notify with invalidate_range_start and"
    " invalidate_range_end",
    release="v3.7",
    source=SOURCE,
    reference="Not reported, as far as is known; it went with the callback, in v6.10. The commit's"
    " message asks of change_pte that its own window is the only one.",
    claim="freed_page_unmapped",
    scenario=find_scenario("cow_migrate"),
    arch="arm64",
    era="v6.1",
    mended={"kvm.kvm_main.kvm_change_spte_gfn": kvm_change_spte_gfn},
    unfixed=True,
)
