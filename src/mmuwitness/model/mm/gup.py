"""mm/gup.c: get_user_pages, fast and slow."""

from __future__ import annotations

from mmuwitness.model.mm.memory import handle_mm_fault
from mmuwitness.model.mm.mm_types import get_page, walk_page_tables
from mmuwitness.model.primitives import atomic, read_lock, spin_lock


def get_user_page_fast_only(mm, addr, write):
    """A referenced page without any lock, or None."""
    with atomic("IRQs are off, and PMD and PTE are read again once the reference is taken"):
        pte = walk_page_tables(mm, addr)
        if pte.present and (pte.write or not write):
            get_page(pte.page)
            return pte.page
    return None


def follow_page(mm, addr, write):
    """A referenced page if the PTE allows the access."""
    with spin_lock(mm.ptl):
        pte = mm.pte[addr]
        if pte.present and (pte.write or not write):
            get_page(pte.page)
            return pte.page
    return None


def get_user_pages_unlocked(mm, addr, write):
    """Look, fault, and look again.  None after one fault that did not help (out of memory, or
    somebody was faster): the caller's guest faults again."""
    with read_lock(mm.mmap_lock):
        page = follow_page(mm, addr, write)
        if page is None:
            handle_mm_fault(mm, addr, write)
            page = follow_page(mm, addr, write)
        return page
