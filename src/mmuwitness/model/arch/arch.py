"""arch/*/include/asm/kvm_host.h: the hooks that an architecture fills, one class for one
secondary MMU.

`kvm_set_spte_gfn` is what `.change_pte()` comes to; `kvm_unmap_gfn_range` what
`invalidate_range_start()` comes to; both run under mmu_lock and say whether the generic code has
to flush.  `page_fault` handles a guest fault.
"""

from __future__ import annotations

from mmuwitness.model.era import Era
from mmuwitness.model.kvm.kvm_host import KvmGfnRange, Spte
from mmuwitness.model.kvm.kvm_main import (
    hva_to_pfn,
    kvm_flush_remote_tlbs,
    mmu_invalidate_retry,
    mmu_invalidate_retry_gfn,
)
from mmuwitness.model.kvm.memslots import gfn_to_hva
from mmuwitness.model.mm.mm_types import PMD_HUGE, nth_page, pmd_of, put_page
from mmuwitness.model.primitives import atomic, feature, write_lock


class Arch:
    """Defaults shared by most.  name: as given on the command line; kernel_arch: as in era rows;
    notifier and change_pte: features that say whether KVM there has them at all."""

    name = ""
    kernel_arch = ""
    notifier = ""
    change_pte = ""
    absent = "no MMU notifier in this KVM"
    maps_reads_writable = False

    def applies(self, era: Era) -> bool:
        """False where this MMU does not exist, or does not subscribe to MMU notifiers."""
        return era.has(self.notifier, self.kernel_arch)

    def has_change_pte(self, era: Era) -> bool:
        """The kernel has the operation, and KVM there fills it."""
        mine = bool(self.change_pte) and era.has(self.change_pte, self.kernel_arch)
        return mine and era.has("change_pte_op", self.kernel_arch)

    def flush_remote_tlbs(self, kvm):
        for vcpu in kvm.vcpus:
            for gfn in kvm.gfns:
                vcpu.tlb[gfn] = Spte()

    def flush_gfn(self, kvm, gfn):
        """Invalidate one gfn in every TLB; returns when it is done (a broadcast TLBI, hfence)."""
        with atomic("the invalidation is broadcast and waited for"):
            for vcpu in kvm.vcpus:
                vcpu.tlb[gfn] = Spte()

    def kvm_unmap_gfn_range(self, kvm, range):
        """Zap the leaves; the caller flushes if there were any."""
        flush = False
        for gfn in kvm.gfns:
            if range.start <= gfn and gfn < range.end:
                if kvm.spte[gfn].present:
                    self.zap_leaf(kvm, gfn)
                    flush = True
        return flush

    def kvm_arch_flush_shadow_memslot(self, kvm, slot):
        """The memslot is INVALID: all that it maps is zapped."""
        first, end = slot.base_gfn, slot.base_gfn + slot.npages
        range = KvmGfnRange(slot=slot, may_block=False, start=first, end=end)
        with write_lock(kvm.mmu_lock):
            if self.kvm_unmap_gfn_range(kvm, range):
                kvm_flush_remote_tlbs(kvm)

    def kvm_mmu_reload(self, vcpu):
        """No root is ever invalid."""

    def page_fault(self, vcpu, fault):
        """Snapshot, look up without locks, lock, retry or install."""
        kvm = vcpu.kvm
        self.take_snapshot(kvm, fault)
        hva_to_pfn(kvm, fault, self.maps_reads_writable)
        if fault.page is not None:
            with write_lock(kvm.mmu_lock):
                if not self.is_stale(kvm, fault):
                    self.map(kvm, fault)
            put_page(fault.page)

    def page_fault_in_host(self, vcpu, fault):
        """As page_fault of MIPS and LoongArch: a fault that is retried begins again, here.  The
        vCPU is in kvm->srcu all the time, and takes no signal."""
        kvm = vcpu.kvm
        retry = True
        while retry:
            retry = False
            fault.page = None
            self.take_snapshot(kvm, fault)
            hva_to_pfn(kvm, fault, self.maps_reads_writable)
            if fault.page is not None:
                with write_lock(kvm.mmu_lock):
                    retry = self.is_stale(kvm, fault)
                    if not retry:
                        self.map(kvm, fault)
                put_page(fault.page)

    def take_snapshot(self, kvm, fault):
        fault.mmu_seq = kvm.mmu_invalidate_seq.snapshot()

    def is_stale(self, kvm, fault):
        if feature.range_retry_hva or feature.range_retry_gfn:
            return mmu_invalidate_retry_gfn(kvm, fault.mmu_seq, fault.gfn)
        return mmu_invalidate_retry(kvm, fault.mmu_seq)

    def map(self, kvm, fault):
        kvm.spte[fault.gfn] = Spte(present=True, write=fault.map_writable, page=fault.page)

    def table_of(self, kvm, gfn):
        """The last-level table page of a gfn."""
        return gfn >> kvm.table_shift

    # Huge leaves

    def is_huge(self, kvm, gfn):
        """A huge leaf is where the table page of this gfn would be."""
        return kvm.mm.huge_pages and kvm.huge[self.table_of(kvm, gfn)]

    def fill_tlb_huge(self, vcpu, gfn):
        """A walk that ends at a huge leaf: the TLB has all that it maps."""
        kvm = vcpu.kvm
        for each in kvm.gfns:
            if self.table_of(kvm, each) == self.table_of(kvm, gfn):
                vcpu.tlb[each] = kvm.spte[each]

    def flush_huge(self, kvm, gfn):
        """As flush_gfn, for all that a huge leaf maps, or a table page."""
        with atomic("the invalidation is broadcast and waited for"):
            for vcpu in kvm.vcpus:
                for each in kvm.gfns:
                    if self.table_of(kvm, each) == self.table_of(kvm, gfn):
                        vcpu.tlb[each] = Spte()

    def zap_leaf(self, kvm, gfn):
        """A huge leaf goes as a whole, whatever part of it the range covers."""
        if self.is_huge(kvm, gfn):
            table = self.table_of(kvm, gfn)
            with atomic("one entry, which hardware reads whole"):
                kvm.huge[table] = False
                for each in kvm.gfns:
                    if self.table_of(kvm, each) == table:
                        kvm.spte[each] = Spte()
        else:
            kvm.spte[gfn] = Spte()

    def zap_and_flush(self, kvm, gfn):
        """For architectures that invalidate TLBs leaf by leaf, inside the walk."""
        huge = self.is_huge(kvm, gfn)
        self.zap_leaf(kvm, gfn)
        if huge:
            self.flush_huge(kvm, gfn)
        else:
            self.flush_gfn(kvm, gfn)

    def host_pfn_mapping_level(self, kvm, fault):
        """True: the primary MMU maps the gfn by a huge PMD.  It is read without ptl, which is good
        enough once the retry check has passed: whoever splits or clears it opens a window over all
        of it, and waits there for mmu_lock."""
        return kvm.mm.pmd[pmd_of(gfn_to_hva(kvm, fault.gfn))] == PMD_HUGE

    def maps_huge(self, kvm, fault):
        """The leaf is to be huge: its VMA said so, or the primary MMU does."""
        return fault.vma_huge or self.host_pfn_mapping_level(kvm, fault)

    def map_huge(self, kvm, fault):
        """A huge leaf in the place of a table page.  It maps what lies beside the page in physical
        memory, whatever that is."""
        table = self.table_of(kvm, fault.gfn)
        with atomic("one entry, which hardware reads whole"):
            kvm.huge[table] = True
            kvm.table[table] = False
            for each in kvm.gfns:
                if self.table_of(kvm, each) == table:
                    page = nth_page(kvm.mm, fault.page, each & 1)
                    kvm.spte[each] = Spte(present=True, write=fault.map_writable, page=page)
