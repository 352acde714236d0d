"""arch/loongarch/kvm/mmu.c: second-level page tables."""

from __future__ import annotations

from mmuwitness.model.arch.arch import Arch
from mmuwitness.model.kvm.kvm_host import Spte


class Loongarch(Arch):
    """As MIPS, from which it was written, but change_pte looks at the old leaf.  The loop of a
    fault that is retried lets others run every 100 rounds."""

    name = "loongarch"
    kernel_arch = "loongarch"
    notifier = "loongarch_notifier"
    change_pte = "loongarch_change_pte"
    maps_reads_writable = True
    retries_in_host = True

    def kvm_set_spte_gfn(self, kvm, range):
        """An absent leaf is cleared again; a present one gets the new pfn, writable only if both
        were.  (Leaves are young here: a mapped page was accessed.)"""
        gfn = range.start
        if not kvm.table[self.table_of(kvm, gfn)]:
            return False
        old = kvm.spte[gfn]
        if not old.present:
            kvm.spte[gfn] = Spte()
            return False
        write = old.write and range.arg_pte.write
        kvm.spte[gfn] = Spte(present=True, write=write, page=range.arg_pte.page)
        return True

    def map(self, kvm, fault):
        kvm.table[self.table_of(kvm, fault.gfn)] = True
        kvm.spte[fault.gfn] = Spte(present=True, write=fault.map_writable, page=fault.page)
