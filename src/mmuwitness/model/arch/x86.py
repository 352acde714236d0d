"""arch/x86/kvm/mmu/mmu.c: the shadow (rmap) MMU; the TDP MMU, whose own file is x86_tdp."""

from __future__ import annotations

from mmuwitness.model.arch.arch import Arch
from mmuwitness.model.arch.x86_tdp import (
    invalidates_roots,
    kvm_mmu_reload,
    kvm_mmu_zap_all_fast,
    kvm_tdp_mmu_unmap_gfn_range,
)
from mmuwitness.model.kvm.kvm_host import VALID, Spte
from mmuwitness.model.kvm.kvm_main import (
    cond_resched_rwlock_write,
    hva_to_pfn,
    kvm_flush_remote_tlbs,
    rwlock_needbreak,
)
from mmuwitness.model.kvm.memslots import gfn_to_memslot, kvm_memslots
from mmuwitness.model.mm.gup import get_user_page_fast_only
from mmuwitness.model.mm.mm_types import put_page
from mmuwitness.model.primitives import atomic, feature, read_lock, write_lock


class X86(Arch):
    """What both MMUs share: present leaves only are touched by change_pte."""

    kernel_arch = "x86"
    notifier = "x86_notifier"
    change_pte = "x86_change_pte"
    maps_reads_writable = True

    def kvm_set_spte_gfn(self, kvm, range):
        """Zap if the new PTE is writable: making an SPTE writable is the fault path's business.
        Else the new pfn, read-only.  Absent leaves are not in the rmap, or skipped by the walk."""
        old = kvm.spte[range.start]
        if not old.present:
            return False
        kvm.spte[range.start] = Spte()
        if not range.arg_pte.write:
            kvm.spte[range.start] = old.replace(write=False, page=range.arg_pte.page)
        return True

    def kvm_arch_flush_shadow_memslot(self, kvm, slot):
        """kvm_mmu_zap_all_fast(): what other memslots map goes, too."""
        with write_lock(kvm.mmu_lock):
            for gfn in kvm.gfns:
                kvm.spte[gfn] = Spte()
            kvm_flush_remote_tlbs(kvm)

    def mmu_invalidate_retry_gfn_unsafe(self, kvm, fault):
        """Since commit d02c357e5bfa ("KVM: x86/mmu: Retry fault before acquiring mmu_lock if
        mapping is changing") in v6.8: without mmu_lock, before and after the lookup."""
        return feature.retry_precheck and self.is_stale(kvm, fault)

    def page_fault(self, vcpu, fault):
        """Until commit 83f06fa7a6fd ("KVM: x86/mmu: Rely on host page tables to find HugeTLB
        mappings") in v5.6 the VMA said whether a mapping is huge, and was asked before the
        snapshot: H14, as arm64 had it."""
        kvm = vcpu.kvm
        if kvm.mm.huge_pages and not feature.x86_hugetlb_from_page_tables:
            with read_lock(kvm.mm.mmap_lock):
                fault.vma_huge = kvm.mm.vma_huge
        fault.mmu_seq = kvm.mmu_invalidate_seq.snapshot()
        if self.mmu_invalidate_retry_gfn_unsafe(kvm, fault):
            return
        hva_to_pfn(kvm, fault, self.maps_reads_writable)
        if fault.page is None:
            return
        if not self.mmu_invalidate_retry_gfn_unsafe(kvm, fault):
            self.direct_page_fault(kvm, fault)
        put_page(fault.page)


class X86Shadow(X86):
    """The shadow MMU: reverse maps, on EPT/NPT or with shadow page tables."""

    name = "x86-shadow"

    def kvm_unmap_gfn_range(self, kvm, range):
        """Since commit 548f87f667a3 ("KVM: x86/mmu: Honor NEED_RESCHED when zapping rmaps and
        blocking is allowed") in v6.12 the walk of the rmaps may yield as well: after each gfn, and
        what it zapped is flushed before."""
        if not (kvm.yields and range.may_block and feature.x86_shadow_unmap_yields):
            return X86.kvm_unmap_gfn_range(self, kvm, range)
        flush = False
        for gfn in kvm.gfns:
            if range.start <= gfn and gfn < range.end:
                if kvm.spte[gfn].present:
                    kvm.spte[gfn] = Spte()
                    flush = True
                if rwlock_needbreak(kvm):
                    if flush:
                        kvm_flush_remote_tlbs(kvm)
                    flush = False
                    cond_resched_rwlock_write(kvm)
        return flush

    def direct_page_fault(self, kvm, fault):
        with write_lock(kvm.mmu_lock):
            if not self.is_stale(kvm, fault):
                if kvm.mm.huge_pages and self.maps_huge(kvm, fault):
                    self.map_huge(kvm, fault)
                else:
                    self.map(kvm, fault)
                    self.direct_pte_prefetch(kvm, fault)

    def direct_pte_prefetch(self, kvm, fault):
        """Neighbours in the same table page, looked up under mmu_lock without a check of their
        own: safe while no window is open.  Since commit 4a42d848db95 ("KVM: x86/mmu: Consider the
        hva in mmu_notifier retry") in v5.12 one may be, over the neighbour."""
        if feature.prefetch_guard and kvm.mmu_invalidate_in_progress != 0:
            return
        for gfn in kvm.gfns:
            same_table = self.table_of(kvm, gfn) == self.table_of(kvm, fault.gfn)
            in_slot = gfn_to_memslot(kvm, kvm_memslots(kvm), gfn) == VALID
            if gfn != fault.gfn and same_table and in_slot and not kvm.spte[gfn].present:
                page = get_user_page_fast_only(kvm.mm, gfn + kvm.memslots[0].userspace_addr, True)
                if page is not None:
                    kvm.spte[gfn] = Spte(present=True, write=True, page=page)
                    put_page(page)


class X86Tdp(X86):
    """The TDP MMU, since v5.10: faults install with cmpxchg."""

    name = "x86-tdp"
    absent = "no TDP MMU in this KVM"

    def applies(self, era):
        return era.has("x86_tdp_mmu", "x86")

    def direct_page_fault(self, kvm, fault):
        parallel = feature.x86_tdp_parallel_fault
        with read_lock(kvm.mmu_lock) if parallel else write_lock(kvm.mmu_lock):
            if not self.is_page_fault_stale(kvm, fault):
                self.tdp_mmu_map_handle_target_level(kvm, fault)

    def is_page_fault_stale(self, kvm, fault):
        """Since commit a955cad84cda ("KVM: x86/mmu: Retry page fault if root is invalidated by
        memslot update") in v5.16 a fault whose root became invalid is retried, with another."""
        if invalidates_roots(kvm) and feature.x86_fault_checks_root and fault.vcpu.root_invalid:
            return True
        return self.is_stale(kvm, fault)

    def tdp_mmu_map_handle_target_level(self, kvm, fault):
        huge = kvm.mm.huge_pages and self.maps_huge(kvm, fault)
        with atomic("cmpxchg: if another vCPU was faster, this one faults again"):
            if kvm.replaces_roots and fault.vcpu.root_invalid:
                self.map_in_invalid_root(kvm, fault)
                return
            old = kvm.spte[fault.gfn]
            if not old.present or (old.page is fault.page and not old.write):
                if huge:
                    self.map_huge(kvm, fault)
                else:
                    self.map(kvm, fault)

    def map_in_invalid_root(self, kvm, fault):
        """The root that the vCPU will put before it enters the guest."""
        kvm.invalid_spte[fault.gfn] = Spte(present=True, write=fault.map_writable, page=fault.page)

    def kvm_unmap_gfn_range(self, kvm, range):
        return kvm_tdp_mmu_unmap_gfn_range(kvm, range)

    def kvm_arch_flush_shadow_memslot(self, kvm, slot):
        if invalidates_roots(kvm):
            kvm_mmu_zap_all_fast(kvm)
        else:
            X86.kvm_arch_flush_shadow_memslot(self, kvm, slot)

    def kvm_mmu_reload(self, vcpu):
        kvm_mmu_reload(vcpu)
