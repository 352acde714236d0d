"""virt/kvm/pfncache.c: pages of guest memory that KVM itself has mapped (Xen's shared info)."""

from __future__ import annotations

from mmuwitness.model.mm.gup import get_user_page_fast_only, get_user_pages_unlocked
from mmuwitness.model.mm.mm_types import put_page, store
from mmuwitness.model.primitives import (
    atomic,
    cover,
    feature,
    lock,
    read_lock,
    spin_lock,
    unlock,
    write_lock,
)

FOLLOWS_NOTHING = "KVM follows a gfn_to_pfn_cache that is valid and maps nothing"


def gfn_to_pfn_cache_invalidate_start(kvm, start, end):
    """Every cache, be its hva in a memslot or not.  mn_active_invalidate_count is raised already,
    mmu_invalidate_in_progress is not."""
    for gpc in kvm.gpc_list:
        if start <= gpc.uhva and gpc.uhva < end:
            with write_lock(gpc.lock):
                if gpc.page is not None:
                    # a refresh that is under way until v5.19 has no pfn yet: it is left alone
                    gpc.valid = False


def gpc_seq(kvm):
    """Since commit da260bcb56fe ("KVM: pfncache: use a dedicated invalidation sequence for cache
    refresh") in v7.3 every end() bumps a sequence of the caches' own.  Before, they used that of
    faults, which a window that hits no memslot does not bump."""
    if feature.gpc_invalidate_seq:
        return kvm.gpc_invalidate_seq.snapshot()
    return kvm.mmu_invalidate_seq.snapshot()


def mmu_notifier_retry_cache(kvm, mmu_seq):
    """gpc->lock is held.  The count is read first (smp_rmb, pairs with the smp_wmb of end()): a
    window raises it before it takes gpc->lock, and lowers it after the sequence was bumped."""
    if kvm.mn_active_invalidate_count != 0:
        return True
    if feature.gpc_invalidate_seq:
        return kvm.gpc_invalidate_seq != mmu_seq
    return kvm.mmu_invalidate_seq != mmu_seq


def hva_to_page(kvm, uhva):
    """hva_to_pfn(): always writable, fast or slow; None if there is no page now."""
    page = get_user_page_fast_only(kvm.mm, uhva, True)
    if page is None:
        page = get_user_pages_unlocked(kvm.mm, uhva, True)
    return page


def hva_to_pfn_retry(kvm, gpc):
    """gpc->lock is held, and dropped for each lookup: that may sleep.  Invalid before, so that
    nobody else uses what is about to be replaced.

    The loop has no bound: while any window is open, over whatever hva, it goes on.  The reference
    to the page is put: from then on the cache follows it by invalidations alone."""
    gpc.valid = False
    retry = True
    while retry:
        mmu_seq = gpc_seq(kvm)
        # smp_rmb: the sequence before the PTE
        unlock(gpc.lock)
        page = hva_to_page(kvm, gpc.uhva)
        lock(gpc.lock)
        retry = page is not None and mmu_notifier_retry_cache(kvm, mmu_seq)
        if not retry:
            gpc.page = page
            gpc.valid = page is not None
        if page is not None:
            put_page(page)


def mmu_notifier_retry_hva(kvm, mmu_seq, hva):
    """As faults of that time: x86 asks for its own hva."""
    if kvm.mmu_invalidate_in_progress != 0:
        if kvm.mmu_invalidate_range_start <= hva and hva < kvm.mmu_invalidate_range_end:
            return True
    return kvm.mmu_invalidate_seq != mmu_seq


def hva_to_pfn_retry_under_mmu_lock(kvm, gpc):
    """Until v5.19: a window that has gone by gpc->lock, but not yet come to mmu_lock, is missed."""
    page = None
    retry = True
    while retry:
        mmu_seq = kvm.mmu_invalidate_seq.snapshot()
        page = hva_to_page(kvm, gpc.uhva)
        retry = False
        if page is not None:
            with write_lock(kvm.mmu_lock):
                retry = mmu_notifier_retry_hva(kvm, mmu_seq, gpc.uhva)
            if retry:
                put_page(page)
    return page


def kvm_gpc_refresh_speculatively(kvm, gpc):
    """Until v5.19 the cache was valid before its page was looked up, for a window that comes
    meanwhile to clear that again."""
    lock(gpc.lock)
    old = gpc.page
    if gpc.valid:
        unlock(gpc.lock)
        return
    gpc.page = None
    gpc.valid = True
    unlock(gpc.lock)
    page = hva_to_pfn_retry_under_mmu_lock(kvm, gpc)
    with write_lock(gpc.lock):
        gpc.page = page
        if page is None:
            gpc.valid = False
    if feature.pfncache_pins_page:
        if old is not None:
            put_page(old)
    elif page is not None:
        put_page(page)


def kvm_gpc_refresh(kvm, gpc):
    """Since commit 58cd407ca4c6 ("KVM: Fix multiple races in gfn=>pfn cache refresh") in v5.19."""
    if not feature.pfncache_rechecks_retry:
        kvm_gpc_refresh_speculatively(kvm, gpc)
        return
    with spin_lock(gpc.refresh_lock):
        lock(gpc.lock)
        if not gpc.valid:
            hva_to_pfn_retry(kvm, gpc)
        unlock(gpc.lock)


def kvm_gpc_check(gpc):
    """gpc->lock is held.  (Its memslot does not change: the generation is not looked at.)"""
    return gpc.valid


def kvm_gpc_write(kvm, gpc):
    """KVM writes to the page, under gpc->lock.  False: the cache has to be refreshed first."""
    with read_lock(gpc.lock):
        if not kvm_gpc_check(gpc):
            return False
        page = gpc.page
        if page is None:
            cover(FOLLOWS_NOTHING)
        else:
            with atomic("one store"):
                store(kvm.mm, page, gpc.uhva)
    return True


def kvm_xen_update(kvm, gpc):
    """arch/x86/kvm/xen.c: runstate, time or pending events are written, any number of times.  A
    kernel without such caches, or which has none of that kind, refuses."""
    usable = feature.pfncache_by_hva if gpc.by_hva else feature.pfncache
    while usable:
        if not kvm_gpc_write(kvm, gpc):
            kvm_gpc_refresh(kvm, gpc)
