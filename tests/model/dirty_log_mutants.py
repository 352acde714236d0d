"""Mutants of the dirty log and of aging."""

from __future__ import annotations

from mmuwitness.model.kvm.dirty_log import take_dirty_bit
from mmuwitness.model.kvm.kvm_main import kvm_flush_remote_tlbs
from mmuwitness.model.primitives import write_lock
from tests.model.mutants import mutant

I7, TRACKED = "written_page_logged", "tracked_page_read_only"
STALE = {"coherent", "no_stale_tlb_entry", "freed_page_unmapped", "no_lost_write"}

DIRTY_LOG_BREAKS = [
    # the dirty log: a page is in it, or its SPTE is read-only, in TLBs as well
    ("start() does not flush", "dirty_log", "v6.1", "x86-tdp", {I7}),
    ("the dirty log leaves SPTEs writable", "dirty_log", "v7.3", "x86-tdp", {I7}),
    ("the dirty log leaves SPTEs writable", "dirty_log", "v7.3", "arm64", {I7}),
    ("the dirty log is read before it is flushed", "dirty_log", "v6.1", "x86-shadow", {I7}),
    ("SPTEs are protected before the dirty log is taken", "dirty_log", "v6.1", "x86-tdp", {I7}),
    ("dirty bits are read, then cleared", "dirty_log", "v6.1", "x86-tdp", {I7}),
    ("a memslot update does not wait for readers", "dirty_log", "v6.12", "x86-tdp", {I7}),
    ("a memslot update does not wait for readers", "dirty_log", "v6.12", "arm64", {I7}),
    ("faults do not log", "dirty_log", "v6.12", "arm64", {I7}),
    ("neighbours are prefetched though they are logged", "dirty_log_neighbour", "v6.1",
     "x86-shadow", {I7}),
    ("the dirty log leaves SPTEs writable", "dirty_log_shadow", "v6.1", "x86-tdp", {I7, TRACKED}),
    ("page tables are protected as for the dirty log", "dirty_log_shadow", "v6.1", "x86-shadow",
     {TRACKED}),
    ("-x86_tdp_write_protects_mmu_writable", "dirty_log_shadow", "v6.1", "x86-tdp", {TRACKED}),
    ("-dirty_log_flush_under_lock", "dirty_log_shadow", "v3.4", "x86-shadow", {TRACKED}),
    # aging writes SPTEs without mmu_lock: what it has read may be gone
    ("aging writes back what it has read", "aging", "v7.3", "x86-tdp",
     {*STALE, "absent_in_window"}),
]  # fmt: skip

DIRTY_LOG_HARMLESS = [
    # who protects page tables asks for MMU-writable: the flush of the dirty log may come later
    ("-dirty_log_flush_under_lock", "dirty_log_shadow", "v3.15", "x86-shadow"),
    ("dirty bits are read, then cleared", "dirty_log", "v6.1", "arm64"),  # all under mmu_lock
    ("SPTEs are protected before the dirty log is taken", "dirty_log", "v6.1", "arm64"),
    ("aging writes back what it has read", "aging", "v6.12", "x86-tdp"),  # under mmu_lock
    ("-aging_elides_lock", "aging", "v6.12", "x86-tdp"),  # all in a memslot
]  # fmt: skip


@mutant(
    "the dirty log leaves SPTEs writable",
    "arch.arch.Arch.spte_write_protect",
    "arch.x86.X86.spte_write_protect",
)
def protect_nothing(self, kvm, gfn, pt_protect):
    return True


@mutant("the dirty log is read before it is flushed", "kvm.dirty_log.kvm_get_dirty_log_protect")
def protect_without_flush_of_the_log(kvm):
    with write_lock(kvm.mmu_lock):
        for gfn in kvm.gfns:
            if take_dirty_bit(kvm, gfn):
                kvm.arch.spte_write_protect(kvm, gfn, False)


@mutant(
    "SPTEs are protected before the dirty log is taken", "kvm.dirty_log.kvm_get_dirty_log_protect"
)
def protect_then_take(kvm):
    """A fault without mmu_lock comes between the two."""
    with write_lock(kvm.mmu_lock):
        for gfn in kvm.gfns:
            kvm.arch.spte_write_protect(kvm, gfn, False)
            take_dirty_bit(kvm, gfn)
        kvm_flush_remote_tlbs(kvm)


@mutant("dirty bits are read, then cleared", "kvm.dirty_log.take_dirty_bit")
def read_and_clear(kvm, gfn):
    dirty = kvm.dirty_bitmap[gfn]
    kvm.dirty_bitmap[gfn] = False
    if dirty:
        kvm.dirty_log[gfn] = True
    return dirty


@mutant("faults do not log", "arch.arch.Arch.log_fault")
def log_nothing(self, kvm, fault):
    return


@mutant("neighbours are prefetched though they are logged", "arch.x86.may_prefetch")
def prefetch_logged(kvm, fault):
    return True


@mutant(
    "page tables are protected as for the dirty log",
    "arch.x86_page_track.__kvm_write_track_add_gfn",
)
def track_and_keep_mmu_writable(kvm, gfn):
    kvm.gfn_write_track[gfn] = True
    if kvm.arch.spte_write_protect(kvm, gfn, False):
        kvm_flush_remote_tlbs(kvm)


@mutant("aging writes back what it has read", "arch.x86.X86.age_leaf")
def age_in_two_accesses(self, kvm, gfn):
    spte = kvm.spte[gfn]
    if spte.present and not spte.aged:
        kvm.spte[gfn] = spte.replace(aged=True)
        return True
    return False
