"""What is claimed of hosts that use the thing in question."""

from __future__ import annotations

from typing import Any

from mmuwitness.model.claims.claim import always
from mmuwitness.model.kvm.guest_memfd import kvm_gmem_maps
from mmuwitness.model.kvm.mem_attributes import kvm_mem_is_private
from mmuwitness.model.kvm.memslots import (
    gfn_to_hva,
)
from mmuwitness.model.mm.mm_types import (
    REFCOUNT_MAX,
    UNKNOWN,
    pte_none,
    vma_allows,
)
from mmuwitness.model.state import Bounded


def logs_dirty_pages(host: Any) -> bool:
    return bool(host.kvm.logs_dirty_pages)


def tracks_writes(host: Any) -> bool:
    return bool(host.kvm.tracks_writes)


def replaces_roots(host: Any) -> bool:
    return bool(host.kvm.replaces_roots)


def caches_mmio(host: Any) -> bool:
    return bool(host.kvm.caches_mmio)


def has_private_memory(host: Any) -> bool:
    return host.kvm.gmem is not None


def has_caches(host: Any) -> bool:
    return bool(host.kvm.gpc_list)


def changes_vmas_under_threads(host: Any) -> bool:
    return bool(host.mm.changes_vmas and host.mm.host_thread)


def defers_host_flushes(host: Any) -> bool:
    return bool(host.mm.defers_flushes and host.mm.host_thread)


def frees_tables(host: Any) -> bool:
    return bool(host.kvm.frees_tables or host.kvm.frees_by_rcu)


def unregisters(host: Any) -> bool:
    return bool(host.mm.unregisters)


def has_zero_page(host: Any) -> bool:
    return host.mm.zero_page is not None


def frees_lazily(host: Any) -> bool:
    return bool(host.mm.frees_lazily)


def writes_back(host: Any) -> bool:
    return bool(host.mm.writes_back)


def has_child(host: Any) -> bool:
    return bool(host.children)


def has_hptes(host: Any) -> bool:
    return bool(host.kvm.hptes)


@always("", where=has_hptes)
def seq_before_count_unlocked(host: Any) -> Any:
    """Where faults look without mmu_lock: whoever finds mmu_invalidate_in_progress lowered finds
    mmu_invalidate_seq bumped, be the lock free or not."""
    return host.kvm.mmu_invalidate_in_progress >= host.kvm.unbumped


@always("I3h", "mmap_lock", where=changes_vmas_under_threads)
def read_only_for_threads(host: Any) -> Any:
    """Once mprotect() has made memory read-only, or mremap() has moved it away, no TLB of the host
    lets a thread of the VMM write to it there, unless somebody is about to flush."""
    mm = host.mm
    if mm.tlb_flush_pending != 0:
        return True
    for addr in mm.addresses:
        entry = mm.tlb[addr]
        if entry.present and entry.write and not vma_allows(mm, addr, True):
            return False
    return True


@always("I4h", where=defers_host_flushes)
def freed_page_flushed(host: Any) -> Any:
    """Where flushes are deferred, a page that is free is in no TLB of the host."""
    mm = host.mm
    for addr in mm.addresses:
        entry = mm.tlb[addr]
        if entry.present and entry.page.refcount == 0:
            return False
    return True


@always("I4r", where=has_zero_page)
def references_dropped(host: Any) -> Any:
    """Who takes a reference to the zero page drops it: the count never grows to where the next
    one is refused."""
    return host.mm.zero_page.refcount != REFCOUNT_MAX


@always("I5z", where=has_zero_page)
def zero_page_read_only(host: Any) -> Any:
    """No SPTE and no vCPU's TLB lets a guest write to the zero page, and it holds zeros."""
    kvm = host.kvm
    zero_page = host.mm.zero_page
    for gfn in kvm.gfns:
        spte = kvm.spte[gfn]
        if spte.present and spte.write and spte.page is zero_page:
            return False
        for vcpu in kvm.vcpus:
            entry = vcpu.tlb[gfn]
            if entry.present and entry.write and entry.page is zero_page:
                return False
    return zero_page.content == 0


@always("I6c", "mmap_lock", where=has_child)
def child_has_its_own(host: Any) -> Any:
    """What a child reads, and what it has put into a pipe, was there when it was forked, or the
    child wrote it: nothing that its parent wrote later."""
    for child in host.children:
        if child.stale_load:
            return False
        if child.spliced is not None and child.spliced.content != child.spliced_content:
            return False
        for addr in child.addresses:
            pte = child.pte[addr]
            if pte.present and pte.page.content != child.written[addr]:
                return False
    return True


@always("I6f", "ptl", where=frees_lazily)
def written_page_kept(host: Any) -> Any:
    """What was written after MADV_FREE is not discarded: where no page is mapped any more, there
    was nothing to keep, or zeros."""
    mm = host.mm
    for addr in mm.addresses:
        pte = mm.pte[addr]
        if pte_none(pte) and mm.written[addr] == 1:
            return False
    return True


@always("I7d", "ptl", "page_lock", where=writes_back)
def clean_page_saved(host: Any) -> Any:
    """A page of a file of which neither the PTE nor the page itself is dirty holds what the disk
    has: reclaim may drop it."""
    mm = host.mm
    for addr in mm.addresses:
        pte = mm.pte[addr]
        clean = pte.present and not pte.dirty and not pte.page.dirty
        if clean and pte.page.content != mm.disk[addr]:
            return False
    return True


@always("I7", "mmu_lock", where=logs_dirty_pages)
def written_page_logged(host: Any) -> Any:
    """What a guest has written to a page since the VMM sent it is in the dirty bitmap, or in the
    log that the VMM is going through, or about to be put there by the vCPU whose fault it was."""
    kvm = host.kvm
    if kvm.logs_dirty_pages:
        for gfn in kvm.gfns:
            now = host.mm.written[gfn_to_hva(kvm, gfn)]
            if kvm.sent[gfn] != 0 and now != UNKNOWN and kvm.sent[gfn] != 1 + now:
                logged = kvm.dirty_bitmap[gfn] or kvm.dirty_log[gfn]
                if not logged and kvm.unmarked[gfn] == 0:
                    return False
    return True


@always("", "mmu_lock", where=tracks_writes)
def tracked_page_read_only(host: Any) -> Any:
    """A guest page table that is shadowed is writable in no SPTE and in no vCPU's TLB."""
    kvm = host.kvm
    if kvm.tracks_writes:
        for gfn in kvm.gfns:
            if kvm.gfn_write_track[gfn]:
                if kvm.spte[gfn].write:
                    return False
                for vcpu in kvm.vcpus:
                    if vcpu.tlb[gfn].write:
                        return False
    return True


@always("", "mmu_lock", where=replaces_roots)
def obsolete_root_unmapped(host: Any) -> Any:
    """A root that a memslot update made invalid and zapped maps nothing from then on: nobody looks
    there again."""
    kvm = host.kvm
    held: Bounded(0, 2) = 0  # type: ignore[valid-type]
    for vcpu in kvm.vcpus:
        if vcpu.root_invalid:
            held += 1
    if kvm.tdp_mmu_root_count == held:
        for gfn in kvm.gfns:
            if kvm.invalid_spte[gfn].present:
                return False
    return True


@always("", where=caches_mmio)
def mmio_not_retried(host: Any) -> Any:
    """No window sends a fault back that is at a gfn in no memslot."""
    return not host.kvm.mmio_retried


@always("", "mmu_lock", where=has_private_memory)
def private_gfn_unshared(host: Any) -> Any:
    """An SPTE and a vCPU's TLB map at a private gfn nothing but the page that guest_memfd has
    there: no shared one, and none that was truncated."""
    kvm = host.kvm
    for gfn in kvm.gfns:
        if kvm_mem_is_private(kvm, gfn):
            spte = kvm.spte[gfn]
            if spte.present and not kvm_gmem_maps(kvm, gfn, spte.page):
                return False
            for vcpu in kvm.vcpus:
                entry = vcpu.tlb[gfn]
                if entry.present and not kvm_gmem_maps(kvm, gfn, entry.page):
                    return False
    return True


@always("", where=has_caches)
def cache_names_mapped_page(host: Any) -> Any:
    """A gfn_to_pfn_cache that is valid names the page that the PTE of its hva maps, writable."""
    for gpc in host.kvm.gpc_list:
        if gpc.valid and gpc.page is not None:
            pte = host.mm.pte[gpc.uhva]
            if not pte.present or not pte.write or pte.page is not gpc.page:
                return False
    return True
