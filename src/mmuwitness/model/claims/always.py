"""What is claimed of every host in every state."""

from __future__ import annotations

from typing import Any

from mmuwitness.model.claims.claim import always
from mmuwitness.model.kvm.kvm_host import GONE
from mmuwitness.model.kvm.mem_attributes import kvm_mem_is_private
from mmuwitness.model.kvm.memslots import (
    gfn_to_hva,
    gfn_to_memslot,
    kvm_is_error_hva,
    kvm_memslots,
)
from mmuwitness.model.mm.mm_types import (
    PMD_HUGE,
    UNKNOWN,
    pmd_of,
    walk_page_tables,
)
from mmuwitness.model.primitives import feature


def is_backed(kvm: Any, gfn: Any) -> Any:
    """The VMM's memory is behind the gfn: it has an hva, and is not private."""
    return not kvm_is_error_hva(kvm, gfn_to_hva(kvm, gfn)) and not kvm_mem_is_private(kvm, gfn)


@always("I1", "ptl", "mmu_lock")
def coherent(host: Any) -> Any:
    """Where no window is open, a present SPTE maps the page that the PTE maps, and is writable
    only if the PTE is."""
    mm = host.mm
    for kvm in host.kvms:
        for gfn in kvm.gfns:
            addr = gfn_to_hva(kvm, gfn)
            spte = kvm.spte[gfn]
            if not spte.present or not is_backed(kvm, gfn):
                continue
            if mm.open_windows[addr] == 0:
                pte = walk_page_tables(mm, addr)
                if not pte.present or pte.page is not spte.page or (spte.write and not pte.write):
                    return False
    return True


@always("I2", "ptl", "mmu_lock")
def absent_in_window(host: Any) -> Any:
    """While a window is open the SPTEs under it are absent; a kernel with change_pte may have put
    there what the PTE maps, and a fault beside the window a huge leaf, while the PMD is huge."""
    mm = host.mm
    for kvm in host.kvms:
        for gfn in kvm.gfns:
            addr = gfn_to_hva(kvm, gfn)
            spte = kvm.spte[gfn]
            if not spte.present or not is_backed(kvm, gfn):
                continue
            if mm.open_windows[addr] != 0:
                pte = walk_page_tables(mm, addr)
                # whoever splits the PMD opens a window over all of it
                beside = kvm.arch.is_huge(kvm, gfn) and mm.pmd[pmd_of(addr)] == PMD_HUGE
                if not feature.change_pte_op and not beside:
                    return False
                if not pte.present or pte.page is not spte.page:
                    return False
    return True


@always("I3", "ptl", "mmu_lock")
def no_stale_tlb_entry(host: Any) -> Any:
    """Under an open window, or where none is open and ptl is free, no vCPU's TLB maps anything
    but the page that the PTE maps, and none is writable where the PTE is not."""
    mm = host.mm
    for kvm in host.kvms:
        for vcpu in kvm.vcpus:
            for gfn in kvm.gfns:
                entry = vcpu.tlb[gfn]
                if entry.present and is_backed(kvm, gfn):
                    pte = walk_page_tables(mm, gfn_to_hva(kvm, gfn))
                    if not pte.present or pte.page is not entry.page:
                        return False
                    if entry.write and not pte.write:
                        return False
    return True


def is_free(mm: Any, page: Any) -> Any:
    return page.refcount == 0 and not (mm.maps_pfns and page.tail)


@always("I4")
def freed_page_unmapped(host: Any) -> Any:
    """A page that is free is mapped by no SPTE and by no vCPU's TLB, nor named by a
    gfn_to_pfn_cache that is valid."""
    mm = host.mm
    for kvm in host.kvms:
        for gpc in kvm.gpc_list:
            if gpc.valid and gpc.page is not None and gpc.page.refcount == 0:
                return False
        for gfn in kvm.gfns:
            spte = kvm.spte[gfn]
            if spte.present and is_free(mm, spte.page):
                return False
            spte = kvm.invalid_spte[gfn]
            if spte.present and spte.page.refcount == 0:
                return False
            for vcpu in kvm.vcpus:
                entry = vcpu.tlb[gfn]
                if entry.present and is_free(mm, entry.page):
                    return False
    return True


@always("I5")
def shared_page_read_only(host: Any) -> Any:
    """No SPTE and no vCPU's TLB lets a guest write to a KSM page, or to a page mapped twice."""
    for kvm in host.kvms:
        for gfn in kvm.gfns:
            spte = kvm.spte[gfn]
            if spte.present and spte.write and (spte.page.ksm or spte.page.mapcount > 1):
                return False
            for vcpu in kvm.vcpus:
                entry = vcpu.tlb[gfn]
                if entry.present and entry.write and (entry.page.ksm or entry.page.mapcount > 1):
                    return False
    return True


@always("I6", "ptl")
def no_lost_write(host: Any) -> Any:
    """The page that a PTE maps holds what was last stored to its address, by a guest or by the
    host, and every load returned that."""
    mm = host.mm
    if mm.stale_load:
        return False
    for addr in mm.addresses:
        pte = mm.pte[addr]
        if pte.present and mm.written[addr] != UNKNOWN and pte.page.content != mm.written[addr]:
            return False
    return True


def leaves(mm: Any) -> bool:
    """A subscriber leaves the list in this scenario."""
    return bool(mm.exits or mm.unregisters)


@always("I8", "mmu_lock", "mn_invalidate_lock")
def windows_balanced(host: Any) -> Any:
    """mmu_invalidate_in_progress and mn_active_invalidate_count are never negative, and are 0
    when nobody is between start() and end(); but a VM that is off the list, since its mm has exited
    or since it is being destroyed, may miss the end of windows that were open then."""
    for kvm in host.kvms:
        count = kvm.mmu_invalidate_in_progress
        active = kvm.mn_active_invalidate_count
        unsubscribed = leaves(host.mm) and not host.mm.hashed[kvm.index]
        if count < 0 or active < 0:
            return False
        if host.mm.invalidating == 0 and not unsubscribed and (count != 0 or active != 0):
            return False
    return True


@always("I9", "mmu_lock")
def seq_before_count(host: Any) -> Any:
    """Whoever finds mmu_lock free and mmu_invalidate_in_progress lowered finds
    mmu_invalidate_seq bumped, too."""
    bumped = True
    for kvm in host.kvms:
        bumped = bumped and kvm.mmu_invalidate_in_progress >= kvm.unbumped
    return bumped


@always("I11")
def deleted_slot_unmapped(host: Any) -> Any:
    """Once a memslot is gone, no SPTE and no vCPU's TLB maps anything at its gfns: what the guest
    does there is MMIO."""
    for kvm in host.kvms:
        slots = kvm_memslots(kvm)
        for gfn in kvm.gfns:
            if gfn_to_memslot(kvm, slots, gfn) == GONE:
                if kvm.spte[gfn].present:
                    return False
                for vcpu in kvm.vcpus:
                    if vcpu.tlb[gfn].present:
                        return False
    return True


@always("I13")
def change_pte_alone(host: Any) -> Any:
    """A change_pte that makes or changes a leaf sees exactly one open window, its own."""
    crowded = False
    for kvm in host.kvms:
        crowded = crowded or kvm.crowded
    return not crowded
