"""virt/kvm/kvm_main.c: memory attributes: which gfns are private."""

from __future__ import annotations

from mmuwitness.model.kvm.kvm_host import KvmGfnRange
from mmuwitness.model.kvm.kvm_main import (
    kvm_flush_remote_tlbs,
    kvm_mmu_invalidate_begin,
    kvm_mmu_invalidate_end,
    kvm_mmu_unmap_gfn_range,
)
from mmuwitness.model.primitives import choose, write_lock


def kvm_mem_is_private(kvm, gfn):
    return kvm.gmem is not None and kvm.mem_attr_array[gfn]


def kvm_pre_set_memory_attributes(kvm, range):
    """The window is KVM's own: it is counted for faults, and not in mn_active_invalidate_count."""
    kvm.mm.invalidating += 1
    with write_lock(kvm.mmu_lock):
        kvm_mmu_invalidate_begin(kvm, range)
        if kvm_mmu_unmap_gfn_range(kvm, range):
            kvm_flush_remote_tlbs(kvm)


def kvm_post_set_memory_attributes(kvm, range):
    with write_lock(kvm.mmu_lock):
        kvm_mmu_invalidate_end(kvm, range)
    kvm.mm.invalidating -= 1


def kvm_vm_set_mem_attributes(kvm, gfn, private):
    """What was mapped with the old attribute is zapped before the new one is there; what was looked
    up with it is not mapped any more once that is."""
    with write_lock(kvm.slots_lock):
        if kvm.mem_attr_array[gfn] != private:
            range = KvmGfnRange(slot=kvm.memslots[0], may_block=True, start=gfn, end=gfn + 1)
            kvm_pre_set_memory_attributes(kvm, range)
            kvm.mem_attr_array[gfn] = private
            kvm_post_set_memory_attributes(kvm, range)


def kvm_vm_ioctl_set_mem_attributes(kvm):
    """Any gfn, private or shared, any number of times; refused where there are no attributes."""
    while kvm.gmem is not None:
        gfn = choose(len(kvm.gfns))
        kvm_vm_set_mem_attributes(kvm, gfn, choose(2) == 1)
