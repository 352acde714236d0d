"""virt/kvm/kvm_main.c: the dirty log of a memslot, and a VMM that reads it (live migration).

A page of a logged memslot is in the dirty bitmap, or its SPTE is read-only: whoever makes one
writable puts the page into the bitmap, and whoever takes the page out of the bitmap makes its SPTE
read-only, and flushes before the VMM gets to know.
"""

from __future__ import annotations

from mmuwitness.model.kvm.kvm_main import kvm_flush_remote_tlbs
from mmuwitness.model.kvm.memslots import gfn_to_hva
from mmuwitness.model.lib.srcutree import synchronize_srcu
from mmuwitness.model.primitives import atomic, feature, spin_lock, write_lock


def mark_page_dirty_in_slot(kvm, gfn, logged):
    """logged: the memslot has a dirty bitmap, as the caller found it."""
    if logged:
        kvm.dirty_bitmap[gfn] = True


def kvm_mmu_slot_apply_flags(kvm, log):
    """KVM_SET_USER_MEMORY_REGION, with KVM_MEM_LOG_DIRTY_PAGES or without.  Faults that found the
    memslot without the flag are waited for: what they map is write-protected as well.  (The swap
    waits for open windows, too; nothing here depends on that.)"""
    with write_lock(kvm.slots_lock):
        kvm.log_dirty_pages = log
        if feature.memslots_srcu:
            synchronize_srcu(kvm)
        if log:
            kvm_mmu_slot_remove_write_access(kvm)


def kvm_mmu_slot_remove_write_access(kvm):
    """TLBs are flushed if an SPTE changed, or in any case since commit b64d740ea7dd ("kvm: x86:
    mmu: Always flush TLBs when enabling dirty logging") in v6.0."""
    flush = feature.dirty_log_always_flushes
    with write_lock(kvm.mmu_lock):
        for gfn in kvm.gfns:
            flush = kvm.arch.spte_write_protect(kvm, gfn, False) or flush
        if flush and feature.dirty_log_flush_under_lock:
            kvm_flush_remote_tlbs(kvm)
    if flush and not feature.dirty_log_flush_under_lock:
        kvm_flush_remote_tlbs(kvm)


def kvm_get_dirty_log_protect(kvm):
    """Since commit 198c74f43f0f ("KVM: MMU: flush tlb out of mmu lock when write-protect the
    sptes") in v3.16 the flush is after mmu_lock: before the VMM gets the log is early enough."""
    flush = False
    with write_lock(kvm.mmu_lock):
        for gfn in kvm.gfns:
            if take_dirty_bit(kvm, gfn):
                kvm.arch.spte_write_protect(kvm, gfn, False)
                flush = True
        if flush and feature.dirty_log_flush_under_lock:
            kvm_flush_remote_tlbs(kvm)
    if flush and not feature.dirty_log_flush_under_lock:
        kvm_flush_remote_tlbs(kvm)


def take_dirty_bit(kvm, gfn):
    """Out of the dirty bitmap, into what the VMM gets."""
    with atomic("xchg: vCPUs set bits without mmu_lock"):
        dirty = kvm.dirty_bitmap[gfn]
        kvm.dirty_bitmap[gfn] = False
        if dirty:
            kvm.dirty_log[gfn] = True
    return dirty


def swap_dirty_bitmap(kvm):
    """The memslot gets an empty one; who found the old one is waited for."""
    for gfn in kvm.gfns:
        take_dirty_bit(kvm, gfn)
    if feature.memslots_srcu:
        synchronize_srcu(kvm)


def kvm_vm_ioctl_get_dirty_log(kvm):
    """KVM_GET_DIRTY_LOG.  Until commit 60c34612b707 ("KVM: Switch to srcu-less get_dirty_log()") in
    v3.5 the whole bitmap was swapped, as memslots are; write protection came first until commit
    edde99ce0529 ("KVM: Write protect memory after slot swap") in v2.6.37."""
    with write_lock(kvm.slots_lock):
        if feature.dirty_log_without_srcu:
            kvm_get_dirty_log_protect(kvm)
        elif feature.dirty_log_protects_after_swap:
            swap_dirty_bitmap(kvm)
            kvm_mmu_slot_remove_write_access(kvm)
        else:
            kvm_mmu_slot_remove_write_access(kvm)
            swap_dirty_bitmap(kvm)


def send_page(kvm, gfn):
    """What the VMM reads there now goes to the destination."""
    mm = kvm.mm
    with spin_lock(mm.ptl):
        pte = mm.pte[gfn_to_hva(kvm, gfn)]
        if pte.present:
            kvm.sent[gfn] = 1 + pte.page.content


def migrate_guest(kvm):
    """All pages are sent once, then, any number of times, those that the log has."""
    kvm_mmu_slot_apply_flags(kvm, True)
    for gfn in kvm.gfns:
        send_page(kvm, gfn)
    while True:
        kvm_vm_ioctl_get_dirty_log(kvm)
        for gfn in kvm.gfns:
            if kvm.dirty_log[gfn]:
                send_page(kvm, gfn)
                kvm.dirty_log[gfn] = False
