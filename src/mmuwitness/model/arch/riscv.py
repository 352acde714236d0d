"""arch/riscv/kvm/mmu.c: the G stage."""

from __future__ import annotations

from mmuwitness.model.arch.arch import Arch
from mmuwitness.model.kvm.kvm_host import Spte
from mmuwitness.model.kvm.kvm_main import cond_resched_rwlock_write
from mmuwitness.model.primitives import feature, read_lock


class Riscv(Arch):
    """Table pages stay once they exist: a zap of less than all that they map frees none."""

    name = "riscv"
    kernel_arch = "riscv"
    notifier = "riscv_notifier"
    change_pte = "riscv_change_pte"
    maps_reads_writable = True

    def kvm_set_spte_gfn(self, kvm, range):
        """gstage_map_page() without a page cache: an error (a table page is missing) makes the
        generic code flush all TLBs of the VM; else the leaf is stored, read-only."""
        gfn = range.start
        if not kvm.table[self.table_of(kvm, gfn)]:
            return True
        kvm.spte[gfn] = Spte(present=True, page=range.arg_pte.page)
        self.flush_gfn(kvm, gfn)
        return False

    def kvm_unmap_gfn_range(self, kvm, range):
        """gstage_unmap_range(): an hfence for each leaf.  Until commit a5f8307e2eaa ("RISC-V: KVM:
        Fix skip of valid pages in kvm_riscv_gstage_unmap_range") in v7.2 it went on one table's
        size further where it found no table page, from wherever it was.  After each leaf it may
        yield."""
        addr = range.start
        for gfn in kvm.gfns:
            if addr <= gfn and gfn < range.end:
                if kvm.yields and range.may_block and gfn != range.start:
                    cond_resched_rwlock_write(kvm)
                if self.is_huge(kvm, gfn):
                    self.gstage_unmap_huge(kvm, gfn, range)
                    continue
                if not feature.riscv_unmap_aligned and not kvm.table[self.table_of(kvm, gfn)]:
                    addr = gfn + (1 << kvm.table_shift)
                if kvm.spte[gfn].present:
                    kvm.spte[gfn] = Spte()
                    self.flush_gfn(kvm, gfn)
        return False

    def gstage_unmap_huge(self, kvm, gfn, range):
        """A huge leaf that the range covers in part is left as it is: whoever unmaps a part splits
        the huge PMD first, in a window over all of it."""
        first = self.table_of(kvm, gfn) << kvm.table_shift
        if range.start <= first and first + (1 << kvm.table_shift) <= range.end:
            self.zap_and_flush(kvm, gfn)

    def take_snapshot(self, kvm, fault):
        """kvm_riscv_gstage_map() asks the VMA how large the mapping is to be, under mmap_lock.
        Until commit 2ed90cb0938a ("KVM: RISC-V: Retry fault if vma_lookup() results become
        invalid") in v6.4 the snapshot was taken after that was dropped.  Where all pages are small
        the VMA says nothing."""
        if kvm.mm.huge_pages:
            with read_lock(kvm.mm.mmap_lock):
                fault.vma_huge = kvm.mm.vma_huge
                if feature.riscv_snapshot_before_mmap_unlock:
                    Arch.take_snapshot(self, kvm, fault)
        if not kvm.mm.huge_pages or not feature.riscv_snapshot_before_mmap_unlock:
            Arch.take_snapshot(self, kvm, fault)

    def map(self, kvm, fault):
        """gstage_map_page() with a page cache."""
        if kvm.mm.huge_pages and self.maps_huge(kvm, fault):
            self.map_huge(kvm, fault)
            self.flush_huge(kvm, fault.gfn)
        else:
            kvm.table[self.table_of(kvm, fault.gfn)] = True
            kvm.spte[fault.gfn] = Spte(present=True, write=fault.map_writable, page=fault.page)
            self.flush_gfn(kvm, fault.gfn)

    def maps_huge(self, kvm, fault):
        """Transparent huge pages are mapped huge since commit ed7ae7a34bea ("RISC-V: KVM:
        Transparent huge page support") in v7.0."""
        return fault.vma_huge or (feature.riscv_thp and self.host_pfn_mapping_level(kvm, fault))
