"""mm/vmscan.c: reclaim goes round the address spaces; what was not used of late is swapped out.

The kernel's LRU lists are by page; a clock over addresses is what an inactive list with referenced
bits comes to, and needs no list."""

from __future__ import annotations

from typing import Any

from mmuwitness.model.mm.mm_types import Pte, free_page, put_page
from mmuwitness.model.mm.rmap import folio_referenced_one, try_to_unmap_one
from mmuwitness.model.primitives import atomic, spin_lock, trylock, unlock, wait_until


def shrink_at(mm, addr):
    """shrink_folio_list() at one address, as long as less is free than wanted.  (Where nothing is
    to be done kswapd sleeps; here it looks again.)"""
    if mm.zone.nr_free < mm.zone.high_wmark:
        page = isolate_at(mm, addr)
        if page is not None:
            if trylock(page.lock):
                if not folio_referenced_one(mm, addr, page):
                    shrink_folio(mm, addr, page)
                unlock(page.lock)
            put_page(page)


def isolate_at(mm, addr):
    """The page at an address, referenced; not one that is mapped elsewhere, too, or pinned."""
    with atomic("lru_lock, and a reference only if the page is not being freed"):
        pte = mm.pte[addr]
        if pte.present and pte.page.lru and pte.page.refcount == 1:
            pte.page.refcount += 1
            return pte.page
    return None


def shrink_folio(mm, addr, page):
    """The page is locked and referenced; whoever put the reference frees it."""
    try_to_unmap_one(mm, addr, page, True, Pte(swap=True, page=page))
    pageout(mm, addr, page)


def pageout(mm, addr, page):
    """As the model's, at one address."""
    with spin_lock(mm.ptl):
        pte = mm.pte[addr]
        if pte.swap and pte.page is page:
            mm.swap[addr] = page.content
            mm.pte[addr] = Pte(swap=True)


def alloc_page(mm):
    """A free page; while there is none, whoever wants one is throttled."""
    wait_until(mm.zone.nr_free != 0)
    with atomic("the page allocator hands a page to one caller"):
        page = free_page(mm, None)
        if page is not None:
            page.refcount = 1
        return page


def copy_page(page, mm):
    """A new page with the content of `page`."""
    wait_until(mm.zone.nr_free != 0)
    with atomic("nobody else knows the new page: only the read of the old one is shared"):
        new = free_page(mm, None)
        if new is not None:
            new.refcount = 1
            new.content = page.content
        return new


THROTTLED: dict[str, Any] = {
    "mm.mm_types.alloc_page": alloc_page,
    "mm.mm_types.copy_page": copy_page,
}
"""In the place of the model's, which let their callers try again."""
