"""arch/powerpc/kvm/book3s_64_mmu_radix.c, book3s_pr.c, e500_mmu_host.c: HV (radix), PR, e500."""

from __future__ import annotations

from mmuwitness.model.arch.arch import Arch
from mmuwitness.model.kvm.kvm_host import Spte
from mmuwitness.model.primitives import feature


class Powerpc(Arch):
    """change_pte is an unmap: the next fault maps the new page."""

    kernel_arch = "powerpc"
    change_pte = "powerpc_change_pte"
    maps_reads_writable = True

    def kvm_set_spte_gfn(self, kvm, range):
        """kvm_unmap_radix(), do_kvm_unmap_gfn(): zap, flush at once, nothing left to flush."""
        self.zap(kvm, range.start)
        return False

    def zap(self, kvm, gfn):
        if kvm.spte[gfn].present:
            kvm.spte[gfn] = Spte()
            self.flush_gfn(kvm, gfn)

    def kvm_unmap_gfn_range(self, kvm, range):
        for gfn in kvm.gfns:
            if range.start <= gfn and gfn < range.end:
                self.zap(kvm, gfn)
        return False


class PowerpcHv(Powerpc):
    """book3s_hv with a radix page table: kvmppc_create_pte() checks for retry under mmu_lock."""

    name = "powerpc-hv"
    notifier = "powerpc_hv_radix"


class PowerpcPr(Powerpc):
    """book3s_pr: a hash of shadow PTEs per vCPU.  Until commit d78bca72961a ("KVM: PPC: Book3S PR:
    Use mmu_notifier_retry() in kvmppc_mmu_map_page()") in v3.13 faults did not check."""

    name = "powerpc-pr"
    notifier = "powerpc_pr_notifier"

    def is_stale(self, kvm, fault):
        return feature.powerpc_pr_retry and Arch.is_stale(self, kvm, fault)

    def kvm_arch_flush_shadow_memslot(self, kvm, slot):
        """kvmppc_core_flush_memslot_pr() is empty."""


class PowerpcE500(Powerpc):
    """e500: the shadow TLB is flushed whole by whatever invalidates anything."""

    name = "powerpc-e500"
    notifier = "powerpc_e500_notifier"

    def is_stale(self, kvm, fault):
        return feature.powerpc_e500_retry and Arch.is_stale(self, kvm, fault)

    def kvm_arch_flush_shadow_memslot(self, kvm, slot):
        """kvmppc_core_flush_memslot() is empty."""

    def kvm_set_spte_gfn(self, kvm, range):
        """The page will get remapped properly on its next fault."""
        return True

    def kvm_unmap_gfn_range(self, kvm, range):
        """Not page by page: the generic code flushes all."""
        return True

    def flush_remote_tlbs(self, kvm):
        """kvmppc_core_flush_tlb(): every entry of every shadow TLB goes."""
        Arch.flush_remote_tlbs(self, kvm)
        for gfn in kvm.gfns:
            kvm.spte[gfn] = Spte()
