"""mm/migrate.c, mm/rmap.c: a page of hugetlb moves, wherever its file is mapped.

The order of locks is that of no kernel in particular: page lock and i_mmap_rwsem are left out,
since one process moves pages and nobody else walks the reverse mapping."""

from __future__ import annotations

from mmuwitness.model.mm.hugetlb import (
    adjust_range_if_pmd_sharing_possible,
    huge_pmd_unshare,
    other_mapping,
    set_huge_pte_at,
)
from mmuwitness.model.mm.mm_types import Pte, copy_page, put_page
from mmuwitness.model.mm.mmu_notifier import (
    mmu_notifier_invalidate_page,
    mmu_notifier_invalidate_range_end,
    mmu_notifier_invalidate_range_start,
)
from mmuwitness.model.mm.rmap import page_add_anon_rmap
from mmuwitness.model.primitives import atomic, choose, feature, spin_lock


def try_to_unmap_one_hugetlb(mm, addr, page):
    """try_to_unmap_one() for a page of hugetlb.  Since commit 017b1660df89 ("mm: migration: fix
    migration of huge PMD shared pages") in v4.19 a shared table is unshared, and what it maps goes
    on to be mapped by the other mapping; before, the entry of both was replaced."""
    start = addr
    end = addr + 1
    if feature.hugetlb_shared_pmd_range:
        start, end = adjust_range_if_pmd_sharing_possible(addr)
    # the fix brings the window with it where kernels before v4.13 have none
    bracketed = feature.rmap_walk_bracketed or feature.hugetlb_shared_pmd_range
    unmapped = False
    if bracketed:
        mmu_notifier_invalidate_range_start(mm, start, end)
    with spin_lock(mm.ptl):
        pte = mm.pte[addr]
        if pte.present and pte.page is page:
            if not feature.hugetlb_shared_pmd_range or not huge_pmd_unshare(mm, addr):
                set_huge_pte_at(mm, addr, Pte(migration=True, write=pte.write, page=page))
                if not bracketed:
                    mmu_notifier_invalidate_page(mm, addr)
                with atomic("mapcount is an atomic_t"):
                    page.mapcount -= 1
                unmapped = True
    if bracketed:
        mmu_notifier_invalidate_range_end(mm, start, end)
    if unmapped:
        put_page(page)


def remove_migration_pte_hugetlb(mm, addr, old, new):
    with spin_lock(mm.ptl):
        pte = mm.pte[addr]
        if pte.migration and pte.page is old:
            with atomic("page_ref_inc: the reference count is an atomic_t"):
                new.refcount += 1
            page_add_anon_rmap(new)
            set_huge_pte_at(mm, addr, Pte(present=True, write=pte.write, dirty=True, page=new))


def unmap_and_move_huge_page(mm, addr, page):
    """The reverse mapping is a tree of VMAs, in no order that is known here; the walk ends as soon
    as the page is mapped nowhere.  A page that a shared table maps counts as mapped once."""
    first = addr if choose(2) == 0 else other_mapping(addr)
    for each in (first, other_mapping(first)):
        if page.mapcount != 0:
            try_to_unmap_one_hugetlb(mm, each, page)
    new = page
    if page.mapcount == 0 and page.refcount == 1:
        copy = copy_page(page, mm)
        if copy is not None:
            new = copy
    for each in (first, other_mapping(first)):
        remove_migration_pte_hugetlb(mm, each, page, new)
    if new is not page:
        put_page(new)
    put_page(page)


def isolate_hugetlb(mm, addr):
    """The page that one of the two mappings has at this place of the file, referenced."""
    with spin_lock(mm.ptl):
        pte = mm.pte[addr]
        if not pte.present:
            pte = mm.pte[other_mapping(addr)]
        if pte.present:
            with atomic("page_ref_inc: the reference count is an atomic_t"):
                pte.page.refcount += 1
            return pte.page
    return None


def migrate_hugetlb(mm):
    """NUMA balancing of the first page of the file, any number of times."""
    while True:
        page = isolate_hugetlb(mm, 0)
        if page is not None:
            unmap_and_move_huge_page(mm, 0, page)
