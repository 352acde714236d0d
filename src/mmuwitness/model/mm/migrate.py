"""mm/migrate.c: a page is replaced by a copy; its PTEs are migration entries meanwhile."""

from __future__ import annotations

from mmuwitness.model.mm.mm_types import Pte, copy_page, get_page, put_page
from mmuwitness.model.mm.rmap import (
    isolate_lru_page,
    lru_cache_add,
    page_add_new_anon_rmap,
    putback_lru_page,
    rmap_walk,
)
from mmuwitness.model.primitives import spin_lock, trylock, unlock, wait_until


def migration_entry_wait(mm, addr):
    wait_until(not mm.pte[addr].migration)


def remove_migration_ptes(mm, old, new):
    """The entries become PTEs of `new`.  No notifier: nothing was mapped."""
    for addr in mm.addresses:
        with spin_lock(mm.ptl):
            pte = mm.pte[addr]
            if pte.migration and pte.page is old:
                get_page(new)
                page_add_new_anon_rmap(new, addr)
                mm.pte[addr] = Pte(present=True, write=pte.write, dirty=pte.write, page=new)


def unmap_and_move(mm, page, sync):
    """Move the content of a locked, isolated page to a new one, if nobody else refers to it."""
    rmap_walk(mm, page, sync, Pte(migration=True, page=page))
    if page.mapcount == 0 and page.refcount == 1:
        new = copy_page(page, mm)
        if new is not None:
            new.ksm = page.ksm
            remove_migration_ptes(mm, page, new)
            lru_cache_add(new)
            unlock(page.lock)
            put_page(page)
            put_page(new)
            return
    remove_migration_ptes(mm, page, page)
    unlock(page.lock)
    putback_lru_page(page)


def migrate_pages(mm, sync):
    """Compaction or NUMA balancing, any number of times."""
    while True:
        migrate_pages_batch(mm, sync)


def migrate_pages_batch(mm, sync):
    page = isolate_lru_page(mm)
    if page is not None:
        if trylock(page.lock):
            unmap_and_move(mm, page, sync)
        else:
            putback_lru_page(page)
