"""mm/rmap.c, mm/vmscan.c: the reverse mapping, and unmapping a page through it for reclaim."""

from __future__ import annotations

from mmuwitness.model.mm.mm_types import Pte, get_page, pte_present, put_page
from mmuwitness.model.mm.mmu_notifier import (
    mmu_notifier_clear_flush_young,
    mmu_notifier_invalidate_page,
    mmu_notifier_invalidate_range_end,
    mmu_notifier_invalidate_range_start,
    ptep_clear_flush,
)
from mmuwitness.model.mm.tlb import (
    set_tlb_ubc_flush_pending,
    should_defer_flush,
    try_to_unmap_flush,
)
from mmuwitness.model.primitives import atomic, choose, feature, lock, spin_lock, trylock, unlock


def page_add_new_anon_rmap(page, addr):
    """From here on a walk of the reverse mapping finds the page at `addr`."""
    with atomic("nobody else maps a new page: the walk sees one word, the count is atomic"):
        page.mapcount += 1
        page.rmap[addr] = True


def page_add_anon_rmap(page):
    """Another PTE maps the page.  A KSM page's rmap_item is appended later, by ksmd."""
    with atomic("mapcount is an atomic_t"):
        page.mapcount += 1


def page_remove_rmap(page, addr):
    with atomic("mapcount is an atomic_t"):
        page.mapcount -= 1
        page.rmap[addr] = False


def lru_cache_add(page):
    """On the LRU: reclaim and compaction can isolate the page."""
    page.lru = True


def folio_mark_lazyfree(page):
    """mm/swap.c: to the inactive list of files, from which reclaim drops pages without swap."""
    with atomic("lru_lock: nobody isolates the page meanwhile"):
        if page.lru:
            page.lazyfree = True


def page_vma_mapped_walk(mm, addr, page, sync):
    """The PTE is peeked at without ptl and skipped if it is not present; with PVMW_SYNC the lock
    is taken in any case.  True: worth taking ptl."""
    return sync or pte_present(mm.pte[addr])


def try_to_unmap_one(mm, addr, page, sync, entry):
    """Replace the PTE that maps `page` at `addr` by a migration entry, which remembers whether it
    was writable, or by a swap entry."""
    bracketed = feature.rmap_walk_bracketed
    unmapped = False
    if bracketed:
        mmu_notifier_invalidate_range_start(mm, addr, addr + 1)
    if page_vma_mapped_walk(mm, addr, page, sync):
        with spin_lock(mm.ptl):
            pte = mm.pte[addr]
            if pte_present(pte) and pte.page is page:
                if should_defer_flush(mm, entry):
                    mm.pte[addr] = Pte()
                    set_tlb_ubc_flush_pending(mm)
                else:
                    ptep_clear_flush(mm, addr)
                if not bracketed and not feature.invalidate_page_after_ptl:
                    mmu_notifier_invalidate_page(mm, addr)
                if mm.frees_lazily and page.lazyfree and entry.swap:
                    unmapped = discard_lazyfree(mm, addr, page, pte)
                else:
                    mm.pte[addr] = entry.replace(write=pte.write) if entry.migration else entry
                    page_remove_rmap(page, addr)
                    unmapped = True
        if unmapped and not bracketed and feature.invalidate_page_after_ptl:
            mmu_notifier_invalidate_page(mm, addr)
        if unmapped:
            put_page(page)
    if bracketed:
        mmu_notifier_invalidate_range_end(mm, addr, addr + 1)


def discard_lazyfree(mm, addr, page, pte):
    """ptl is held, and the PTE clear.  The page goes with all that is in it, if nobody has written
    to it since MADV_FREE; else the PTE is put back, and the page kept.  Since commit 6c8e2a256915
    ("mm: fix race between MADV_FREE reclaim and blkdev direct IO read") in v5.18 nobody may refer
    to it besides reclaim and the PTEs: who has it by GUP-fast, which reads the PTE again once it
    has its reference (smp_mb here), may be about to write.  References are counted before the dirty
    bit is read (smp_rmb): who drops one has set it before."""
    if pte.dirty:
        page.dirty = True
    referenced = feature.lazyfree_counts_references and page.refcount != 1 + page.mapcount
    if referenced or page.dirty:
        mm.pte[addr] = pte
        page.lazyfree = False
        return False
    page_remove_rmap(page, addr)
    return True


def page_vma_mkclean_one(mm, addr, page):
    """The PTE that maps `page` is made clean, and read-only, so that the next write is a fault.
    True: it was dirty, or could have become so."""
    bracketed = feature.rmap_walk_bracketed
    cleaned = False
    if bracketed:
        mmu_notifier_invalidate_range_start(mm, addr, addr + 1)
    if page_vma_mapped_walk(mm, addr, page, True):
        with spin_lock(mm.ptl):
            pte = mm.pte[addr]
            if pte.present and pte.page is page and (pte.dirty or pte.write):
                ptep_clear_flush(mm, addr)
                if not bracketed and not feature.invalidate_page_after_ptl:
                    mmu_notifier_invalidate_page(mm, addr)
                mm.pte[addr] = pte.replace(write=False, dirty=False)
                cleaned = True
        if cleaned and not bracketed and feature.invalidate_page_after_ptl:
            mmu_notifier_invalidate_page(mm, addr)
    if bracketed:
        mmu_notifier_invalidate_range_end(mm, addr, addr + 1)
    return cleaned


def rmap_walk(mm, page, sync, entry):
    """try_to_unmap() and try_to_migrate(): at every address that the reverse mapping lists."""
    for addr in mm.addresses:
        if page.rmap[addr]:
            try_to_unmap_one(mm, addr, page, sync, entry)


def folio_referenced_one(mm, addr, page):
    """Whether a guest has used the page.  (The PTE's own Accessed bit is not modelled.)"""
    referenced = False
    if page_vma_mapped_walk(mm, addr, page, False):
        with spin_lock(mm.ptl):
            pte = mm.pte[addr]
            if pte.present and pte.page is page:
                referenced = mmu_notifier_clear_flush_young(mm, addr, addr + 1)
    return referenced


def folio_referenced(mm, page):
    referenced = False
    for addr in mm.addresses:
        if page.rmap[addr]:
            referenced = folio_referenced_one(mm, addr, page) or referenced
    return referenced


def shrink_active_list(mm):
    """A page is looked at, and unmapped later if nobody has used it; not here."""
    page = isolate_lru_page(mm)
    if page is not None:
        folio_referenced(mm, page)
        putback_lru_page(page)


def kswapd_age_node(mm):
    """kswapd, any number of times."""
    while True:
        shrink_active_list(mm)


def isolate_lru_page(mm):
    """Some page that is on the LRU, taken off it and referenced; None if the choice has none."""
    page = mm.pages[choose(mm.nr_pages)]
    with atomic("lru_lock, and a reference only if the page is not being freed"):
        if page.lru and page.refcount > 0:
            page.lru = False
            get_page(page)
            return page
    return None


def putback_lru_page(page):
    page.lru = True
    put_page(page)


def pageout(mm, page):
    """The page, unmapped, is written to its swap slot and leaves the swap cache.  (The kernel takes
    another slot while somebody reads this one.)"""
    if mm.swap_cache:
        lock(mm.swapcache)
    for addr in mm.addresses:
        with spin_lock(mm.ptl):
            pte = mm.pte[addr]
            if pte.swap and pte.page is page:
                mm.swap[addr] = page.content
                mm.pte[addr] = Pte(swap=True)
    if mm.swap_cache:
        unlock(mm.swapcache)


def shrink_folio_list(mm, sync):
    """kswapd: a page is unmapped everywhere and freed once nobody else refers to it; with aging
    only if nobody has used it of late."""
    while True:
        shrink_inactive_list(mm, sync)


def shrink_inactive_list(mm, sync):
    page = isolate_lru_page(mm)
    if page is not None:
        if trylock(page.lock):
            if mm.ages_pages and folio_referenced(mm, page):
                unlock(page.lock)
                putback_lru_page(page)
            else:
                shrink_folio(mm, page, sync)
        else:
            putback_lru_page(page)


def shrink_lazyfree_list(mm):
    """kswapd on a host without swap: of anonymous pages only those that MADV_FREE has put on the
    list of file pages are looked at."""
    while True:
        page = isolate_lru_page(mm)
        if page is not None:
            if page.lazyfree and trylock(page.lock):
                shrink_folio(mm, page, False)
            else:
                putback_lru_page(page)


def shrink_folio(mm, page, sync):
    """The page is locked and isolated; neither, when this returns."""
    rmap_walk(mm, page, sync, Pte(swap=True, page=page))
    try_to_unmap_flush(mm)
    pageout(mm, page)
    unlock(page.lock)
    if page.mapcount == 0:
        put_page(page)
    else:
        putback_lru_page(page)
