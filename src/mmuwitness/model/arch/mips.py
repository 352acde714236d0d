"""arch/mips/kvm/mmu.c: the GPA page tables."""

from __future__ import annotations

from mmuwitness.model.arch.arch import Arch
from mmuwitness.model.kvm.kvm_host import Spte
from mmuwitness.model.kvm.kvm_main import kvm_flush_remote_tlbs
from mmuwitness.model.primitives import write_lock


class Mips(Arch):
    """The SPTE is a host PTE; table pages stay while a zap covers less than all they map.  A fault
    that is retried loops in the host; unless a scenario asks for that the guest faults again, which
    only those who wait for kvm->srcu can tell apart."""

    name = "mips"
    kernel_arch = "mips"
    notifier = "mips_notifier"
    change_pte = "mips_change_pte"
    maps_reads_writable = True

    def page_fault(self, vcpu, fault):
        """kvm_mips_map_page()"""
        if vcpu.kvm.loops_in_host:
            self.page_fault_in_host(vcpu, fault)
        else:
            Arch.page_fault(self, vcpu, fault)

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
            self.kvm_mips_flush_gpa_pt(kvm, slot.base_gfn, slot.base_gfn + slot.npages - 1)
            kvm_flush_remote_tlbs(kvm)

    def map(self, kvm, fault):
        kvm.table[self.table_of(kvm, fault.gfn)] = True
        kvm.spte[fault.gfn] = Spte(present=True, write=fault.map_writable, page=fault.page)
