"""arch/mips/kvm/mmu.c: the GPA page tables."""

from __future__ import annotations

from mmuwitness.model.arch.arch import Arch
from mmuwitness.model.kvm.kvm_host import Spte


class Mips(Arch):
    """The SPTE is a host PTE; table pages stay while a zap covers less than all they map.  A fault
    that is retried loops in the host; here the guest faults again, which nobody can tell apart."""

    name = "mips"
    kernel_arch = "mips"
    notifier = "mips_notifier"
    change_pte = "mips_change_pte"
    maps_reads_writable = True

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
        for gfn in kvm.gfns:
            if range.start <= gfn and gfn <= range.end:
                kvm.spte[gfn] = Spte()
        return True

    def map(self, kvm, fault):
        kvm.table[self.table_of(kvm, fault.gfn)] = True
        kvm.spte[fault.gfn] = Spte(present=True, write=fault.map_writable, page=fault.page)
