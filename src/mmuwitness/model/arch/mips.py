"""arch/mips/kvm/mmu.c: the GPA page tables."""

from __future__ import annotations

from mmuwitness.model.arch.arch import Arch
from mmuwitness.model.kvm.kvm_host import Spte
from mmuwitness.model.kvm.kvm_main import kvm_flush_remote_tlbs
from mmuwitness.model.kvm.memslots import kvm_memslots, memslot_base
from mmuwitness.model.primitives import write_lock


class Mips(Arch):
    """The SPTE is a host PTE; table pages stay while a zap covers less than all they map.  A fault
    that is retried loops in the host, where a scenario asks for that."""

    name = "mips"
    kernel_arch = "mips"
    notifier = "mips_notifier"
    change_pte = "mips_change_pte"
    maps_reads_writable = True
    retries_in_host = True

    def kvm_set_spte_gfn(self, kvm, range):
        """The host's PTE is stored as it is, writable or not, if the table page exists.  Flushed
        only if the old leaf was there and another."""
        gfn = range.start
        if not kvm.table[self.table_of(kvm, gfn)]:
            return False
        old = kvm.spte[gfn]
        kvm.spte[gfn] = Spte(present=True, write=range.arg_pte.write, page=range.arg_pte.page)
        return old.present and old.page is not range.arg_pte.page

    def kvm_unmap_gfn_range(self, kvm, range):
        """kvm_mips_flush_gpa_pt() takes an inclusive end and is given the exclusive one: it zaps
        one page more.  Always flushed."""
        self.kvm_mips_flush_gpa_pt(kvm, range.start, range.end)
        return True

    def kvm_mips_flush_gpa_pt(self, kvm, start_gfn, end_gfn):
        for gfn in kvm.gfns:
            if start_gfn <= gfn and gfn <= end_gfn:
                kvm.spte[gfn] = Spte()

    def kvm_arch_flush_shadow_memslot(self, kvm, slot):
        """Given the last page, as it should be."""
        with write_lock(kvm.mmu_lock):
            base_gfn = memslot_base(kvm, kvm_memslots(kvm), slot)
            self.kvm_mips_flush_gpa_pt(kvm, base_gfn, base_gfn + slot.npages - 1)
            kvm_flush_remote_tlbs(kvm)

    def map(self, kvm, fault):
        kvm.table[self.table_of(kvm, fault.gfn)] = True
        kvm.spte[fault.gfn] = Spte(present=True, write=fault.map_writable, page=fault.page)
