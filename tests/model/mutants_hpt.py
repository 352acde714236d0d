"""Mutants of what faults without mmu_lock rest on, and of those faults.  (See mutants.)"""

from __future__ import annotations

from mmuwitness.model.kvm.kvm_host import Spte
from mmuwitness.model.kvm.kvm_main import kvm_handle_memslots, mmu_invalidate_retry
from mmuwitness.model.kvm.memslots import hits_memslot, kvm_memslots
from mmuwitness.model.mm.mm_types import walk_page_tables
from mmuwitness.model.primitives import spin_lock, trylock, unlock, write_lock
from tests.model.mutants import mutant


@mutant("start() zaps before it counts", "kvm.kvm_main.kvm_lock_and_handle")
def zap_before_count(kvm, range):
    flush = False
    slots = kvm_memslots(kvm)
    if hits_memslot(kvm, slots, range):
        with write_lock(kvm.mmu_lock):
            flush = kvm_handle_memslots(kvm, slots, range)
            range.on_lock(kvm, range)
    return flush


@mutant("faults look at the sequence first", "kvm.kvm_main.mmu_invalidate_retry")
def sequence_before_count(kvm, mmu_seq):
    if kvm.mmu_invalidate_seq != mmu_seq:
        return True
    return kvm.mmu_invalidate_in_progress != 0


@mutant("H_ENTER does not look", "arch.powerpc_hpt.PowerpcHpt.kvmppc_do_h_enter")
def enter_without_retry(self, kvm, fault):
    pte = walk_page_tables(kvm.mm, fault.hva)
    hpte = kvm.hptes[fault.gfn]
    if pte.present:
        with spin_lock(hpte.lock):
            with spin_lock(hpte.rmap_lock):
                hpte.rmap_present = True
            kvm.spte[fault.gfn] = Spte(present=True, write=pte.write, page=pte.page)
    return pte.present


@mutant("a fault looks before it takes the chain's lock", "arch.powerpc_hpt.PowerpcHpt.update_hpte")
def look_before_lock(self, kvm, fault, spte):
    hpte = kvm.hptes[fault.gfn]
    if mmu_invalidate_retry(kvm, fault.mmu_seq):
        return False
    with spin_lock(hpte.rmap_lock):
        hpte.rmap_present = True
    kvm.spte[fault.gfn] = Spte()
    self.flush_gfn(kvm, fault.gfn)
    kvm.spte[fault.gfn] = spte
    return True


@mutant(
    "an unmap passes over an HPTE that is locked", "arch.powerpc_hpt.PowerpcHpt.kvm_unmap_rmapp"
)
def unmap_without_waiting(self, kvm, gfn):
    hpte = kvm.hptes[gfn]
    with spin_lock(hpte.rmap_lock):
        if hpte.rmap_present and trylock(hpte.lock):
            hpte.rmap_present = False
            kvm.spte[gfn] = Spte()
            self.flush_gfn(kvm, gfn)
            unlock(hpte.lock)
            return True
    return False


STALE = {"coherent", "no_stale_tlb_entry", "freed_page_unmapped", "no_lost_write"}
I2, I11 = "absent_in_window", "deleted_slot_unmapped"
ON_HPT = ("dontneed_one", "v6.1", "powerpc-hpt")
ON_RADIX = ("dontneed_one", "v6.1", "powerpc-hv")

# Those who hold mmu_lock cannot tell in which order things happen under it; these faults do not
BREAKS_HPT = [
    ("end() lowers the count first", *ON_HPT, {*STALE, "seq_before_count_unlocked"}),
    ("start() zaps before it counts", *ON_HPT, STALE),
    ("faults look at the sequence first", *ON_HPT, STALE),
    ("H_ENTER does not look", *ON_HPT, {*STALE, I2}),
    ("a fault looks before it takes the chain's lock", *ON_HPT, {*STALE, I2}),
    ("an unmap passes over an HPTE that is locked", *ON_HPT, {*STALE, I2}),
    ("-powerpc_hv_flushes_memslot", "memslot_delete", "v3.8", "powerpc-hpt",
     {*STALE, I11} - {"no_lost_write"}),
]  # fmt: skip

HARMLESS_HPT = [
    ("end() lowers the count first", *ON_RADIX),
    ("start() zaps before it counts", *ON_RADIX),
    ("faults look at the sequence first", *ON_RADIX),
]
