"""As x86_prefetch, but only while its own window is the only one that is open."""

from mmuwitness.model.kvm.kvm_host import Spte


class X86:
    def kvm_set_spte_gfn(self, kvm, range):
        if kvm.mmu_invalidate_in_progress != 1:
            return False
        present = kvm.spte[range.start].present
        kvm.spte[range.start] = Spte(present=True, page=range.arg_pte.page)
        return present
