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
        range = KvmGfnRange(slot=kvm.memslots[0], may_block=True, start=gfn, end=gfn + 1)
        with write_lock(kvm.mmu_lock):
            if kvm.arch.kvm_unmap_gfn_range(kvm, range):
                kvm_flush_remote_tlbs(kvm)
        kvm.mem_attr_array[gfn] = private


@mutant("a gfn is converted after the window", "kvm.mem_attributes.kvm_vm_set_mem_attributes")
def convert_after_window(kvm, gfn, private):
    with write_lock(kvm.slots_lock):
        range = KvmGfnRange(slot=kvm.memslots[0], may_block=True, start=gfn, end=gfn + 1)
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
    range = KvmGfnRange(slot=kvm.memslots[0], may_block=True, start=gfn, end=gfn + 1)
    kvm_gmem_invalidate_begin(kvm, range)
    kvm_gmem_invalidate_end(kvm, range)


@mutant("a hole is punched after the window", "kvm.guest_memfd.kvm_gmem_punch_hole")
def punch_after_window(kvm, gfn):
    range = KvmGfnRange(slot=kvm.memslots[0], may_block=True, start=gfn, end=gfn + 1)
    kvm_gmem_invalidate_begin(kvm, range)
    kvm_gmem_invalidate_end(kvm, range)
    truncate_inode_page(kvm, gfn)


# What breaks what

I1, I2, I3 = "coherent", "absent_in_window", "no_stale_tlb_entry"
I4, I6, I11 = "freed_page_unmapped", "no_lost_write", "deleted_slot_unmapped"
CACHE, PRIVATE = "cache_names_mapped_page", "private_gfn_unshared"
STALE = {I1, I3, I4, I6}

# fmt: off
BREAKS_KVM = [
    # A memslot that moves: windows and faults have to go by one set of memslots, and it has to be
    # unmapped before it is somewhere else
    ("a memslot update does not wait for windows", "memslot_move", "v6.12", "x86-tdp",
     {*STALE, I2}),
    ("-memslot_move_invalidates", "memslot_move", "v6.1", "arm64", {*STALE, I11}),
    ("windows pass over a memslot that is being deleted", "memslot_move", "v6.12", "x86-tdp",
     {*STALE, I2}),
    ("a window stops at the first memslot that it hits", "memslot_alias", "v6.12", "arm64",
     {*STALE, I2}),
    ("a window stops at the first memslot that it hits", "memslot_spaces", "v6.12", "x86-tdp",
     {I1, I2, I3, I4}),
    ("a window stops at the first memslot that it hits", "memslot_range", "v6.1", "x86-tdp",
     {*STALE, I2}),
    # H32
    ("-mmio_fault_skips_retry", "memslot_mmio", "v6.12", "x86-tdp", {"mmio_not_retried"}),
    # H16, H17
    ("start() leaves caches alone", "pfncache", "v6.12", "x86-tdp", {CACHE, I4, I6}),
    ("a refresh looks at the count alone", "pfncache_hva", "v7.3", "x86-tdp", {CACHE, I4, I6}),
    ("a refresh looks at the sequence alone", "pfncache_hva", "v7.3", "x86-tdp", {CACHE, I4, I6}),
    ("-pfncache_rechecks_retry", "pfncache", "v5.19", "x86-tdp", {CACHE, I4, I6}),
    ("-pfncache_rechecks_retry", "pfncache_two", "v6.1", "x86-tdp",
     {CACHE, I4, I6, "follows_nothing"}),
    ("-gpc_invalidate_seq", "pfncache_hva", "v7.3", "x86-tdp", {CACHE, I4, I6}),
    # private memory
    ("a gfn is converted without a window", "private_convert", "v6.12", "x86-tdp",
     {PRIVATE, I1, I3}),
    ("a gfn is converted after the window", "private_convert", "v6.12", "x86-tdp",
     {PRIVATE, I1, I3}),
    ("a fault takes the attribute as it was", "private_convert", "v6.12", "x86-tdp",
     {PRIVATE, I1, I3}),
    ("faults look at the count alone", "private_convert", "v6.12", "x86-tdp", {PRIVATE, I1, I3}),
    ("a hole is punched without a window", "private_punch", "v6.12", "x86-tdp", {PRIVATE, I4, I6}),
    ("a hole is punched before the window", "private_punch", "v6.12", "x86-tdp",
     {PRIVATE, I4, I6}),
    ("a hole is punched after the window", "private_punch", "v6.12", "x86-tdp", {PRIVATE, I4, I6}),
    ("faults never retry", "private_punch", "v6.12", "x86-tdp", {PRIVATE, I4, I6}),
]
# fmt: on
