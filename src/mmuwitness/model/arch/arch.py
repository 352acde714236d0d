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
    kvm_release_pfn_clean,
    mmu_invalidate_retry,
    mmu_invalidate_retry_gfn,
)
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
                    kvm.spte[gfn] = Spte()
                    flush = True
        return flush

    def kvm_arch_flush_shadow_memslot(self, kvm, slot):
        """The memslot is INVALID: all that it maps is zapped."""
        range = KvmGfnRange(slot=slot, start=slot.base_gfn, end=slot.base_gfn + slot.npages)
        with write_lock(kvm.mmu_lock):
            if self.kvm_unmap_gfn_range(kvm, range):
                kvm_flush_remote_tlbs(kvm)

    def page_fault(self, vcpu, fault):
        """Snapshot, look up without locks, lock, retry or install."""
        kvm = vcpu.kvm
        fault.mmu_seq = kvm.mmu_invalidate_seq.snapshot()
        hva_to_pfn(kvm, fault, self.maps_reads_writable)
        if fault.page is not None:
            with write_lock(kvm.mmu_lock):
                if not self.is_stale(kvm, fault):
                    self.map(kvm, fault)
            kvm_release_pfn_clean(kvm, fault.page)

    def is_stale(self, kvm, fault):
        if feature.range_retry_hva or feature.range_retry_gfn:
            return mmu_invalidate_retry_gfn(kvm, fault.mmu_seq, fault.gfn)
        return mmu_invalidate_retry(kvm, fault.mmu_seq)

    def map(self, kvm, fault):
        kvm.spte[fault.gfn] = Spte(present=True, write=fault.map_writable, page=fault.page)

    def table_of(self, kvm, gfn):
        """The last-level table page of a gfn."""
        return gfn >> kvm.table_shift
