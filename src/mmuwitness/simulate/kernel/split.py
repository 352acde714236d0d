"""Huge leaves of a memslot that is logged: pages are logged one by one, so leaves are split.

x86 since v5.17 splits all when logging begins (eager_page_split), and so does arm64 where the VMM
asks for it; else each is split by the first write to it."""

from __future__ import annotations

from typing import Any

from mmuwitness.model.arch.x86_spte import make_spte
from mmuwitness.model.kvm.kvm_main import kvm_flush_remote_tlbs
from mmuwitness.model.primitives import atomic, feature, write_lock
from mmuwitness.simulate.kernel.huge import HUGE


def split_huge_leaf(self, kvm, gfn):
    """A table of the same leaves, as they are, in the place of the huge one."""
    with atomic("one entry, which hardware reads whole"):
        kvm.huge[self.table_of(kvm, gfn)] = False
        kvm.table[self.table_of(kvm, gfn)] = True


def kvm_mmu_slot_remove_write_access(kvm):
    """As the model's, and huge leaves are split before; or they are protected against whoever could
    make them writable again without mmu_lock."""
    flush = feature.dirty_log_always_flushes
    with write_lock(kvm.mmu_lock):
        for gfn in kvm.gfns:
            if kvm.mm.huge_pages and kvm.eager_page_split and kvm.arch.is_huge(kvm, gfn):
                split_huge_leaf(kvm.arch, kvm, gfn)
            huge = kvm.arch.is_huge(kvm, gfn)
            flush = kvm.arch.spte_write_protect(kvm, gfn, huge) or flush
        if flush and feature.dirty_log_flush_under_lock:
            kvm_flush_remote_tlbs(kvm)
    if flush and not feature.dirty_log_flush_under_lock:
        kvm_flush_remote_tlbs(kvm)


def maps_huge(self, kvm, fault):
    """kvm_mmu_hugepage_adjust(): not what is logged."""
    return not fault.logged and self.host_pfn_mapping_level(kvm, fault)


def arm64_maps_huge(self, kvm, fault):
    """mmu_lock is held.  A block that is logged is replaced: break before make, and all but this
    page fault again."""
    if fault.logged and self.is_huge(kvm, fault.gfn):
        self.zap_and_flush(kvm, fault.gfn)
        fault.permission = False
    return feature.arm64_huge_pages and maps_huge(self, kvm, fault)


def x86_map(self, kvm, fault):
    """mmu_lock is held.  The fault splits what it finds huge; the other leaves stay."""
    if self.is_huge(kvm, fault.gfn):
        split_huge_leaf(self, kvm, fault.gfn)
    spte = make_spte(kvm, fault.gfn, fault.page, fault.map_writable, fault.logged)
    kvm.spte[fault.gfn] = spte


LOGGED: dict[str, Any] = HUGE | {
    "kvm.dirty_log.kvm_mmu_slot_remove_write_access": kvm_mmu_slot_remove_write_access,
    "arch.arch.Arch.maps_huge": maps_huge,
    "arch.arm64.Arm64.maps_huge": arm64_maps_huge,
    "arch.x86.X86.map": x86_map,
}
"""In the place of the model's."""
