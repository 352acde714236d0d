"""mm/hugetlb.c: page faults in a VMA of hugetlb, and PMD tables that two mappings share.

Where tables are shared (`mm.shares_pmds`) all pages are huge, so that each stands for one: pte[a]
is the PMD of address a, and a PMD table has two.  Addresses 0 and 1 are one mapping of a file, 2
and 3 another."""

from __future__ import annotations

from mmuwitness.model.mm.huge_memory import set_pmd_huge
from mmuwitness.model.mm.mm_types import (
    PMD_HUGE,
    UNKNOWN,
    Pte,
    alloc_huge_page,
    nth_page,
    pmd_of,
    pte_none,
    put_page,
)
from mmuwitness.model.mm.rmap import page_add_new_anon_rmap
from mmuwitness.model.primitives import atomic, spin_lock, wait_until


def hugetlb_fault(mm, addr):
    """hugetlb_no_page(): a huge page of zeros, if there is none."""
    if mm.pmd[pmd_of(addr)] == PMD_HUGE:
        return
    first = alloc_huge_page(mm)
    if first is None:
        return
    second = nth_page(mm, first, 1)
    start = addr - (addr & 1)
    mapped = False
    with spin_lock(mm.ptl):
        if mm.pmd[pmd_of(addr)] != PMD_HUGE:
            for page, each in ((first, start), (second, start + 1)):
                page_add_new_anon_rmap(page, each)
                if mm.written[each] == UNKNOWN:
                    mm.written[each] = 0
            set_pmd_huge(mm, start, first, second)
            mapped = True
    if not mapped:
        put_page(first)
        put_page(second)


def other_mapping(addr):
    """Where the other mapping has the same page of the file."""
    return addr ^ 2


def set_huge_pte_at(mm, addr, pte):
    """ptl is held.  An entry of a shared table is seen through both mappings."""
    with atomic("one entry, which hardware reads whole"):
        mm.pte[addr] = pte
        if mm.pmd_shared:
            mm.pte[other_mapping(addr)] = pte


def huge_pmd_share(mm, addr):
    """A mapping without a table gets that of the other one, with all that is in it."""
    with spin_lock(mm.ptl):
        start = addr - (addr & 1)
        if pte_none(mm.pte[start]) and pte_none(mm.pte[start + 1]):
            with atomic("pud_populate(): one entry"):
                mm.pte[start] = mm.pte[other_mapping(start)]
                mm.pte[start + 1] = mm.pte[other_mapping(start) + 1]
                mm.pmd_shared = True


def huge_pmd_unshare(mm, addr):
    """ptl is held.  True: the table was shared; this mapping of the file has none now."""
    if not mm.pmd_shared:
        return False
    start = addr - (addr & 1)
    with atomic("pud_clear(): one entry"):
        mm.pte[start] = Pte()
        mm.pte[start + 1] = Pte()
        mm.pmd_shared = False
    return True


def adjust_range_if_pmd_sharing_possible(addr):
    """Unsharing unmaps all that the table maps, so a window has to be over all of it."""
    start = addr - (addr & 1)
    return start, start + 2


def hugetlb_fault_shared(mm, addr):
    """The file's pages are in one of the two tables always."""
    pte = mm.pte[addr]
    if pte_none(pte):
        huge_pmd_share(mm, addr)
    elif pte.migration:
        wait_until(not mm.pte[addr].migration)
