"""virt/kvm/kvm_main.c: memslots, the set of them that is active, and how it changes."""

from __future__ import annotations

from mmuwitness.model.kvm.kvm_host import GONE, INVALID, VALID
from mmuwitness.model.kvm.srcu import synchronize_srcu
from mmuwitness.model.primitives import feature, lock, unlock, wait_until, write_lock

KVM_MR_CREATE, KVM_MR_DELETE = 0, 1


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


def gfn_to_hva(kvm, gfn):
    """The memslots of the scenarios are next to each other, from gfn 0."""
    return gfn + kvm.memslots[0].userspace_addr


def hits_memslot(kvm, slots, range):
    """memslots_overlapping(): some of the range is guest memory.  A memslot that is being deleted
    is still there."""
    hit = False
    for slot in kvm.memslots:
        if range.start < slot.userspace_addr + slot.npages and slot.userspace_addr < range.end:
            hit = hit or memslot_state(slots, slot) != GONE
    return hit


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
