"""Mutants of several subscribers, of those that come and leave, and of tables that are freed."""

from __future__ import annotations

from mmuwitness.model.arch.x86_tdp import tdp_mmu_age_spte
from mmuwitness.model.lib.srcutree import srcu_read_lock, srcu_read_unlock
from mmuwitness.model.mm.mmu_notifier import mn_synchronize, mn_unlink, mn_unlink_all
from tests.model.mutants import mutant

I1, I2, I3 = "coherent", "absent_in_window", "no_stale_tlb_entry"
I4, I5, I6 = "freed_page_unmapped", "shared_page_read_only", "no_lost_write"
I8, GONE = "windows_balanced", "used_after_unregister"


@mutant("the oldest subscriber is passed over", "mm.mmu_notifier.is_hashed")
def is_hashed_and_not_the_oldest(mm, subscription):
    return subscription.number != 0


@mutant("change_pte tells the newest subscriber alone", "mm.mmu_notifier.mmu_notifier_change_pte")
def change_pte_of_the_newest(mm, addr, pte):
    newest = mm.notifier_subscriptions[0]
    newest.change_pte(newest.owner, addr, pte)


@mutant("unregister does not wait for walks", "mm.mmu_notifier.mn_synchronize")
def synchronize_with_nobody(mm):
    return


@mutant("a subscriber comes in the middle of a window", "mm.mmu_notifier.mmu_notifier_register")
def register_without_lock(mm, subscription):
    mm.gone[subscription.number] = False
    mm.hashed[subscription.number] = True


@mutant("unregister does not release", "mm.mmu_notifier.mmu_notifier_unregister")
def unregister_without_release(mm, subscription):
    mn_unlink(mm, subscription)
    mn_synchronize(mm)
    mm.gone[subscription.number] = True


@mutant("aging is in no RCU section", "arch.x86_tdp.kvm_tdp_mmu_age_gfn_range")
def age_without_rcu(kvm, range):
    young = False
    for gfn in kvm.gfns:
        if range.start <= gfn and gfn < range.end:
            young = tdp_mmu_age_spte(kvm, gfn) or young
    return young


@mutant("an exiting mm waits for nobody", "mm.mmu_notifier.mmu_notifier_release")
def release_without_wait(mm):
    idx = srcu_read_lock(mm)
    for subscription in mm.notifier_subscriptions:
        if mm.hashed[subscription.number]:
            subscription.release(subscription.owner)
    srcu_read_unlock(mm, idx)
    mn_unlink_all(mm)


VM_BREAKS = [
    # as BREAKS of test_claims.py
    ("the oldest subscriber is passed over", "two_vms", "v6.1", "x86-tdp", {I1, I2, I3, I4}),
    ("the oldest subscriber is passed over", "two_vms_cow", "v6.12", "arm64",
     {I1, I2, I3, I4, I5, I6}),
    ("change_pte tells the newest subscriber alone", "two_vms_ksm", "v2.6.32", "x86-shadow",
     {I1, I3, I4}),
    ("faults look at the count alone", "two_vms", "v6.12", "x86-tdp", {I1, I3, I4}),
    ("unregister does not wait for walks", "vm_lifetime", "v6.1", "x86-tdp",
     {I1, I3, I4, I6, I8, GONE}),
    ("unregister does not wait for walks", "vm_beside", "v6.12", "arm64",
     {I1, I2, I3, I4, I8, GONE}),
    ("unregister does not wait for walks", "exit_destroy", "v6.1", "x86-tdp", {I8, GONE}),
    ("unregister does not release", "vm_lifetime", "v6.1", "x86-tdp", {I1, I2, I3, I4, I6}),
    ("a subscriber comes in the middle of a window", "vm_lifetime", "v6.1", "x86-tdp",
     {I1, I3, I4, I6, I8}),
    ("-release_before_unlink", "exit_destroy", "v6.1", "arm64", {I1, I2, I4}),
    ("-x86_tdp_frees_by_rcu", "mmap_aging", "v7.3", "x86-tdp", {"walks_freed"}),
    ("aging is in no RCU section", "mmap_aging", "v7.3", "x86-tdp", {"walks_freed"}),
    ("-arm64_pgd_reset_under_lock", "exit_aging", "v6.1", "arm64", {"walks_freed"}),
    ("-arm64_aging_checks_pgd", "exit_aging", "v6.1", "arm64", {"walks_freed"}),
    ("-arm64_walk_rechecks_pgd", "vm_tables", "v6.1", "arm64", {"walks_freed"}),
    ("-unlinked_once", "exit_destroy", "v6.1", "x86-tdp", {"unlinked_twice"}),
]  # fmt: skip

VM_HARMLESS = [
    # what is unlinked is released, and was before that: who finds it gone need not wait
    ("an exiting mm waits for nobody", "exit_destroy", "v6.1", "x86-tdp"),
    ("-x86_tdp_frees_by_rcu", "mmap_aging", "v6.12", "x86-tdp"),  # aging holds mmu_lock
    ("-arm64_walk_rechecks_pgd", "exit_aging", "v6.1", "arm64"),  # one page at a time
    ("-unlinked_once", "vm_lifetime", "v6.1", "x86-tdp"),  # the mm does not exit
]
