"""arch/powerpc/kvm/book3s_64_mmu_hv.c, book3s_hv_rm_mmu.c: HV with a hashed page table (HPT)."""

from __future__ import annotations

from mmuwitness.model.arch.powerpc import Powerpc
from mmuwitness.model.kvm.kvm_host import Spte
from mmuwitness.model.kvm.kvm_main import (
    ZAPS,
    hva_to_pfn,
    kvm_release_pfn_clean,
    mmu_invalidate_retry,
)
from mmuwitness.model.kvm.memslots import kvm_memslots, memslot_base
from mmuwitness.model.mm.gup import set_page_dirty_lock
from mmuwitness.model.mm.mm_types import walk_page_tables
from mmuwitness.model.primitives import atomic, choose, cover, feature, spin_lock, trylock, unlock


def kvmppc_read_update_linux_pte(mm, addr):
    """The PTE, made dirty if the guest may write through it.  (Asked where somebody cares.)  Who
    enters it asks for retry after that, and so sees the window of whoever cleans it again."""
    if not mm.frees_lazily:
        return walk_page_tables(mm, addr)
    with atomic("pte_xchg()"):
        pte = walk_page_tables(mm, addr)
        if pte.present and pte.write:
            mm.pte[addr] = pte.replace(dirty=True)
    return pte


class PowerpcHpt(Powerpc):
    """book3s_hv with a hashed page table: faults and H_ENTER check for retry under the lock of the
    page's chain in the reverse map, without mmu_lock.

    kvm.spte is the hash, with one HPTE for each gfn: valid, or else absent (the next access faults)
    or not there, which are one here.  The guest may remove it and enter it anew whenever it is not
    valid.  rmap_present: the HPTE is in the chain, and valid, or about to be made so by whoever
    holds its lock."""

    name = "powerpc-hpt"
    notifier = "powerpc_hv_notifier"
    has_hptes = True
    logs_by_write_protection = False  # the hardware sets HPTE_R_C

    def kvm_set_spte_gfn(self, kvm, range):
        if self.kvm_unmap_rmapp(kvm, range.start):
            cover(ZAPS)
        return False

    def zap(self, kvm, gfn):
        self.kvm_unmap_rmapp(kvm, gfn)

    def kvm_unmap_rmapp(self, kvm, gfn):
        """Who maps takes the HPTE's lock first, then that of the chain; here it is the other way
        round, so the second one is tried only.  True: an SPTE was there."""
        hpte = kvm.hptes[gfn]
        while True:
            with spin_lock(hpte.rmap_lock):
                if not hpte.rmap_present:
                    return False
                if trylock(hpte.lock):
                    hpte.rmap_present = False
                    present = kvm.spte[gfn].present
                    if present:
                        kvm.spte[gfn] = Spte()
                        self.flush_gfn(kvm, gfn)
                    unlock(hpte.lock)
                    return present

    def map_page(self, kvm, fault):
        """The guest enters an HPTE and uses it, or has entered it before.  An access to an absent
        one faults, and so does a write to a read-only one."""
        if not fault.permission and choose(2) == 1:
            if self.kvmppc_do_h_enter(kvm, fault):
                return
        self.kvmppc_book3s_hv_page_fault(kvm, fault)

    def kvmppc_book3s_hv_page_fault(self, kvm, fault):
        """Since commit cd758a9b57ee ("KVM: PPC: Book3S HV: Use __gfn_to_pfn_memslot in HPT page
        fault handler") in v5.7 the PTE is read again and says what to map; before, it said only
        that a read fault may map the page writable.  (Since v5.8 find_kvm_host_pte() reads it under
        mmu_lock and asks for retry there, too.  That check comes on top, and is left out here.)"""
        gfn = fault.gfn
        old = kvm.spte[gfn]
        self.take_snapshot(kvm, fault)
        hva_to_pfn(kvm, fault, feature.powerpc_hpt_pfn_from_pte)
        if fault.page is not None:
            pte = walk_page_tables(kvm.mm, fault.hva)
            if feature.powerpc_hpt_pfn_from_pte:
                spte = Spte(present=pte.present, write=fault.map_writable, page=pte.page)
            else:
                write = fault.write or (pte.present and pte.write)
                spte = Spte(present=True, write=write, page=fault.page)
            if spte.present:
                mapped = False
                with spin_lock(kvm.hptes[gfn].lock):
                    if kvm.spte[gfn] == old:
                        mapped = self.update_hpte(kvm, fault, spte)
                if kvm.mm.frees_lazily and mapped and spte.write:
                    self.set_page_dirty(fault.page)
            kvm_release_pfn_clean(kvm, fault.page)

    def set_page_dirty(self, page):
        """A guest may have written to it already, but the fault has its reference still."""
        if feature.powerpc_hpt_pfn_from_pte:
            set_page_dirty_lock(page)
        else:
            page.dirty = True

    def update_hpte(self, kvm, fault, spte):
        """The HPTE's lock is held.  Once it is in the chain it may be made valid: who wants to
        unmap it waits for its lock.  False: it is left as it is."""
        gfn = fault.gfn
        hpte = kvm.hptes[gfn]
        with spin_lock(hpte.rmap_lock):
            if mmu_invalidate_retry(kvm, fault.mmu_seq):
                return False
            if not kvm.spte[gfn].present:
                hpte.rmap_present = True
        if kvm.spte[gfn].present:
            kvm.spte[gfn] = Spte()
            self.flush_gfn(kvm, gfn)
        kvm.spte[gfn] = spte
        return True

    def kvmppc_do_h_enter(self, kvm, fault):
        """H_ENTER, in real mode: the PTE is read with no lock at all and its page not referenced.
        What a window has hit meanwhile is entered as absent.  (Since v5.8: find_kvm_host_pte().)
        True: it is valid, or another one was in its place."""
        gfn = fault.gfn
        self.take_snapshot(kvm, fault)
        pte = kvmppc_read_update_linux_pte(kvm.mm, fault.hva)
        if pte.present:
            with spin_lock(kvm.hptes[gfn].lock):
                if kvm.spte[gfn].present:
                    return True
                spte = Spte(present=True, write=pte.write, page=pte.page)
                return self.update_hpte(kvm, fault, spte)
        return False

    def kvm_arch_flush_shadow_memslot(self, kvm, slot):
        """kvmppc_core_flush_memslot_hv(), without mmu_lock: no new HPTE refers to an INVALID
        memslot.  Empty until commit dfe49dbd1fc7 ("KVM: PPC: Book3S HV: Handle memory slot deletion
        and modification correctly") in v3.8."""
        if feature.powerpc_hv_flushes_memslot:
            first = memslot_base(kvm, kvm_memslots(kvm), slot)
            for gfn in kvm.gfns:
                if first <= gfn and gfn < first + slot.npages:
                    self.kvm_unmap_rmapp(kvm, gfn)

    def kvm_arch_flush_shadow_all(self, kvm):
        """Empty."""
