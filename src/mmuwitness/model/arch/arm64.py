"""arch/arm64/kvm/mmu.c, arch/arm64/kvm/hyp/pgtable.c: stage 2."""

from __future__ import annotations

from mmuwitness.model.arch.arch import Arch
from mmuwitness.model.kvm.kvm_host import Spte
from mmuwitness.model.kvm.kvm_main import (
    WALKS_FREED,
    cond_resched_rwlock_write,
    hva_to_pfn,
    kvm_release_pfn_clean,
)
from mmuwitness.model.primitives import atomic, cover, feature, read_lock, write_lock


class Arm64(Arch):
    """A leaf is written only where its last-level table page exists; the page goes when its last
    leaf is zapped.  TLB entries are invalidated one by one, inside the walk."""

    name = "arm64"
    kernel_arch = "arm64"
    notifier = "arm64_notifier"
    change_pte = "arm64_change_pte"
    maps_reads_writable = True
    frees_tables = True

    def kvm_set_spte_gfn(self, kvm, range):
        """kvm_pgtable_stage2_map() without a memcache: -ENOMEM if a table page is missing, which
        the caller ignores; else the leaf is stored, read-only, whether one was there or not."""
        gfn = range.start
        if kvm.table[self.table_of(kvm, gfn)]:
            if kvm.spte[gfn].present:
                # break before make
                kvm.spte[gfn] = Spte()
                self.flush_gfn(kvm, gfn)
            kvm.spte[gfn] = Spte(present=True, page=range.arg_pte.page)
        return False

    def kvm_unmap_gfn_range(self, kvm, range):
        """stage2_unmap_walker(): a table page whose last leaf went is freed.  The walk goes
        block by block (here: by table pages) and may yield between two; all is flushed then."""
        if kvm.frees_tables and kvm.pgd_reset:
            return False
        for gfn in kvm.gfns:
            if range.start <= gfn and gfn < range.end:
                if kvm.yields and feature.arm64_unmap_yields and gfn != range.start:
                    if range.may_block or not feature.arm64_zap_reschedules_if_blockable:
                        if self.table_of(kvm, gfn) != self.table_of(kvm, gfn - 1):
                            cond_resched_rwlock_write(kvm)
                            if kvm.frees_tables and self.pgd_is_gone(kvm):
                                return False
                self.walk_from_pgd(kvm)
                if kvm.spte[gfn].present:
                    self.zap_and_flush(kvm, gfn)
                    self.free_empty_table(kvm, self.table_of(kvm, gfn))
        return False

    def pgd_is_gone(self, kvm):
        """mmu_lock was dropped.  Asked since commit 0c428a6a9256 ("kvm: arm/arm64: Fix use after
        free of stage2 page table") in v4.12."""
        return feature.arm64_walk_rechecks_pgd and kvm.pgd_reset

    def walk_from_pgd(self, kvm):
        if kvm.frees_tables and (kvm.pgd_reset or kvm.pgd_freed):
            cover(WALKS_FREED)

    def kvm_age_gfn(self, kvm, range):
        """Since commit 7e5a672289c9 ("KVM: arm/arm64: Handle hva aging while destroying the vm") in
        v4.13 it is asked first whether there are tables."""
        if kvm.frees_tables and feature.arm64_aging_checks_pgd and kvm.pgd_reset:
            return False
        self.walk_from_pgd(kvm)
        return Arch.kvm_age_gfn(self, kvm, range)

    def kvm_arch_flush_shadow_all(self, kvm):
        """kvm_free_stage2_pgd().  Since commit 6c0d706b563a ("kvm: arm/arm64: Fix race in resetting
        stage2 PGD") in v4.12 the pointer is reset before mmu_lock is dropped: who takes it next
        finds no tables.  (mmu_lock itself was not taken until v4.11.  Since v5.10 leaves are zapped
        without it, once the pointer is reset.)"""
        first = False
        with write_lock(kvm.mmu_lock):
            if not kvm.pgd_reset:
                first = True
                for gfn in kvm.gfns:
                    if kvm.spte[gfn].present:
                        self.zap_and_flush(kvm, gfn)
                    kvm.table[self.table_of(kvm, gfn)] = False
                if feature.arm64_pgd_reset_under_lock:
                    kvm.pgd_reset = True
        if first:
            kvm.pgd_freed = True
            kvm.pgd_reset = True

    def free_empty_table(self, kvm, table):
        used = False
        for gfn in kvm.gfns:
            if self.table_of(kvm, gfn) == table and kvm.spte[gfn].present:
                used = True
        if not used:
            kvm.table[table] = False

    def page_fault(self, vcpu, fault):
        """user_mem_abort().  Until commit 13ec9308a857 ("KVM: arm64: Retry fault if vma_lookup()
        results become invalid") in v6.3 the snapshot was taken after mmap_lock was dropped."""
        kvm = vcpu.kvm
        with read_lock(kvm.mm.mmap_lock):
            if kvm.mm.huge_pages:
                # vma_pagesize: a VMA of hugetlb is mapped by huge leaves
                fault.vma_huge = kvm.mm.vma_huge
            if feature.arm64_snapshot_before_mmap_unlock:
                fault.mmu_seq = kvm.mmu_invalidate_seq.snapshot()
        if not feature.arm64_snapshot_before_mmap_unlock:
            fault.mmu_seq = kvm.mmu_invalidate_seq.snapshot()
        hva_to_pfn(kvm, fault, self.maps_reads_writable)
        if fault.page is not None:
            self.restrict_to_access(kvm, fault)
            parallel = feature.arm64_parallel_fault
            with read_lock(kvm.mmu_lock) if parallel else write_lock(kvm.mmu_lock):
                if not self.is_stale(kvm, fault):
                    self.install(kvm, fault)
                    self.log_fault(kvm, fault)
            kvm_release_pfn_clean(kvm, fault.page)

    def install(self, kvm, fault):
        """With kvm_pgtable a permission fault on a leaf of the same size only gets its permissions
        relaxed; before, the leaf was replaced like any other."""
        old = kvm.spte[fault.gfn]
        if kvm.mm.huge_pages and self.maps_huge(kvm, fault):
            self.stage2_map_huge(kvm, fault)
            return
        if kvm.logs_dirty_pages:
            # what two vCPUs want of one leaf differs: who is second must not take from the first
            self.install_logged(kvm, fault)
        elif feature.arm64_kvm_pgtable and fault.permission:
            if old.present and fault.map_writable:
                kvm.spte[fault.gfn] = old.replace(write=True)
        else:
            if old.present and (old.page is not fault.page):
                # break before make
                kvm.spte[fault.gfn] = Spte()
                self.flush_gfn(kvm, fault.gfn)
            kvm.table[self.table_of(kvm, fault.gfn)] = True
            self.map(kvm, fault)

    def maps_huge(self, kvm, fault):
        return feature.arm64_huge_pages and Arch.maps_huge(self, kvm, fault)

    def stage2_map_huge(self, kvm, fault):
        """A block.  Break before make: a table in its place is detached and flushed first."""
        if kvm.table[self.table_of(kvm, fault.gfn)]:
            for gfn in kvm.gfns:
                if self.table_of(kvm, gfn) == self.table_of(kvm, fault.gfn):
                    kvm.spte[gfn] = Spte()
            self.flush_huge(kvm, fault.gfn)
        self.map_huge(kvm, fault)

    def install_logged(self, kvm, fault):
        """The same with faults that share mmu_lock.  Since commit 694d071f8d85 ("KVM: arm64: Filter
        out the case of only changing permissions from stage-2 map path") in v5.12 translation
        faults leave permissions alone: the guest exits once more, if it has to."""
        if feature.arm64_kvm_pgtable and fault.permission:
            with atomic("cmpxchg of the leaf that is there"):
                old = kvm.spte[fault.gfn]
                if old.present and fault.map_writable:
                    kvm.spte[fault.gfn] = old.replace(write=True)
            return
        old = kvm.spte[fault.gfn]
        same_page = old.present and old.page is fault.page
        if not same_page or not feature.arm64_map_keeps_permissions:
            if old.present and (not same_page or old.write != fault.map_writable):
                # break before make
                kvm.spte[fault.gfn] = Spte()
                self.flush_gfn(kvm, fault.gfn)
            with atomic("cmpxchg: if another vCPU was faster, its leaf stays"):
                if not kvm.spte[fault.gfn].present:
                    kvm.table[self.table_of(kvm, fault.gfn)] = True
                    self.map(kvm, fault)
