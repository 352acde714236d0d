"""arch/*/include/asm/kvm_host.h: the hooks that an architecture fills, one class for one
secondary MMU.

`kvm_set_spte_gfn` is what `.change_pte()` comes to; `kvm_unmap_gfn_range` what
`invalidate_range_start()` comes to; both run under mmu_lock and say whether the generic code has
to flush.  `page_fault` handles a guest fault.
"""

from __future__ import annotations

from mmuwitness.model.era import Era
from mmuwitness.model.kvm.dirty_log import mark_page_dirty_in_slot
from mmuwitness.model.kvm.kvm_host import KvmGfnRange, Spte
from mmuwitness.model.kvm.kvm_main import (
    hva_to_pfn,
    kvm_flush_remote_tlbs,
    kvm_release_pfn_clean,
    kvm_set_pfn_dirty,
    mmu_invalidate_retry,
    mmu_invalidate_retry_gfn,
)
from mmuwitness.model.kvm.memslots import gfn_to_hva, kvm_memslots, memslot_base
from mmuwitness.model.mm.mm_types import PMD_HUGE, nth_page, pmd_of
from mmuwitness.model.primitives import atomic, feature, trace, write_lock


class Arch:
    """Defaults shared by most.  name: as given on the command line; kernel_arch: as in era rows;
    notifier and change_pte: features that say whether KVM there has them at all; has_private_mem:
    guests may have private memory; frees_tables: ->release() frees the tables, not only what they
    map; frees_by_rcu: who walks them without mmu_lock is waited for; has_hptes: leaves have locks
    of their own, and faults ask for retry under these instead of mmu_lock;
    logs_by_write_protection: that is how the dirty log learns of writes."""

    name = ""
    kernel_arch = ""
    notifier = ""
    change_pte = ""
    absent = "no MMU notifier in this KVM"
    maps_reads_writable = False
    retries_in_host = False
    has_private_mem = False
    frees_tables = False
    frees_by_rcu = False
    has_hptes = False
    logs_by_write_protection = True

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
        first = memslot_base(kvm, kvm_memslots(kvm), slot)
        range = KvmGfnRange(slot=slot, may_block=False, start=first, end=first + slot.npages)
        with write_lock(kvm.mmu_lock):
            if self.kvm_unmap_gfn_range(kvm, range):
                kvm_flush_remote_tlbs(kvm)

    def kvm_mmu_reload(self, vcpu):
        """No root is ever invalid."""

    def kvm_arch_flush_shadow_all(self, kvm):
        """All that any memslot maps is zapped."""
        with write_lock(kvm.mmu_lock):
            for gfn in kvm.gfns:
                kvm.spte[gfn] = Spte()
            kvm_flush_remote_tlbs(kvm)

    def handle_mmio_page_fault(self, kvm, fault):
        """A gfn in no memslot: nothing is looked up, nothing is remembered."""
        trace("kvm_mmio", fault.gfn)

    def page_fault(self, vcpu, fault):
        """Some begin a fault that is retried again here, with the vCPU in kvm->srcu all the time;
        others let the guest fault again.  Only those who wait for kvm->srcu can tell apart."""
        self.map_page(vcpu.kvm, fault)
        while vcpu.kvm.loops_in_host and self.retries_in_host and fault.retry:
            fault.retry = False
            fault.page = None
            self.map_page(vcpu.kvm, fault)

    def map_page(self, kvm, fault):
        """Snapshot, look up without locks, lock, retry or install."""
        self.take_snapshot(kvm, fault)
        hva_to_pfn(kvm, fault, self.maps_reads_writable)
        if fault.page is not None:
            self.restrict_to_access(kvm, fault)
            with write_lock(kvm.mmu_lock):
                if not self.is_stale(kvm, fault):
                    self.install(kvm, fault)
                elif kvm.loops_in_host:
                    fault.retry = True
            kvm_release_pfn_clean(kvm, fault.page)

    def take_snapshot(self, kvm, fault):
        fault.mmu_seq = kvm.mmu_invalidate_seq.snapshot()

    def restrict_to_access(self, kvm, fault):
        """While the memslot is logged, a leaf is writable only after a write."""
        if kvm.logs_dirty_pages and fault.logged and not fault.write:
            fault.map_writable = False

    def install(self, kvm, fault):
        """A leaf that another vCPU has made writable meanwhile is left so."""
        if kvm.logs_dirty_pages:
            old = kvm.spte[fault.gfn]
            if old.present and old.write and old.page is fault.page:
                return
        self.map(kvm, fault)
        self.log_fault(kvm, fault)

    def log_fault(self, kvm, fault):
        """mmu_lock is held, so the log is not read between the leaf and this, and no window opens
        that would zap the leaf.  The page is dirty before a guest can have written to it.  (On
        powerpc-hv only after mmu_lock was dropped, but while it is referenced.)"""
        if kvm.mm.frees_lazily and fault.map_writable:
            kvm_set_pfn_dirty(kvm, fault.page)
        if kvm.logs_dirty_pages and fault.map_writable:
            mark_page_dirty_in_slot(kvm, fault.gfn, fault.logged)

    def spte_write_protect(self, kvm, gfn, pt_protect):
        """mmu_lock is held for writing.  True: TLBs may have it writable.  pt_protect: against all
        writes, not only until the next one is logged."""
        spte = kvm.spte[gfn]
        if spte.present and spte.write:
            kvm.spte[gfn] = spte.replace(write=False)
            return True
        return False

    def kvm_age_gfn(self, kvm, range):
        young = False
        for gfn in kvm.gfns:
            if range.start <= gfn and gfn < range.end:
                young = self.age_leaf(kvm, gfn) or young
        return young

    def age_leaf(self, kvm, gfn):
        """True: the leaf was young, and is not any more."""
        with atomic("test and clear: hardware may set the bit at any time"):
            spte = kvm.spte[gfn]
            if spte.present and not spte.aged:
                kvm.spte[gfn] = spte.replace(aged=True)
                return True
        return False

    def is_stale(self, kvm, fault):
        if feature.range_retry_hva or feature.range_retry_gfn:
            key = fault.hva if feature.range_retry_hva else fault.gfn
            return mmu_invalidate_retry_gfn(kvm, fault.mmu_seq, key)
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
