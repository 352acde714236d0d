"""virt/kvm/kvm_main.c: memslots, the set of them that is active, and how it changes."""

from __future__ import annotations

from mmuwitness.model.kvm.kvm_host import (
    GONE,
    INVALID,
    KVM_HVA_ERR_BAD,
    MOVED,
    VALID,
)
from mmuwitness.model.lib.srcutree import synchronize_srcu
from mmuwitness.model.primitives import feature, lock, unlock, wait_until, write_lock

KVM_MR_CREATE, KVM_MR_DELETE, KVM_MR_MOVE, KVM_MR_FLAGS_ONLY = 0, 1, 2, 3


def kvm_memslots(kvm):
    """The set of memslots that is active now, read once: what a reader goes on with, until it
    leaves kvm->srcu."""
    return kvm.active_memslots if kvm.updates_memslots else VALID


def memslot_state(slots, slot):
    """VALID, INVALID or GONE in a set of memslots."""
    return slots & (INVALID | GONE) if slot.id == 0 else VALID


def memslot_base(kvm, slots, slot):
    """base_gfn in a set of memslots: the first memslot may move."""
    if kvm.moved_base_gfn != 0 and slot.id == 0 and (slots & MOVED) != 0:
        return kvm.moved_base_gfn
    return slot.base_gfn


def in_memslot(kvm, slots, slot, gfn):
    """The last memslot need not be asked where every gfn is in one."""
    base_gfn = memslot_base(kvm, slots, slot)
    return slot is kvm.last_memslot or (base_gfn <= gfn and gfn < base_gfn + slot.npages)


def gfn_to_memslot(kvm, slots, gfn):
    """The state of the memslot of a gfn; GONE, too, where there is none."""
    for slot in kvm.memslots:
        if in_memslot(kvm, slots, slot, gfn):
            return memslot_state(slots, slot)
    return GONE


def gfn_to_hva_memslots(kvm, slots, gfn):
    """A memslot that is gone is asked for what it was: nobody goes there by it but claims."""
    for slot in kvm.memslots:
        if in_memslot(kvm, slots, slot, gfn):
            return gfn - memslot_base(kvm, slots, slot) + slot.userspace_addr
    return KVM_HVA_ERR_BAD


def kvm_is_error_hva(kvm, hva):
    return kvm.last_memslot is None and hva == KVM_HVA_ERR_BAD


def gfn_to_hva(kvm, gfn):
    """By the memslots that are active now."""
    return gfn_to_hva_memslots(kvm, kvm_memslots(kvm) if kvm.moved_base_gfn != 0 else VALID, gfn)


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
    kvm_swap_active_memslots(kvm, kvm_memslots(kvm) | INVALID)
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


def kvm_move_memslot(kvm):
    """To its other base gfn.  As a deletion and a creation, but it is never gone: since commit
    12d6e7538e2d ("KVM: perform an invalid memslot step for gpa base change") in v3.7."""
    new = kvm_memslots(kvm) ^ MOVED
    if feature.memslot_move_invalidates:
        kvm_invalidate_memslot(kvm)
        kvm_swap_active_memslots(kvm, new)
    elif feature.memslots_srcu:
        kvm_swap_active_memslots(kvm, new)
        if feature.memslot_move_flushes:
            kvm.arch.kvm_arch_flush_shadow_all(kvm)
    else:
        with write_lock(kvm.mmu_lock):
            kvm.active_memslots = new


def kvm_update_flags_memslot(kvm):
    """Nothing is zapped: windows and faults go on with either set, of which this model knows no
    flags."""
    new = kvm_memslots(kvm)
    if feature.memslots_srcu:
        kvm_swap_active_memslots(kvm, new)
    else:
        with write_lock(kvm.mmu_lock):
            kvm.active_memslots = new


def kvm_set_memory_region(kvm, change):
    """slots_lock is a mutex since v2.6.34."""
    with write_lock(kvm.slots_lock):
        if change == KVM_MR_DELETE:
            kvm_delete_memslot(kvm)
        elif change == KVM_MR_CREATE:
            kvm_create_memslot(kvm)
        elif change == KVM_MR_MOVE:
            kvm_move_memslot(kvm)
        else:
            kvm_update_flags_memslot(kvm)


def kvm_vm_ioctl(kvm, change, back):
    """KVM_SET_USER_MEMORY_REGION: the first memslot is changed, and changed back, any number of
    times."""
    while True:
        kvm_set_memory_region(kvm, change)
        kvm_set_memory_region(kvm, back)
