"""H22: what change_pte made read-only becomes writable in a fault without mmu_lock."""

from __future__ import annotations

from mmuwitness.model.bugs.bug import Bug
from mmuwitness.model.features.feature import PATCH
from mmuwitness.model.mm.ksm import ksmd
from mmuwitness.model.scenarios.scenario import Scenario, mm_actor, private_beside_ksm_page

BUG = Bug(
    id="H22",
    text="The SPTE that change_pte makes read-only stays MMU-writable. A fault that asks for that"
    " bit alone sets W without asking the primary MMU: the guest writes to a KSM page.",
    commit="f082d86ea685",
    subject="KVM: x86/mmu: Clear MMU-writable during changed_pte notifier",
    release="v5.17",
    source=PATCH,
    reference="Latent, as its author says: since v3.7 start() has zapped what change_pte would"
    " change. The kernel here is one that opens no windows around change_pte, as before v3.7; the"
    " commit after it, af2f4b809291, made the one bit stand for both.",
    claim="shared_page_read_only",
    scenario=Scenario(
        "ksm_fast_fault",
        "ksmd merges a guest page; the guest's writes may be let through without mmu_lock.",
        "1 vCPU, 1 gfn, 3 pages, any number of KSM merges",
        private_beside_ksm_page,
        mm_actor("ksmd", ksmd),
        {"pages": 3, "slot_pages": 1, "writable_bits": True},
    ),
    arch="x86-tdp",
    era="v5.17 -change_pte_bracketed -change_pte_warns_unbracketed -change_pte_returns_early"
    " +change_pte_bumps_seq",
    without=("x86_changed_spte_clears_mmu_writable",),
)
