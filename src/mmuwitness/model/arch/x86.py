"""arch/x86/kvm/mmu/mmu.c: the shadow (rmap) MMU; the TDP MMU, whose own file is x86_tdp."""

from __future__ import annotations

from mmuwitness.model.arch.arch import Arch
from mmuwitness.model.arch.x86_spte import (
    kvm_mmu_changed_pte_notifier_make_spte,
    make_spte,
    mark_spte_aged,
    mmu_spte_clear_track_bits,
    spte_can_locklessly_be_made_writable,
)
from mmuwitness.model.arch.x86_tdp import (
    invalidates_roots,
    kvm_mmu_reload,
    kvm_mmu_zap_all_fast,
    kvm_tdp_mmu_age_gfn_range,
    kvm_tdp_mmu_unmap_gfn_range,
    tdp_mmu_link_sp,
    tdp_mmu_unlink_sp,
)
from mmuwitness.model.kvm.dirty_log import mark_page_dirty_in_slot
from mmuwitness.model.kvm.guest_memfd import kvm_gmem_get_pfn
from mmuwitness.model.kvm.kvm_host import VALID, Spte
from mmuwitness.model.kvm.kvm_main import (
    cond_resched_rwlock_write,
    hva_to_pfn,
    kvm_flush_remote_tlbs,
    kvm_release_pfn_clean,
    rwlock_needbreak,
)
from mmuwitness.model.kvm.mem_attributes import kvm_mem_is_private
from mmuwitness.model.kvm.memslots import gfn_to_hva, gfn_to_memslot, kvm_memslots
from mmuwitness.model.mm.gup import get_user_page_fast_only
from mmuwitness.model.mm.mm_types import put_page
from mmuwitness.model.primitives import atomic, feature, read_lock, trace, write_lock


def may_prefetch(kvm, fault):
    """gfn_to_memslot_dirty_bitmap(): not what would be writable, and in no log."""
    return not (kvm.logs_dirty_pages and fault.logged)


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
            spte = kvm_mmu_changed_pte_notifier_make_spte(kvm, old, range.arg_pte.page)
            kvm.spte[range.start] = spte
        return True

    def map(self, kvm, fault):
        spte = make_spte(kvm, fault.gfn, fault.page, fault.map_writable, fault.logged)
        kvm.spte[fault.gfn] = spte

    def zap_leaf(self, kvm, gfn):
        if kvm.mm.frees_lazily:
            mmu_spte_clear_track_bits(kvm, kvm.spte[gfn])
        Arch.zap_leaf(self, kvm, gfn)

    def spte_write_protect(self, kvm, gfn, pt_protect):
        """For the dirty log the SPTE stays MMU-writable.  A TLB may have it writable as long as it
        is that: whoever cleared W may not have flushed yet."""
        with atomic("xchg or cmpxchg: fast_page_fault() does not take mmu_lock"):
            spte = kvm.spte[gfn]
            lockless = pt_protect and self.looks_at_mmu_writable() and spte.mmu_writable
            if not spte.present or not (spte.write or lockless):
                return False
            mmu_writable = spte.mmu_writable and not pt_protect
            kvm.spte[gfn] = spte.replace(write=False, mmu_writable=mmu_writable)
        return True

    def age_leaf(self, kvm, gfn):
        with atomic("mmu_lock is held, or cmpxchg: fast_page_fault() and hardware take no lock"):
            spte = kvm.spte[gfn]
            if spte.present and not spte.aged:
                kvm.spte[gfn] = mark_spte_aged(kvm, spte)
                return True
        return False

    def fast_page_fault(self, kvm, fault):
        """Without mmu_lock: a leaf that was made read-only for the dirty log, or not accessible to
        see whether it is used.  True: done, or somebody else has done it."""
        if not self.has_fast_page_fault():
            return False
        if not fault.permission and not kvm.access_tracking:
            return False
        old = kvm.spte[fault.gfn]
        if not old.present:
            return False
        new = old.replace(aged=False) if kvm.access_tracking else old
        if fault.write and spte_can_locklessly_be_made_writable(old):
            new = new.replace(write=True)
        if fault.write and not new.write:
            return False
        if new != old:
            self.fast_pf_fix_direct_spte(kvm, fault, old, new)
        return True

    def fast_pf_fix_direct_spte(self, kvm, fault, old, new):
        """What becomes writable is in the dirty log before this vCPU goes on; another may be
        faster, and does not wait."""
        makes_writable = new.write and not old.write
        with atomic("cmpxchg: else somebody was faster, and the guest faults again"):
            if kvm.spte[fault.gfn] != old:
                return
            kvm.spte[fault.gfn] = new
            if makes_writable:
                kvm.unmarked[fault.gfn] += 1
        if makes_writable:
            with atomic("set_bit"):
                mark_page_dirty_in_slot(kvm, fault.gfn, fault.logged)
                kvm.unmarked[fault.gfn] -= 1

    def kvm_arch_flush_shadow_memslot(self, kvm, slot):
        """kvm_mmu_zap_all_fast(): what other memslots map goes, too."""
        self.kvm_arch_flush_shadow_all(kvm)

    def mmu_invalidate_retry_gfn_unsafe(self, kvm, fault):
        """Since commit d02c357e5bfa ("KVM: x86/mmu: Retry fault before acquiring mmu_lock if
        mapping is changing") in v6.8: without mmu_lock, before and after the lookup."""
        return feature.retry_precheck and self.is_stale(kvm, fault)

    def handle_mmio_page_fault(self, kvm, fault):
        """An SPTE is made that maps nothing and says MMIO.  No window is over the gfn, since it has
        no hva; commit 5f8a7cf25a7d ("KVM: x86/mmu: Skip mmu_notifier check when handling MMIO page
        fault") in v5.12."""
        fault.mmu_seq = kvm.mmu_invalidate_seq.snapshot()
        with write_lock(kvm.mmu_lock):
            if feature.mmio_fault_skips_retry or not self.is_stale(kvm, fault):
                trace("kvm_mmio", fault.gfn)
            else:
                kvm.mmio_retried = True

    def attribute_changed(self, kvm, fault):
        """Asked after the snapshot: a change is a window, and the retry finds it from then on."""
        return fault.is_private != kvm_mem_is_private(kvm, fault.gfn)

    def kvm_mmu_faultin_pfn(self, kvm, fault):
        if kvm.gmem is not None and fault.is_private:
            kvm_gmem_get_pfn(kvm, fault)
        else:
            hva_to_pfn(kvm, fault, self.maps_reads_writable)

    def page_fault(self, vcpu, fault):
        """Until commit 83f06fa7a6fd ("KVM: x86/mmu: Rely on host page tables to find HugeTLB
        mappings") in v5.6 the VMA said whether a mapping is huge, and was asked before the
        snapshot: H14, as arm64 had it."""
        kvm = vcpu.kvm
        if kvm.tracks_writes and fault.write and kvm.gfn_write_track[fault.gfn]:
            # page_fault_handle_page_track(): emulated
            return
        if kvm.writable_bits and self.fast_page_fault(kvm, fault):
            return
        if kvm.mm.huge_pages and not feature.x86_hugetlb_from_page_tables:
            with read_lock(kvm.mm.mmap_lock):
                fault.vma_huge = kvm.mm.vma_huge
        fault.is_private = kvm_mem_is_private(kvm, fault.gfn)
        fault.mmu_seq = kvm.mmu_invalidate_seq.snapshot()
        if kvm.gmem is not None and self.attribute_changed(kvm, fault):
            # KVM_EXIT_MEMORY_FAULT
            return
        if self.mmu_invalidate_retry_gfn_unsafe(kvm, fault):
            return
        self.kvm_mmu_faultin_pfn(kvm, fault)
        if fault.page is None:
            return
        if not self.mmu_invalidate_retry_gfn_unsafe(kvm, fault):
            self.direct_page_fault(kvm, fault)
        kvm_release_pfn_clean(kvm, fault.page)


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
                    self.zap_leaf(kvm, gfn)
                    flush = True
                if rwlock_needbreak(kvm):
                    if flush:
                        kvm_flush_remote_tlbs(kvm)
                    flush = False
                    cond_resched_rwlock_write(kvm)
        return flush

    def has_fast_page_fault(self):
        return feature.x86_fast_page_fault

    def looks_at_mmu_writable(self):
        return feature.x86_fast_page_fault

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
        if not may_prefetch(kvm, fault):
            return
        for gfn in kvm.gfns:
            same_table = self.table_of(kvm, gfn) == self.table_of(kvm, fault.gfn)
            in_slot = gfn_to_memslot(kvm, kvm_memslots(kvm), gfn) == VALID
            if gfn != fault.gfn and same_table and in_slot and not kvm.spte[gfn].present:
                page = get_user_page_fast_only(kvm.mm, gfn_to_hva(kvm, gfn), True)
                if page is not None:
                    kvm.spte[gfn] = make_spte(kvm, gfn, page, True, False)
                    put_page(page)


class X86Tdp(X86):
    """The TDP MMU, since v5.10: faults install with cmpxchg."""

    name = "x86-tdp"
    absent = "no TDP MMU in this KVM"
    has_private_mem = True
    frees_by_rcu = True

    def has_fast_page_fault(self):
        return feature.x86_tdp_fast_page_fault

    def age_leaf(self, kvm, gfn):
        """Under mmu_lock, which was thought to be enough: until commit ba3a6120a4e7 ("KVM: x86/mmu:
        Use atomic XCHG to write TDP MMU SPTEs with volatile bits") in v5.18 a W that
        fast_page_fault() sets between the two accesses is lost."""
        if feature.x86_tdp_atomic_writes:
            return X86.age_leaf(self, kvm, gfn)
        spte = kvm.spte[gfn]
        if spte.present and not spte.aged:
            kvm.spte[gfn] = mark_spte_aged(kvm, spte)
            return True
        return False

    def kvm_age_gfn(self, kvm, range):
        if not kvm.frees_by_rcu:
            return X86.kvm_age_gfn(self, kvm, range)
        return kvm_tdp_mmu_age_gfn_range(kvm, range)

    def looks_at_mmu_writable(self):
        """Since commit 7c8a4742c4ab ("KVM: x86/mmu: Fix write-protection of PTs mapped by the TDP
        MMU") in v5.17; before, what was read-only was left alone."""
        return feature.x86_tdp_write_protects_mmu_writable

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
                    tdp_mmu_unlink_sp(kvm, self.table_of(kvm, fault.gfn))
                elif tdp_mmu_link_sp(kvm, self.table_of(kvm, fault.gfn)):
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
