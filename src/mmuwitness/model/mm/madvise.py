"""mm/madvise.c: MADV_FREE, memory whose content may go as long as nobody writes to it again."""

from __future__ import annotations

from mmuwitness.model.mm.gup import blkdev_direct_io
from mmuwitness.model.mm.mm_types import UNKNOWN, Pte
from mmuwitness.model.mm.mmu_notifier import (
    mmu_notifier_invalidate_range_end,
    mmu_notifier_invalidate_range_start,
)
from mmuwitness.model.mm.rmap import folio_mark_lazyfree
from mmuwitness.model.mm.tlb import flush_tlb_batched_pending, flush_tlb_range
from mmuwitness.model.primitives import choose, read_lock, spin_lock, trylock, unlock


def folio_clear_dirty(page):
    """False: the page stays as it is, since somebody else maps it, or holds its lock."""
    cleared = False
    if trylock(page.lock):
        if page.mapcount == 1:
            page.dirty = False
            cleared = True
        unlock(page.lock)
    return cleared


def madvise_free_pte_range(mm, addr):
    """A write from here on makes the PTE dirty again, or the page; that is all that reclaim asks.
    (A page that is in the swap cache is left as it is.)"""
    with spin_lock(mm.ptl):
        flush_tlb_batched_pending(mm)
        pte = mm.pte[addr]
        if pte.swap and pte.page is None:
            mm.pte[addr] = Pte()
            mm.written[addr] = UNKNOWN
        elif pte.present:
            page = pte.page
            if not page.dirty or folio_clear_dirty(page):
                mm.pte[addr] = pte.replace(dirty=False)
                mm.written[addr] = UNKNOWN
                folio_mark_lazyfree(page)


def madvise_free_single_vma(mm, start, end):
    """mmap_lock is held.  The window sends KVM's dirty bits to the pages before theirs are looked
    at.  TLBs of the host are flushed last, by tlb_finish_mmu()."""
    mmu_notifier_invalidate_range_start(mm, start, end)
    for addr in mm.addresses:
        if start <= addr and addr < end:
            madvise_free_pte_range(mm, addr)
    mmu_notifier_invalidate_range_end(mm, start, end)
    flush_tlb_range(mm, start, end)


def madvise_free(mm):
    """The VMM says of guest pages that it can do without their content, any number of times."""
    while True:
        addr = choose(mm.nr_addresses)
        with read_lock(mm.mmap_lock):
            madvise_free_single_vma(mm, addr, addr + 1)


def madvise_free_and_read(mm):
    """The VMM frees the first guest page, and then has a disk read into it, any number of times."""
    while True:
        with read_lock(mm.mmap_lock):
            madvise_free_single_vma(mm, 0, 1)
        blkdev_direct_io(mm, 0)
