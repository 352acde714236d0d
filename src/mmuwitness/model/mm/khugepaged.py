"""mm/khugepaged.c: small pages become a huge one."""

from __future__ import annotations

from mmuwitness.model.mm.huge_memory import pmdp_collapse_flush, set_pmd_huge
from mmuwitness.model.mm.mm_types import (
    PMD_TABLE,
    UNKNOWN,
    Pte,
    alloc_huge_page,
    nth_page,
    pmd_of,
    put_page,
)
from mmuwitness.model.mm.mmu_notifier import (
    mmu_notifier_invalidate_range_end,
    mmu_notifier_invalidate_range_start,
)
from mmuwitness.model.mm.rmap import page_add_new_anon_rmap, page_remove_rmap
from mmuwitness.model.primitives import feature, spin_lock, trace, trylock, unlock, write_lock


def __collapse_huge_page_isolate(mm, addr):
    """False: somebody besides the PTEs refers to a page.  The PMD is none, so nobody new will.
    (Page locks and the LRU are left out: nobody else takes them in the scenarios.)"""
    for each in (addr, addr + 1):
        if mm.pte[each].present and mm.pte[each].page.refcount != 1:
            return False
    return True


def __collapse_huge_page_copy(mm, addr, page):
    """Page by page; where none was there are zeros.  What was copied is freed."""
    old = mm.pte[addr].page
    if mm.pte[addr].present:
        page.content = old.content
        with spin_lock(mm.ptl):
            mm.pte[addr] = Pte()
            page_remove_rmap(old, addr)
        put_page(old)
    elif mm.written[addr] == UNKNOWN:
        mm.written[addr] = 0


def collapse_huge_page(mm, addr):
    """The window is closed as soon as the PMD is none, before anything is copied: mmap_lock, held
    for writing, keeps faults away, and GUP-fast looks at the PMD again.  (Nobody walks the reverse
    mapping in the scenarios; the kernel holds anon_vma's lock against those who do.)"""
    first = alloc_huge_page(mm)
    if first is None:
        trace("mm_collapse_huge_page", False)
        return
    second = nth_page(mm, first, 1)
    collapsed = False
    with write_lock(mm.mmap_lock):
        if mm.pmd[pmd_of(addr)] == PMD_TABLE:
            mmu_notifier_invalidate_range_start(mm, addr, addr + 2)
            with spin_lock(mm.ptl):
                pmdp_collapse_flush(mm, addr)
            mmu_notifier_invalidate_range_end(mm, addr, addr + 2)
            with spin_lock(mm.ptl):
                collapsed = __collapse_huge_page_isolate(mm, addr)
            if collapsed:
                __collapse_huge_page_copy(mm, addr, first)
                __collapse_huge_page_copy(mm, addr + 1, second)
            with spin_lock(mm.ptl):
                if collapsed:
                    page_add_new_anon_rmap(first, addr)
                    page_add_new_anon_rmap(second, addr + 1)
                    set_pmd_huge(mm, addr, first, second)
                else:
                    # pmd_populate(): the table as it was
                    mm.pmd[pmd_of(addr)] = PMD_TABLE
    if not collapsed:
        put_page(first)
        put_page(second)
    trace("mm_collapse_huge_page", collapsed)


def collapse_and_free_pmd(mm, addr):
    """The table goes, with all that is in it."""
    if feature.collapse_file_bracketed:
        mmu_notifier_invalidate_range_start(mm, addr, addr + 2)
    with spin_lock(mm.ptl):
        pmdp_collapse_flush(mm, addr)
        mm.pte[addr] = Pte()
        mm.pte[addr + 1] = Pte()
        mm.pmd[pmd_of(addr)] = PMD_TABLE
    if feature.collapse_file_bracketed:
        mmu_notifier_invalidate_range_end(mm, addr, addr + 2)


def collapse_pte_mapped_thp(mm, addr):
    """The PTEs of a huge page that is in the page cache are dropped, so that the next fault maps it
    huge.  (Here that fault maps one page again.)  The page is locked, so it stays meanwhile."""
    with write_lock(mm.mmap_lock):
        head = mm.cache[addr]
        if head is not None and trylock(head.lock):
            if mm.cache[addr] is head:
                for each in (addr, addr + 1):
                    with spin_lock(mm.ptl):
                        pte = mm.pte[each]
                        if pte.present:
                            page_remove_rmap(pte.page, each)
                    if pte.present:
                        put_page(pte.page)
                collapse_and_free_pmd(mm, addr)
            unlock(head.lock)


def khugepaged_shmem(mm):
    """Collapses the huge page of a file whenever PTEs map it, for ever.  Until commit 27e1f8273113
    ("khugepaged: enable collapse pmd for pte-mapped THP") in v5.4 it left that to nobody."""
    while True:
        if feature.collapse_pte_mapped_thp:
            collapse_pte_mapped_thp(mm, 0)


def khugepaged(mm):
    """Collapses the first PMD whenever it is a table, for ever."""
    while True:
        collapse_huge_page(mm, 0)
