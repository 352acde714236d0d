"""Mutants of memslots, of caches and of private memory."""

from __future__ import annotations

from mmuwitness.model.kvm.guest_memfd import (
    kvm_gmem_invalidate_begin,
    kvm_gmem_invalidate_end,
    truncate_inode_page,
)
from mmuwitness.model.kvm.kvm_host import KvmGfnRange
from mmuwitness.model.kvm.kvm_main import kvm_flush_remote_tlbs, kvm_handle_memslot
from mmuwitness.model.kvm.mem_attributes import (
    kvm_post_set_memory_attributes,
    kvm_pre_set_memory_attributes,
)
from mmuwitness.model.primitives import write_lock
from tests.model.mutants import mutant

# Memslots


@mutant("a window stops at the first memslot that it hits", "kvm.kvm_main.kvm_handle_memslots")
def handle_first_memslot(kvm, slots, range):
    range.on_lock(kvm, range)
    flush = kvm_handle_memslot(kvm, slots, kvm.memslots[0], range)
    if range.flush_on_ret and flush:
        kvm_flush_remote_tlbs(kvm)
    return flush


# Caches


@mutant("start() leaves caches alone", "kvm.pfncache.gfn_to_pfn_cache_invalidate_start")
def invalidate_no_cache(kvm, start, end):
    return


@mutant("a refresh looks at the count alone", "kvm.pfncache.mmu_notifier_retry_cache")
def retry_cache_by_count(kvm, mmu_seq):
    return kvm.mn_active_invalidate_count != 0


@mutant("a refresh looks at the sequence alone", "kvm.pfncache.mmu_notifier_retry_cache")
def retry_cache_by_sequence(kvm, mmu_seq):
    return kvm.gpc_invalidate_seq != mmu_seq


# Private memory


@mutant("a gfn is converted without a window", "kvm.mem_attributes.kvm_vm_set_mem_attributes")
def convert_without_window(kvm, gfn, private):
    with write_lock(kvm.slots_lock):
        range = KvmGfnRange(slot=kvm.memslots[0], start=gfn, end=gfn + 1)
        with write_lock(kvm.mmu_lock):
            if kvm.arch.kvm_unmap_gfn_range(kvm, range):
                kvm_flush_remote_tlbs(kvm)
        kvm.mem_attr_array[gfn] = private


@mutant("a gfn is converted after the window", "kvm.mem_attributes.kvm_vm_set_mem_attributes")
def convert_after_window(kvm, gfn, private):
    with write_lock(kvm.slots_lock):
        range = KvmGfnRange(slot=kvm.memslots[0], start=gfn, end=gfn + 1)
        kvm_pre_set_memory_attributes(kvm, range)
        kvm_post_set_memory_attributes(kvm, range)
        kvm.mem_attr_array[gfn] = private


@mutant("a fault takes the attribute as it was", "arch.x86.X86.attribute_changed")
def attribute_trusted(self, kvm, fault):
    return False


@mutant("a hole is punched without a window", "kvm.guest_memfd.kvm_gmem_punch_hole")
def punch_without_window(kvm, gfn):
    truncate_inode_page(kvm, gfn)


@mutant("a hole is punched before the window", "kvm.guest_memfd.kvm_gmem_punch_hole")
def punch_before_window(kvm, gfn):
    truncate_inode_page(kvm, gfn)
    range = KvmGfnRange(slot=kvm.memslots[0], start=gfn, end=gfn + 1)
    kvm_gmem_invalidate_begin(kvm, range)
    kvm_gmem_invalidate_end(kvm, range)


@mutant("a hole is punched after the window", "kvm.guest_memfd.kvm_gmem_punch_hole")
def punch_after_window(kvm, gfn):
    range = KvmGfnRange(slot=kvm.memslots[0], start=gfn, end=gfn + 1)
    kvm_gmem_invalidate_begin(kvm, range)
    kvm_gmem_invalidate_end(kvm, range)
    truncate_inode_page(kvm, gfn)
