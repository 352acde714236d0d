"""mm/memory.c, include/linux/mm.h: pages that a driver owns and maps (VM_PFNMAP)."""

from __future__ import annotations

from mmuwitness.model.mm.mm_types import UNKNOWN, Pte
from mmuwitness.model.mm.mmu_notifier import (
    mmu_notifier_invalidate_range_end,
    mmu_notifier_invalidate_range_start,
)
from mmuwitness.model.primitives import atomic, choose, spin_lock, write_lock


def follow_pte(mm, addr):
    """follow_pfn() until v5.11: the PTE.  Nothing keeps what it maps once ptl is dropped."""
    with spin_lock(mm.ptl):
        return mm.pte[addr]


def page_ref_dec_and_free(page):
    """put_page() of a page that may be a driver's: to the allocator with it, tail or not."""
    with atomic("page_ref_dec_and_test: whoever drops the last reference frees the page alone"):
        page.refcount -= 1
        if page.refcount == 0:
            page.tail = False


def alloc_pages(page, counted):
    """A page by itself, or one of several, of which only the first is counted.  False while
    somebody still refers to it."""
    with atomic("the page allocator hands a page to one caller"):
        if page.refcount != 0:
            return False
        page.refcount = 1 if counted else 0
        page.tail = not counted
    return True


def remap_pfn_range(mm, addr, page):
    with write_lock(mm.mmap_lock):
        with spin_lock(mm.ptl):
            mm.pte[addr] = Pte(present=True, write=True, special=True, page=page)


def revoke(mm, addr):
    """unmap_mapping_range(): the mapping is found without mmap_lock."""
    mmu_notifier_invalidate_range_start(mm, addr, addr + 1)
    with spin_lock(mm.ptl):
        mm.pte[addr] = Pte()
        mm.written[addr] = UNKNOWN
    mmu_notifier_invalidate_range_end(mm, addr, addr + 1)


def driver(mm):
    """Maps a page for the VMM, which gives it to the guest, and frees it, any number of times."""
    page = mm.pages[0]
    while True:
        counted = choose(2) == 1
        if alloc_pages(page, counted):
            remap_pfn_range(mm, 0, page)
            revoke(mm, 0)
            if counted:
                page_ref_dec_and_free(page)
            else:
                page.tail = False
