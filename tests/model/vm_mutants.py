"""Mutants of an address space with several subscribers."""

from __future__ import annotations

from tests.model.mutants import mutant

I1, I2, I3 = "coherent", "absent_in_window", "no_stale_tlb_entry"
I4, I5, I6 = "freed_page_unmapped", "shared_page_read_only", "no_lost_write"


@mutant("the oldest subscriber is passed over", "mm.mmu_notifier.is_hashed")
def is_hashed_and_not_the_oldest(mm, subscription):
    return subscription.number != 0


@mutant("change_pte tells the newest subscriber alone", "mm.mmu_notifier.mmu_notifier_change_pte")
def change_pte_of_the_newest(mm, addr, pte):
    newest = mm.notifier_subscriptions[0]
    newest.change_pte(newest.owner, addr, pte)


VM_BREAKS = [
    # as BREAKS of test_claims.py
    ("the oldest subscriber is passed over", "two_vms", "v6.1", "x86-tdp", {I1, I2, I3, I4}),
    ("the oldest subscriber is passed over", "two_vms_cow", "v6.12", "arm64",
     {I1, I2, I3, I4, I5, I6}),
    ("change_pte tells the newest subscriber alone", "two_vms_ksm", "v2.6.32", "x86-shadow",
     {I1, I3, I4}),
    ("faults look at the count alone", "two_vms", "v6.12", "x86-tdp", {I1, I3, I4}),
]  # fmt: skip
