"""mm/shmem.c: a file of shmem that is one huge page, and its reclaim."""

from __future__ import annotations

from mmuwitness.model.mm.mm_types import (
    Pte,
    alloc_huge_page,
    get_page,
    nth_page,
    put_page,
)
from mmuwitness.model.mm.rmap import page_add_new_anon_rmap, rmap_walk
from mmuwitness.model.primitives import atomic, lock, spin_lock, trylock, unlock


def shmem_add_to_page_cache(mm, first, second):
    """False: somebody else was faster.  The page cache has a reference to each page."""
    with atomic("xa_lock of the mapping"):
        if mm.cache[0] is None:
            mm.cache[0] = first
            mm.cache[1] = second
            return True
    return False


def shmem_get_folio(mm):
    """The first half of the huge page, from the page cache or swapped in; None without memory."""
    head = mm.cache[0]
    if head is None:
        head = alloc_huge_page(mm)
        if head is None:
            return None
        second = nth_page(mm, head, 1)
        head.content = mm.swap[0]
        second.content = mm.swap[1]
        if not shmem_add_to_page_cache(mm, head, second):
            put_page(head)
            put_page(second)
            return None
    return head


def shmem_fault(mm, addr):
    """The page is mapped by a PTE, under its lock.  The lock of a huge page is its first half's.
    (Its reverse mapping is kept as that of an anonymous page is.)"""
    head = shmem_get_folio(mm)
    if head is None:
        return
    lock(head.lock)
    if mm.cache[0] is head:
        page = mm.cache[addr]
        with spin_lock(mm.ptl):
            if not mm.pte[addr].present:
                get_page(page)
                page_add_new_anon_rmap(page, addr)
                mm.pte[addr] = Pte(present=True, write=True, dirty=True, page=page)
    unlock(head.lock)


def shmem_writepage(mm, head, second):
    """Both halves leave the page cache for swap, unless somebody refers to them."""
    if head.refcount == 1 and second.refcount == 1:
        with atomic("xa_lock of the mapping, and page_ref_freeze()"):
            mm.swap[0] = head.content
            mm.swap[1] = second.content
            mm.cache[0] = None
            mm.cache[1] = None
        return True
    return False


def shrink_shmem(mm):
    """kswapd: the huge page is unmapped wherever the reverse mapping lists it, and freed."""
    while True:
        head = mm.cache[0]
        if head is not None and trylock(head.lock):
            freed = False
            second = nth_page(mm, head, 1)
            if mm.cache[0] is head:
                rmap_walk(mm, head, True, Pte())
                rmap_walk(mm, second, True, Pte())
                freed = shmem_writepage(mm, head, second)
            unlock(head.lock)
            if freed:
                put_page(head)
                put_page(second)
