"""arch/riscv/kvm/mmu.c: the G stage."""

from __future__ import annotations

from mmuwitness.model.arch.arch import Arch
from mmuwitness.model.kvm.kvm_host import Spte
from mmuwitness.model.kvm.kvm_main import cond_resched_rwlock_write
from mmuwitness.model.primitives import feature


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
                if not feature.riscv_unmap_aligned and not kvm.table[self.table_of(kvm, gfn)]:
                    addr = gfn + (1 << kvm.table_shift)
                if kvm.spte[gfn].present:
                    kvm.spte[gfn] = Spte()
                    self.flush_gfn(kvm, gfn)
        return False

    def map(self, kvm, fault):
        """gstage_map_page() with a page cache."""
        kvm.table[self.table_of(kvm, fault.gfn)] = True
        kvm.spte[fault.gfn] = Spte(present=True, write=fault.map_writable, page=fault.page)
        self.flush_gfn(kvm, fault.gfn)
