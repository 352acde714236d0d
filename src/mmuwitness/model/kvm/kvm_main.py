"""virt/kvm/kvm_main.c: KVM as a subscriber to MMU notifiers, and the retry protocol of faults."""

from __future__ import annotations

from mmuwitness.model.kvm.kvm_host import (
    GONE,
    INVALID,
    KvmGfnRange,
    KvmHvaRange,
)
from mmuwitness.model.kvm.memslots import (
    hits_memslot,
    kvm_memslots,
    memslot_base,
    memslot_state,
)
from mmuwitness.model.kvm.pfncache import gfn_to_pfn_cache_invalidate_start
from mmuwitness.model.lib.srcutree import srcu_read_lock, srcu_read_unlock
from mmuwitness.model.mm.gup import get_user_page_fast_only, get_user_pages_unlocked
from mmuwitness.model.mm.mm_types import Pte, is_zero_page, put_page
from mmuwitness.model.mm.pfnmap import follow_pte, page_ref_dec_and_free
from mmuwitness.model.primitives import (
    atomic,
    choose,
    cover,
    feature,
    lock,
    might_sleep,
    read_lock,
    spin_lock,
    trace,
    unlock,
    warn_on,
    write_lock,
)

CHANGES = "change_pte changes a present SPTE"
INSTALLS_READ_ONLY = "change_pte installs a read-only SPTE"
INSTALLS_WRITABLE = "change_pte installs a writable SPTE"
ZAPS = "change_pte zaps a present SPTE"
FLUSHES = "change_pte flushes remote TLBs"
IN_INVALID_SLOT = "change_pte is handled in a memslot that is being deleted"
WALKS_FREED = "a walk of the secondary MMU goes through tables that are freed"
NOT_BRACKETED = "WARN_ON in kvm_mmu_notifier_change_pte()"


def kvm_flush_remote_tlbs(kvm):
    """The request is sent and waited for: no vCPU runs on with an old entry.  Only what was dirty
    before is clean then: not everybody who flushes holds mmu_lock."""
    if kvm.delays_flushes:
        dirty_count = kvm.tlbs_dirty_count.snapshot()
    with atomic("KVM_REQUEST_WAIT: returns once every vCPU has left the guest and will flush"):
        kvm.arch.flush_remote_tlbs(kvm)
    if kvm.delays_flushes:
        with atomic("cmpxchg; a plain store in v3.15"):
            if kvm.tlbs_dirty_count == dirty_count or not feature.x86_tlbs_dirty_cmpxchg:
                kvm.tlbs_dirty = False


def rwlock_needbreak(kvm):
    """include/linux/spinlock.h: somebody waits for mmu_lock, or for the CPU."""
    return choose(2) == 1


def cond_resched_rwlock_write(kvm):
    """kernel/sched/core.c: mmu_lock is dropped and taken again."""
    unlock(kvm.mmu_lock)
    might_sleep()
    lock(kvm.mmu_lock)


def retries_by_range():
    """Faults ask whether their own address is in an open window, not whether any is open."""
    return feature.range_retry_hva or feature.range_retry_gfn


def kvm_mmu_invalidate_begin(kvm, range):
    """mmu_lock is held.  Faults see the count from here on."""
    kvm.mmu_invalidate_in_progress += 1
    kvm.unbumped += 1
    if feature.range_add_per_slot:
        if kvm.mmu_invalidate_in_progress == 1 and retries_by_range():
            kvm.mmu_invalidate_range_start = kvm.range_max
            kvm.mmu_invalidate_range_end = 0
    elif retries_by_range():
        kvm_mmu_invalidate_range_add(kvm, range.start, range.end)


def kvm_mmu_invalidate_range_add(kvm, start, end):
    """The range of all open windows is their hull; it never shrinks until the count is 0."""
    if kvm.mmu_invalidate_in_progress == 1 and not feature.range_add_per_slot:
        kvm.mmu_invalidate_range_start = start
        kvm.mmu_invalidate_range_end = end
    else:
        kvm.mmu_invalidate_range_start = min(kvm.mmu_invalidate_range_start, start)
        kvm.mmu_invalidate_range_end = max(kvm.mmu_invalidate_range_end, end)


def kvm_mmu_invalidate_end(kvm, range):
    """mmu_lock is held.  The sequence first, then the count (smp_wmb between them pairs with the
    smp_rmb in mmu_invalidate_retry): a fault that reads the count as 0 sees the new sequence.  It
    makes a difference to those that read without mmu_lock: see arch.powerpc_hpt."""
    kvm.mmu_invalidate_seq.bump()
    kvm.unbumped -= 1
    kvm.mmu_invalidate_in_progress -= 1
    if retries_by_range() and kvm.mmu_invalidate_in_progress == 0:
        # nobody reads the range while the count is 0; forgotten, so that states meet again
        kvm.mmu_invalidate_range_start = 0
        kvm.mmu_invalidate_range_end = 0


def kvm_mmu_change_pte_begin(kvm, range):
    """Until commit c13fda237f08 ("KVM: Assert that notifier count is elevated in .change_pte()")
    in v5.13 the callback bumped the sequence itself."""
    if feature.change_pte_bumps_seq:
        kvm.mmu_invalidate_seq.bump()


def __kvm_handle_hva_range(kvm, range):
    """Calls the handler for the part of every memslot that the range hits, under mmu_lock."""
    idx = srcu_read_lock(kvm)
    flush = kvm_lock_and_handle(kvm, range)
    if range.flush_on_ret and flush and not feature.flush_before_unlock:
        # Until commit 565f3be21746 ("KVM: mmu_notifier: Flush TLBs before releasing mmu_lock")
        # in v3.4
        kvm_flush_remote_tlbs(kvm)
    srcu_read_unlock(kvm, idx)


def kvm_lock_and_handle(kvm, range):
    """Kernels that elide the lock take it at the first memslot that is hit; nothing is touched
    before, so it is asked first whether there will be one.  Others count the window, and look at
    the memslots then: a fault that does not see the count may be in any that they look at."""
    flush = False
    if range.elides_lock:
        slots = kvm_memslots(kvm)
        if hits_memslot(kvm, slots, range):
            with write_lock(kvm.mmu_lock):
                range.on_lock(kvm, range)
                flush = kvm_handle_memslots(kvm, slots, range)
    else:
        with write_lock(kvm.mmu_lock):
            range.on_lock(kvm, range)
            flush = kvm_handle_memslots(kvm, kvm_memslots(kvm), range)
    return flush


def kvm_handle_memslots(kvm, slots, range):
    """mmu_lock is held, unless the walk is lockless.  True: a handler says so, be it that there is
    something to flush or that a page is young."""
    flush = False
    for slot in kvm.memslots:
        flush = kvm_handle_memslot(kvm, slots, slot, range) or flush
    if kvm.delays_flushes and range.flush_on_ret:
        flush = flush or kvm.tlbs_dirty
    if range.flush_on_ret and flush and feature.flush_before_unlock:
        kvm_flush_remote_tlbs(kvm)
    return flush


def kvm_handle_memslot(kvm, slots, slot, range):
    """The handler's call for one memslot: what of the range lies in it, as gfns."""
    if range.handler is None or memslot_state(slots, slot) == GONE:
        return False
    hva_start = max(range.start, slot.userspace_addr)
    hva_end = min(range.end, slot.userspace_addr + slot.npages)
    if hva_start >= hva_end:
        return False
    offset = memslot_base(kvm, slots, slot) - slot.userspace_addr
    gfn_range = KvmGfnRange(
        slot=slot,
        start=hva_start + offset,
        end=hva_end + offset,
        invalid=memslot_state(slots, slot) == INVALID,
        arg_pte=range.pte,
        may_block=range.may_block,
    )
    return range.handler(kvm, gfn_range)


def kvm_mmu_unmap_gfn_range(kvm, range):
    if feature.range_add_per_slot and retries_by_range():
        kvm_mmu_invalidate_range_add(kvm, range.start, range.end)
    return kvm.arch.kvm_unmap_gfn_range(kvm, range)


def kvm_mmu_notifier_invalidate_range_start(kvm, start, end, blockable):
    """KVM never refuses."""
    trace("kvm_unmap_hva_range", start, end)
    if feature.mn_active_invalidate_count:
        with spin_lock(kvm.mn_invalidate_lock):
            kvm.mn_active_invalidate_count += 1
    gfn_to_pfn_cache_invalidate_start(kvm, start, end)
    range = KvmHvaRange(
        start=start,
        end=end,
        pte=Pte(),
        on_lock=kvm_mmu_invalidate_begin,
        handler=kvm_mmu_unmap_gfn_range,
        flush_on_ret=True,
        elides_lock=feature.invalidate_elides_lock,
        may_block=blockable,
    )
    __kvm_handle_hva_range(kvm, range)
    return True


def kvm_mmu_notifier_invalidate_range_end(kvm, start, end):
    range = KvmHvaRange(
        start=start,
        end=end,
        pte=Pte(),
        on_lock=kvm_mmu_invalidate_end,
        handler=None,
        flush_on_ret=False,
        elides_lock=feature.invalidate_elides_lock,
        may_block=False,
    )
    __kvm_handle_hva_range(kvm, range)
    if feature.mn_active_invalidate_count:
        with spin_lock(kvm.mn_invalidate_lock):
            if kvm.gpc_list and feature.gpc_invalidate_seq:
                # before the count: smp_wmb, pairs with the smp_rmb of mmu_notifier_retry_cache()
                kvm.gpc_invalidate_seq.bump()
            kvm.mn_active_invalidate_count -= 1


def kvm_mmu_notifier_release(kvm):
    """kvm_flush_shadow_all(): no vCPU runs, and none will."""
    idx = srcu_read_lock(kvm)
    if kvm.frees_tables:
        kvm.arch.kvm_arch_flush_shadow_all(kvm)
    else:
        for slot in kvm.memslots:
            kvm.arch.kvm_arch_flush_shadow_memslot(kvm, slot)
    srcu_read_unlock(kvm, idx)


def kvm_mmu_invalidate_page_begin(kvm, range):
    kvm.mmu_invalidate_seq.bump()


def kvm_mmu_notifier_invalidate_page(kvm, addr):
    """Until commit 5f32b265400d ("mm/mmu_notifier: kill invalidate_page") in v4.13.  No window:
    the sequence alone makes faults retry, so it is bumped before the SPTE goes."""
    range = KvmHvaRange(
        start=addr,
        end=addr + 1,
        pte=Pte(),
        on_lock=kvm_mmu_invalidate_page_begin,
        handler=kvm_mmu_unmap_gfn_range,
        flush_on_ret=True,
        elides_lock=False,
        may_block=False,
    )
    __kvm_handle_hva_range(kvm, range)


def kvm_change_spte_gfn(kvm, range):
    """Since commit 2230f9e1171a ("KVM: Avoid illegal stage2 mapping on invalid memory slot") in
    v6.4 a memslot that is being deleted is left alone."""
    if range.invalid:
        if feature.change_pte_skips_invalid_slot:
            return False
        cover(IN_INVALID_SLOT)
    if kvm.hptes:
        # faults map meanwhile, without mmu_lock: what the handler did is known to itself alone
        return kvm.arch.kvm_set_spte_gfn(kvm, range)
    old = kvm.spte[range.start]
    flush = kvm.arch.kvm_set_spte_gfn(kvm, range)
    observe_change_pte(kvm, old, kvm.spte[range.start], flush)
    return flush


def observe_change_pte(kvm, old, new, flush):
    """What the architecture's handler did, seen from outside; the claims ask for these marks."""
    if new.present and not old.present:
        if new.write:
            cover(INSTALLS_WRITABLE)
        else:
            cover(INSTALLS_READ_ONLY)
    elif old.present and not new.present:
        cover(ZAPS)
    elif old != new:
        cover(CHANGES)
    if flush:
        cover(FLUSHES)
    if new.present and old != new and feature.change_pte_bracketed:
        if kvm.mmu_invalidate_in_progress != 1:
            kvm.crowded = True


def kvm_mmu_notifier_change_pte(kvm, addr, pte):
    """ptl is held, so no fault of the primary MMU runs; the SPTE may get the new pfn at once."""
    trace("kvm_set_spte_hva", addr)
    if feature.change_pte_warns_unbracketed:
        if feature.mn_active_invalidate_count:
            warn_on(kvm.mn_active_invalidate_count == 0)
        else:
            warn_on(kvm.mmu_invalidate_in_progress == 0)
    if feature.change_pte_returns_early and kvm.mmu_invalidate_in_progress == 0:
        # our own window hit no memslot, so neither does the address
        return
    range = KvmHvaRange(
        start=addr,
        end=addr + 1,
        pte=pte,
        on_lock=kvm_mmu_change_pte_begin,
        handler=kvm_change_spte_gfn,
        flush_on_ret=True,
        elides_lock=feature.change_pte_elides_lock,
        may_block=False,
    )
    __kvm_handle_hva_range(kvm, range)


def mmu_invalidate_retry(kvm, mmu_seq):
    """True: the fault's pfn may be stale.  The count is read first (see kvm_mmu_invalidate_end)."""
    if kvm.mmu_invalidate_in_progress != 0:
        return True
    return kvm.mmu_invalidate_seq != mmu_seq


def mmu_invalidate_retry_gfn(kvm, mmu_seq, gfn):
    """Only windows over this gfn count while they are open; any that closed since, anywhere.
    Until v6.8 the range is one of hvas, and so is what is asked for."""
    if kvm.mmu_invalidate_in_progress != 0:
        if kvm.mmu_invalidate_range_start <= gfn and gfn < kvm.mmu_invalidate_range_end:
            return True
    return kvm.mmu_invalidate_seq != mmu_seq


def hva_to_pfn(kvm, fault, writable):
    """The referenced page behind a gfn in fault.page, None if there is none now.

    A fast write lookup also serves a read fault (`writable`): what it finds may be mapped
    writable.  The slow path asks for what the guest did, then tries for more."""
    addr = fault.hva
    if fault.write or writable:
        fault.page = get_user_page_fast_only(kvm.mm, addr, True)
        fault.map_writable = fault.page is not None
    if fault.page is None:
        fault.page = get_user_pages_unlocked(kvm.mm, addr, fault.write)
        fault.map_writable = fault.write
    if kvm.mm.maps_pfns and fault.page is None:
        hva_to_pfn_remapped(kvm, fault, addr)


def hva_to_pfn_remapped(kvm, fault, addr):
    """Since commit add6a0cd1c5b ("KVM: MMU: try to fix up page faults before giving up") in v4.8 a
    driver's page is looked up by its PTE; before, it had to be reserved memory.  (Since v6.13 it is
    not referenced at all; here it is as it was before.)"""
    if feature.remapped_follows_pfn:
        with read_lock(kvm.mm.mmap_lock):
            pte = follow_pte(kvm.mm, addr)
            if pte.special and (pte.write or not fault.write) and kvm_try_get_pfn(pte.page):
                fault.page = pte.page
                fault.map_writable = pte.write


def kvm_try_get_pfn(page):
    """All callers put what they get.  Since commit f8be156be163 ("KVM: do not allow mapping valid
    but non-reference-counted pages") in v5.13 a page that nobody counts is refused."""
    with atomic("page_ref_inc, page_ref_add_unless"):
        if feature.uncounted_pfn_refused and page.refcount == 0:
            return False
        page.refcount += 1
    return True


def kvm_set_pfn_dirty(kvm, page):
    """The page is referenced, or a window over it is open.  (Asked where somebody cares.)"""
    if kvm.mm.frees_lazily:
        page.dirty = True


def kvm_release_pfn_clean(kvm, page):
    """Until commit 7df003c85218 ("KVM: fix overflow of zero page refcount with ksm running") in
    v5.6 nothing was put that is reserved: what get_user_pages had taken of the zero page stayed."""
    if kvm.mm.maps_pfns:
        page_ref_dec_and_free(page)
    elif feature.zero_page_is_put or not is_zero_page(kvm.mm, page):
        put_page(page)
