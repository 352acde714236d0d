"""mm/gup.c: get_user_pages, fast and slow."""

from __future__ import annotations

from mmuwitness.model.mm.memory import handle_mm_fault
from mmuwitness.model.mm.mm_types import (
    get_page,
    is_zero_page,
    put_page,
    store,
    try_get_page,
    walk_page_tables,
)
from mmuwitness.model.primitives import atomic, feature, lock, read_lock, spin_lock, unlock


def get_user_page_fast_only(mm, addr, write):
    """A referenced page without any lock, or None."""
    with atomic("IRQs are off, and PMD and PTE are read again once the reference is taken"):
        pte = walk_page_tables(mm, addr)
        if pte.present and (pte.write or not write) and not (mm.maps_pfns and pte.special):
            get_page(pte.page)
            return pte.page
    return None


def follow_page(mm, addr, write):
    """A referenced page if the PTE allows the access, and is not special."""
    with spin_lock(mm.ptl):
        pte = mm.pte[addr]
        if pte.present and (pte.write or not write) and not (mm.maps_pfns and pte.special):
            if mm.frees_lazily and write and not pte.dirty:
                # FOLL_TOUCH: the caller is going to write
                pte.page.dirty = True
            if not is_zero_page(mm, pte.page):
                get_page(pte.page)
            elif not try_get_page(mm, pte.page):
                return None
            return pte.page
    return None


def get_user_pages_unlocked(mm, addr, write):
    """In v5.8 a reader breaks COW, too.  (Asked where there is a child.)"""
    if mm.forks and feature.gup_breaks_cow:
        return __get_user_pages_locked(mm, addr, True)
    return __get_user_pages_locked(mm, addr, write)


def __get_user_pages_locked(mm, addr, write):
    """Look, fault, and look again.  None after one fault that did not help (out of memory, or
    somebody was faster): the caller's guest faults again."""
    with read_lock(mm.mmap_lock):
        page = follow_page(mm, addr, write)
        if page is None:
            handle_mm_fault(mm, addr, write)
            page = follow_page(mm, addr, write)
        return page


def pin_user_pages_fast(mm, addr):
    """FOLL_PIN | FOLL_WRITE: a page that a device writes to, or None where that takes mmap_lock."""
    if not mm.forks or not feature.fork_write_protect_seq:
        return try_grab_page(mm, addr)
    with atomic("raw_read_seqcount: one word"):
        odd = mm.write_protect_seq.odd
        seq = mm.write_protect_seq.sequence.snapshot()
    if odd:
        return None
    page = try_grab_page(mm, addr)
    if page is not None and mm.write_protect_seq.sequence != seq:
        unpin_user_page(page)
        return None
    return page


def try_grab_page(mm, addr):
    with atomic("IRQs are off, and the PTE is read again once the page is pinned"):
        pte = mm.pte[addr]
        if pte.present and pte.write and pte.page.pincount == 0:
            get_page(pte.page)
            pte.page.pincount += 1
            return pte.page
    return None


def unpin_user_page(page):
    with atomic("a pin is a reference, counted in the same word"):
        page.pincount -= 1
        put_page(page)


def set_page_dirty_lock(page):
    """mm/page-writeback.c."""
    lock(page.lock)
    page.dirty = True
    unlock(page.lock)


def blkdev_direct_io(mm, addr):
    """block/fops.c: a disk is read into guest memory with O_DIRECT.  The page is found by GUP-fast,
    which leaves the PTE clean; it is made dirty before the device writes.  (And again after it,
    which only matters to who calls MADV_FREE meanwhile.)"""
    page = get_user_page_fast_only(mm, addr, True)
    if page is None:
        with read_lock(mm.mmap_lock):
            handle_mm_fault(mm, addr, True)
    else:
        set_page_dirty_lock(page)
        with atomic("one write of a device"):
            store(mm, page, addr)
        put_page(page)


def vfio_dma(mm):
    """drivers/vfio: a device that writes to guest memory, any number of times.  Where the fast way
    finds nothing there is a write fault, and another try."""
    while True:
        page = pin_user_pages_fast(mm, 0)
        if page is None:
            with read_lock(mm.mmap_lock):
                handle_mm_fault(mm, 0, True)
        else:
            with atomic("one write of a device"):
                store(mm, page, 0)
            unpin_user_page(page)
