"""virt/kvm/kvm_main.c: KVM as a subscriber to MMU notifiers, and the retry protocol of faults."""

from __future__ import annotations

from mmuwitness.model.kvm.kvm_host import (
    GONE,
    INVALID,
    VALID,
    KvmGfnRange,
    KvmHvaRange,
    KvmPageFault,
)
from mmuwitness.model.kvm.srcu import srcu_read_lock, srcu_read_unlock, synchronize_srcu
from mmuwitness.model.mm.gup import get_user_page_fast_only, get_user_pages_unlocked
from mmuwitness.model.mm.mm_types import Pte, load, store
from mmuwitness.model.primitives import (
    atomic,
    choose,
    cover,
    feature,
    lock,
    read_lock,
    spin_lock,
    trace,
    unlock,
    wait_until,
    warn_on,
    write_lock,
)

CHANGES = "change_pte changes a present SPTE"
INSTALLS_READ_ONLY = "change_pte installs a read-only SPTE"
INSTALLS_WRITABLE = "change_pte installs a writable SPTE"
ZAPS = "change_pte zaps a present SPTE"
FLUSHES = "change_pte flushes remote TLBs"
IN_INVALID_SLOT = "change_pte is handled in a memslot that is being deleted"
NOT_BRACKETED = "WARN_ON in kvm_mmu_notifier_change_pte()"

NO_EXIT, TRANSLATION_FAULT, PERMISSION_FAULT = 0, 1, 2
KVM_MR_CREATE, KVM_MR_DELETE = 0, 1


def kvm_flush_remote_tlbs(kvm):
    """The request is sent and waited for: no vCPU runs on with an old entry."""
    with atomic("KVM_REQUEST_WAIT: returns once every vCPU has left the guest and will flush"):
        kvm.arch.flush_remote_tlbs(kvm)


def kvm_memslots(kvm):
    """The set of memslots that is active now, read once: what a reader goes on with, until it
    leaves kvm->srcu."""
    return kvm.active_memslots if kvm.updates_memslots else VALID


def memslot_state(slots, slot):
    """VALID, INVALID or GONE in a set of memslots."""
    return slots if slot.id == 0 else VALID


def gfn_to_memslot(kvm, slots, gfn):
    """The state of the memslot of a gfn.  (Every gfn has one at the start.)"""
    slot = kvm.memslots[0]
    if slot.base_gfn <= gfn and gfn < slot.base_gfn + slot.npages:
        return memslot_state(slots, slot)
    return VALID


def retries_by_range():
    """Faults ask whether their own address is in an open window, not whether any is open."""
    return feature.range_retry_hva or feature.range_retry_gfn


def kvm_mmu_invalidate_begin(kvm, range):
    """mmu_lock is held.  Faults see the count from here on."""
    kvm.mmu_invalidate_in_progress += 1
    kvm.unbumped += 1
    if feature.range_add_per_slot:
        if kvm.mmu_invalidate_in_progress == 1 and retries_by_range():
            kvm.mmu_invalidate_range_start = kvm.nr_addresses
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
    smp_rmb in mmu_invalidate_retry): a fault that reads the count as 0 sees the new sequence."""
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


def hits_memslot(kvm, slots, range):
    """memslots_overlapping(): some of the range is guest memory.  A memslot that is being deleted
    is still there."""
    hit = False
    for slot in kvm.memslots:
        if range.start < slot.userspace_addr + slot.npages and slot.userspace_addr < range.end:
            hit = hit or memslot_state(slots, slot) != GONE
    return hit


def __kvm_handle_hva_range(kvm, range):
    """Calls the handler for the part of every memslot that the range hits, under mmu_lock.

    Kernels that elide the lock take it at the first memslot that is hit; nothing is touched
    before, so it is asked first whether there will be one."""
    flush = False
    idx = srcu_read_lock(kvm)
    if range.elides_lock:
        slots = kvm_memslots(kvm)
        if hits_memslot(kvm, slots, range):
            with write_lock(kvm.mmu_lock):
                flush = kvm_handle_memslots(kvm, slots, range)
    else:
        with write_lock(kvm.mmu_lock):
            flush = kvm_handle_memslots(kvm, kvm_memslots(kvm), range)
    if range.flush_on_ret and flush and not feature.flush_before_unlock:
        # Until commit 565f3be21746 ("KVM: mmu_notifier: Flush TLBs before releasing mmu_lock")
        # in v3.4
        kvm_flush_remote_tlbs(kvm)
    srcu_read_unlock(kvm, idx)


def kvm_handle_memslots(kvm, slots, range):
    """mmu_lock is held.  True: something is left to flush."""
    flush = False
    range.on_lock(kvm, range)
    for slot in kvm.memslots:
        flush = kvm_handle_memslot(kvm, slots, slot, range) or flush
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
    offset = slot.base_gfn - slot.userspace_addr
    gfn_range = KvmGfnRange(
        slot=slot,
        start=hva_start + offset,
        end=hva_end + offset,
        invalid=memslot_state(slots, slot) == INVALID,
        arg_pte=range.pte,
    )
    return range.handler(kvm, gfn_range)


def kvm_mmu_unmap_gfn_range(kvm, range):
    if feature.range_add_per_slot and retries_by_range():
        kvm_mmu_invalidate_range_add(kvm, range.start, range.end)
    return kvm.arch.kvm_unmap_gfn_range(kvm, range)


def kvm_mmu_notifier_invalidate_range_start(kvm, start, end):
    trace("kvm_unmap_hva_range", start, end)
    if feature.mn_active_invalidate_count:
        with spin_lock(kvm.mn_invalidate_lock):
            kvm.mn_active_invalidate_count += 1
    range = KvmHvaRange(
        start=start,
        end=end,
        pte=Pte(),
        on_lock=kvm_mmu_invalidate_begin,
        handler=kvm_mmu_unmap_gfn_range,
        flush_on_ret=True,
        elides_lock=feature.invalidate_elides_lock,
    )
    __kvm_handle_hva_range(kvm, range)


def kvm_mmu_notifier_invalidate_range_end(kvm, start, end):
    range = KvmHvaRange(
        start=start,
        end=end,
        pte=Pte(),
        on_lock=kvm_mmu_invalidate_end,
        handler=None,
        flush_on_ret=False,
        elides_lock=feature.invalidate_elides_lock,
    )
    __kvm_handle_hva_range(kvm, range)
    if feature.mn_active_invalidate_count:
        with spin_lock(kvm.mn_invalidate_lock):
            kvm.mn_active_invalidate_count -= 1


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
    )
    __kvm_handle_hva_range(kvm, range)


def kvm_change_spte_gfn(kvm, range):
    """Since commit 2230f9e1171a ("KVM: Avoid illegal stage2 mapping on invalid memory slot") in
    v6.4 a memslot that is being deleted is left alone."""
    if range.invalid:
        if feature.change_pte_skips_invalid_slot:
            return False
        cover(IN_INVALID_SLOT)
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
    )
    __kvm_handle_hva_range(kvm, range)


def mmu_invalidate_retry(kvm, mmu_seq):
    """True: the fault's pfn may be stale.  The count is read first (see kvm_mmu_invalidate_end)."""
    if kvm.mmu_invalidate_in_progress != 0:
        return True
    return kvm.mmu_invalidate_seq != mmu_seq


def mmu_invalidate_retry_gfn(kvm, mmu_seq, gfn):
    """Only windows over this gfn count while they are open; any that closed since, anywhere."""
    if kvm.mmu_invalidate_in_progress != 0:
        if kvm.mmu_invalidate_range_start <= gfn and gfn < kvm.mmu_invalidate_range_end:
            return True
    return kvm.mmu_invalidate_seq != mmu_seq


def hva_to_pfn(kvm, fault, writable):
    """The referenced page behind a gfn in fault.page, None if there is none now.

    A fast write lookup also serves a read fault (`writable`): what it finds may be mapped
    writable.  The slow path asks for what the guest did, then tries for more."""
    addr = gfn_to_hva(kvm, fault.gfn)
    if fault.write or writable:
        fault.page = get_user_page_fast_only(kvm.mm, addr, True)
        fault.map_writable = fault.page is not None
    if fault.page is None:
        fault.page = get_user_pages_unlocked(kvm.mm, addr, fault.write)
        fault.map_writable = fault.write


def gfn_to_hva(kvm, gfn):
    """The memslots of the scenarios are next to each other, from gfn 0."""
    return gfn + kvm.memslots[0].userspace_addr


def guest_access(vcpu, gfn, write):
    """One guest instruction: a TLB hit, or a hardware walk that fills the TLB; else an exit."""
    kvm = vcpu.kvm
    with atomic("a TLB hit is one access, and the walker reads an SPTE whole"):
        entry = vcpu.tlb[gfn]
        if entry.present and (entry.write or not write):
            if write:
                store(kvm.mm, entry.page, gfn_to_hva(kvm, gfn))
            else:
                load(kvm.mm, entry.page, gfn_to_hva(kvm, gfn))
            return NO_EXIT
        spte = kvm.spte[gfn]
        if not spte.present:
            return TRANSLATION_FAULT
        if write and not spte.write:
            return PERMISSION_FAULT
        vcpu.tlb[gfn] = spte
    return NO_EXIT


def vcpu_run(vcpu):
    """A guest that reads the first `read_gfns` and writes the first `written_gfns`, for ever.
    After an exit it may do something else first (an interrupt): it need not repeat the access."""
    kvm = vcpu.kvm
    while True:
        access = choose(kvm.read_gfns + kvm.written_gfns)
        write = access >= kvm.read_gfns
        gfn = access - kvm.read_gfns if write else access
        exit_reason = guest_access(vcpu, gfn, write)
        if exit_reason != NO_EXIT:
            trace("kvm_page_fault", gfn)
            permission = exit_reason == PERMISSION_FAULT
            fault = KvmPageFault(gfn=gfn, write=write, permission=permission)
            handle_exit(vcpu, fault)


def handle_exit(vcpu, fault):
    """A vCPU outside the guest is in kvm->srcu; until commit bc6678a33d9b ("KVM: introduce
    kvm->srcu and convert kvm_set_memory_region to SRCU update") in v2.6.34 it held slots_lock."""
    kvm = vcpu.kvm
    if kvm.updates_memslots and not feature.memslots_srcu:
        with read_lock(kvm.slots_lock):
            handle_guest_fault(vcpu, fault)
    else:
        idx = srcu_read_lock(kvm)
        handle_guest_fault(vcpu, fault)
        srcu_read_unlock(kvm, idx)


def handle_guest_fault(vcpu, fault):
    """A gfn without a memslot is emulated by the VMM, and so is one whose memslot is being deleted
    (KVM_PFN_NOSLOT, an error hva), where that fault is not retried."""
    kvm = vcpu.kvm
    state = gfn_to_memslot(kvm, kvm_memslots(kvm), fault.gfn)
    if state == VALID:
        kvm.arch.page_fault(vcpu, fault)
    elif state == GONE or not feature.fault_retries_invalid_slot:
        trace("kvm_mmio", fault.gfn)


def kvm_swap_active_memslots(kvm, slots):
    """Since commit 52ac8b358b0c ("KVM: Block memslot updates across range_start() and
    range_end()") in v5.15 the memslots that start() sees are those that end() sees."""
    if feature.mn_active_invalidate_count:
        lock(kvm.mn_invalidate_lock)
        while kvm.mn_active_invalidate_count != 0:
            # rcuwait: woken by the last end()
            unlock(kvm.mn_invalidate_lock)
            wait_until(kvm.mn_active_invalidate_count == 0)
            lock(kvm.mn_invalidate_lock)
        kvm.active_memslots = slots
        unlock(kvm.mn_invalidate_lock)
    else:
        kvm.active_memslots = slots
    synchronize_srcu(kvm)


def kvm_invalidate_memslot(kvm):
    """No fault maps anything in the memslot from here on, and what they had mapped is zapped.
    Windows still hit it: what they count and zap is as before."""
    kvm_swap_active_memslots(kvm, INVALID)
    kvm.arch.kvm_arch_flush_shadow_memslot(kvm, kvm.memslots[0])


def kvm_delete_memslot(kvm):
    if feature.memslots_srcu:
        kvm_invalidate_memslot(kvm)
        kvm_swap_active_memslots(kvm, GONE)
    else:
        # slots_lock keeps faults away
        kvm.arch.kvm_arch_flush_shadow_memslot(kvm, kvm.memslots[0])
        with write_lock(kvm.mmu_lock):
            kvm.active_memslots = GONE


def kvm_create_memslot(kvm):
    if feature.memslots_srcu:
        kvm_swap_active_memslots(kvm, VALID)
    else:
        with write_lock(kvm.mmu_lock):
            kvm.active_memslots = VALID


def kvm_set_memory_region(kvm, change):
    """slots_lock is a mutex since v2.6.34."""
    with write_lock(kvm.slots_lock):
        if change == KVM_MR_DELETE:
            kvm_delete_memslot(kvm)
        else:
            kvm_create_memslot(kvm)


def kvm_vm_ioctl(kvm):
    """KVM_SET_USER_MEMORY_REGION: the first memslot is deleted and created again, any number of
    times."""
    while True:
        kvm_set_memory_region(kvm, KVM_MR_DELETE)
        kvm_set_memory_region(kvm, KVM_MR_CREATE)
