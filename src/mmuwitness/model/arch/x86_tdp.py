"""arch/x86/kvm/mmu/tdp_mmu.c, tdp_iter.c: the roots of the TDP MMU, and zaps that drop mmu_lock.

A memslot update makes the root invalid, asks every vCPU to load another one, and zaps the old one
later: see kvm_mmu_zap_all_fast().  Where `kvm.replaces_roots`, kvm.spte are the leaves of the valid
root and kvm.invalid_spte those of the invalid one.  (One vCPU holds one root, slots_lock lets one
update zap, so there is at most one of each.)
"""

from __future__ import annotations

from mmuwitness.model.arch.x86_spte import mmu_spte_clear_track_bits
from mmuwitness.model.kvm.kvm_host import Spte
from mmuwitness.model.kvm.kvm_main import (
    WALKS_FREED,
    cond_resched_rwlock_write,
    kvm_flush_remote_tlbs,
    rwlock_needbreak,
)
from mmuwitness.model.lib.srcutree import srcu_read_lock, srcu_read_unlock, synchronize_srcu
from mmuwitness.model.primitives import (
    choose,
    cover,
    feature,
    read_lock,
    wait_until,
    write_lock,
)


def invalidates_roots(kvm):
    """Since commit b7cccd397f31 ("KVM: x86/mmu: Fast invalidation for TDP MMU") in v5.13; before,
    what the root maps was zapped, and the root stayed."""
    return kvm.replaces_roots and feature.x86_tdp_invalidates_roots


def tdp_mmu_iter_cond_resched(kvm, flush):
    """True: mmu_lock was dropped on the way.  What was zapped before is flushed before: whoever
    takes the lock now finds these leaves gone and flushes nothing."""
    if not rwlock_needbreak(kvm):
        return False
    if flush:
        kvm_flush_remote_tlbs(kvm)
    cond_resched_rwlock_write(kvm)
    return True


def tdp_mmu_zap_leafs(kvm, sptes, range, flush):
    """The leaves of one root.  True: something is left to flush, be it from the root before.  There
    is no yield before the first leaf, so that each round gets on."""
    for gfn in kvm.gfns:
        if range.start <= gfn and gfn < range.end:
            if kvm.yields and range.may_block and feature.x86_tdp_unmap_yields:
                if gfn != range.start and tdp_mmu_iter_cond_resched(kvm, flush):
                    flush = False
            if sptes[gfn].present:
                if kvm.mm.huge_pages:
                    kvm.arch.zap_leaf(kvm, gfn)
                else:
                    if kvm.mm.frees_lazily:
                        mmu_spte_clear_track_bits(kvm, sptes[gfn])
                    sptes[gfn] = Spte()
                flush = True
    return flush


def kvm_tdp_mmu_unmap_gfn_range(kvm, range):
    """Since commit d62007edf01f ("KVM: x86/mmu: Zap _all_ roots when unmapping gfn range in TDP
    MMU") in v5.18 in invalid roots, too: no guest runs on them, but whoever zaps them later hands
    the dirty bit on to the page."""
    flush = tdp_mmu_zap_leafs(kvm, kvm.spte, range, False)
    if invalidates_roots(kvm) and feature.x86_tdp_unmaps_invalid_roots:
        if kvm.tdp_mmu_root_count != 0:
            # Until commit a835429cda91 ("KVM: x86/mmu: Ensure TLBs are flushed when yielding during
            # GFN range zap") in v5.12 a yield flushed what had been zapped in its own root only.
            pending = flush and feature.x86_tdp_flush_before_yield
            flush = tdp_mmu_zap_leafs(kvm, kvm.invalid_spte, range, pending) or (
                flush and not pending
            )
    return flush


def kvm_tdp_mmu_invalidate_all_roots(kvm):
    """mmu_lock is held for writing.  A reference keeps the root until this update has zapped it;
    the other one is the vCPU's."""
    for vcpu in kvm.vcpus:
        if not vcpu.root_invalid:
            vcpu.root_invalid = True
            kvm.tdp_mmu_root_count += 1
            for gfn in kvm.gfns:
                kvm.invalid_spte[gfn] = kvm.spte[gfn]
                kvm.spte[gfn] = Spte()
    kvm.tdp_mmu_root_count += 1


def kvm_tdp_mmu_put_root(kvm):
    """mmu_lock is held.  The last reference to the invalid root: what is left in it is zapped."""
    kvm.tdp_mmu_root_count -= 1
    if kvm.tdp_mmu_root_count == 0:
        for gfn in kvm.gfns:
            kvm.invalid_spte[gfn] = Spte()


def kvm_tdp_mmu_zap_invalidated_roots(kvm):
    """mmu_lock is held for reading, and dropped on the way; here always, since among the schedules
    is that nobody takes it.  No flush: no vCPU runs on this root.

    Until commit 3a0f64de479c ("KVM: x86/mmu: Don't advance iterator after restart due to yielding")
    in v5.16 a yield skipped the entry that was to be zapped next.  An entry of the root, that is,
    with all below it: each gfn here stands for one."""
    for gfn in kvm.gfns:
        skipped = False
        if not feature.x86_tdp_iter_restarts_in_place and gfn != 0:
            skipped = choose(2) == 1
        if not skipped:
            with read_lock(kvm.mmu_lock):
                kvm.invalid_spte[gfn] = Spte()
    with read_lock(kvm.mmu_lock):
        kvm_tdp_mmu_put_root(kvm)


def kvm_mmu_zap_all_fast(kvm):
    """arch/x86/kvm/mmu/mmu.c.  KVM_REQ_MMU_FREE_OBSOLETE_ROOTS (until v5.18 KVM_REQ_MMU_RELOAD) is
    sent and waited for: no vCPU is in the guest when mmu_lock is dropped, and each flushes with the
    root that it loads next."""
    with write_lock(kvm.mmu_lock):
        kvm_tdp_mmu_invalidate_all_roots(kvm)
        kvm_flush_remote_tlbs(kvm)
    kvm_tdp_mmu_zap_invalidated_roots(kvm)


def kvm_mmu_reload(vcpu):
    """arch/x86/kvm/mmu.h: the invalid root is put, a valid one is loaded."""
    kvm = vcpu.kvm
    with write_lock(kvm.mmu_lock):
        vcpu.root_invalid = False
        kvm_tdp_mmu_put_root(kvm)


# Table pages, where `kvm.frees_by_rcu`


def tdp_mmu_link_sp(kvm, table):
    """The table page is there, or one is linked.  False: there is no memory, and the guest faults
    again."""
    if not kvm.frees_by_rcu or kvm.pt[table] is not None:
        return True
    for sp in kvm.mmu_pages:
        if sp.freed and kvm.pt[table] is None:
            sp.freed = False
            kvm.pt[table] = sp
    return kvm.pt[table] is not None


def tdp_mmu_unlink_sp(kvm, table):
    """A huge leaf stands in its place.  Since commit 7cca2d0b7e7d ("KVM: x86/mmu: Protect TDP MMU
    page table memory with RCU") in v5.12 call_rcu() frees the page."""
    if kvm.frees_by_rcu:
        sp = kvm.pt[table]
        if sp is not None:
            kvm.pt[table] = None
            if feature.x86_tdp_frees_by_rcu:
                sp.unlinked = True
            else:
                sp.freed = True


def tdp_mmu_free_sp_rcu_callback(kvm):
    """Table pages that are unlinked are freed, for ever: each after a grace period."""
    while True:
        wait_until(kvm.mmu_pages[0].unlinked or kvm.mmu_pages[1].unlinked)
        for sp in kvm.mmu_pages:
            if sp.unlinked:
                synchronize_srcu(kvm.rcu)
                sp.unlinked = False
                sp.freed = True


def kvm_tdp_mmu_age_gfn_range(kvm, range):
    """Without mmu_lock since v6.15: what the walk has come to may be unlinked meanwhile, and every
    entry of it is not present then; but it is there as long as the RCU section."""
    young = False
    idx = srcu_read_lock(kvm.rcu)
    for gfn in kvm.gfns:
        if range.start <= gfn and gfn < range.end:
            young = tdp_mmu_age_spte(kvm, gfn) or young
    srcu_read_unlock(kvm.rcu, idx)
    return young


def tdp_mmu_age_spte(kvm, gfn):
    table = kvm.arch.table_of(kvm, gfn)
    sp = kvm.pt[table]
    if sp is not None:
        if sp.freed:
            cover(WALKS_FREED)
        if kvm.pt[table] is not sp:
            return False
    return kvm.arch.age_leaf(kvm, gfn)
