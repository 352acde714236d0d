"""mm/huge_memory.c: huge PMDs, and splitting them.

As since v4.5, when a PMD can be split without its page (from memory); older kernels are asked the
same, though they split both."""

from __future__ import annotations

from mmuwitness.model.mm.mm_types import PMD_HUGE, PMD_NONE, PMD_TABLE, UNKNOWN, Pte, pmd_of
from mmuwitness.model.mm.mmu_notifier import (
    mmu_notifier_invalidate_range_end,
    mmu_notifier_invalidate_range_start,
)
from mmuwitness.model.mm.rmap import page_remove_rmap
from mmuwitness.model.primitives import atomic, spin_lock


def set_pmd_huge(mm, addr, first, second):
    """set_pmd_at() of a huge leaf.  ptl is held.  No notifier: nothing was mapped."""
    with atomic("one entry, which hardware reads whole"):
        mm.pmd[pmd_of(addr)] = PMD_HUGE
        mm.pte[addr] = Pte(present=True, write=True, dirty=True, page=first)
        mm.pte[addr + 1] = Pte(present=True, write=True, dirty=True, page=second)


def pmdp_collapse_flush(mm, addr):
    """The PMD is none, and no CPU of the mm has anything of it in its TLB."""
    mm.pmd[pmd_of(addr)] = PMD_NONE
    if mm.host_thread:
        for each in mm.addresses:
            if pmd_of(each) == pmd_of(addr):
                mm.tlb[each] = Pte()


def __split_huge_pmd_locked(mm, addr):
    """pmdp_invalidate() and its flush, then pmd_populate() with a table of the same pages."""
    pmdp_collapse_flush(mm, addr)
    mm.pmd[pmd_of(addr)] = PMD_TABLE


def __split_huge_pmd(mm, addr):
    """A window over all of the PMD, inside that of whoever wants a part of it."""
    start = addr - (addr & 1)
    mmu_notifier_invalidate_range_start(mm, start, start + 2)
    with spin_lock(mm.ptl):
        if mm.pmd[pmd_of(addr)] == PMD_HUGE:
            __split_huge_pmd_locked(mm, addr)
    mmu_notifier_invalidate_range_end(mm, start, start + 2)


def zap_huge_pmd(mm, addr):
    """The two halves of what was mapped, for the caller to free once TLBs are flushed."""
    with spin_lock(mm.ptl):
        first = mm.pte[addr].page
        second = mm.pte[addr + 1].page
        with atomic("one entry, which hardware reads whole"):
            mm.pmd[pmd_of(addr)] = PMD_TABLE
            mm.pte[addr] = Pte()
            mm.pte[addr + 1] = Pte()
        for page, each in ((first, addr), (second, addr + 1)):
            mm.written[each] = UNKNOWN
            page_remove_rmap(page, each)
    return first, second


def split_huge_pmd(mm, addr):
    """mmap_lock is held, so that the PMD is not none."""
    if mm.huge_pages and mm.pmd[pmd_of(addr)] == PMD_HUGE:
        __split_huge_pmd(mm, addr)
