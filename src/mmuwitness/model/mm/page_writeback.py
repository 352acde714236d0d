"""mm/page-writeback.c: pages of a file go to disk, and a write after that is a fault."""

from __future__ import annotations

from mmuwitness.model.mm.rmap import page_vma_mkclean_one
from mmuwitness.model.primitives import atomic, choose, lock, unlock


def folio_clear_dirty_for_io(mm, page):
    """The page is locked, so that no fault makes a PTE of it writable meanwhile.  What its PTEs
    know of writes goes to the page first, and so does what KVM knows: the windows zap its leaves.
    (With the PTE, which is dirty as long as it is writable; KVM's own bits add nothing here.)"""
    for addr in mm.addresses:
        if page.rmap[addr] and page_vma_mkclean_one(mm, addr, page):
            page.dirty = True
    with atomic(
        "TestClearPageDirty; the disk reads the page at once here, which is the worst case"
    ):
        if page.dirty:
            page.dirty = False
            for addr in mm.addresses:
                if page.rmap[addr]:
                    mm.disk[addr] = page.content


def write_cache_pages(mm):
    """Pages of a file are written back, any number of times."""
    while True:
        page = mm.pages[choose(mm.nr_pages)]
        lock(page.lock)
        folio_clear_dirty_for_io(mm, page)
        unlock(page.lock)
