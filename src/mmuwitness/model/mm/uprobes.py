"""kernel/events/uprobes.c: a page is replaced by a private copy that holds the breakpoint."""

from __future__ import annotations

from mmuwitness.model.mm.gup import follow_page
from mmuwitness.model.mm.mm_types import Pte, copy_page, put_page
from mmuwitness.model.mm.mmu_notifier import (
    mmu_notifier_invalidate_range_end,
    mmu_notifier_invalidate_range_start,
    ptep_clear_flush,
    set_pte_at_notify,
)
from mmuwitness.model.mm.rmap import lru_cache_add, page_add_new_anon_rmap, page_remove_rmap
from mmuwitness.model.primitives import choose, feature, lock, spin_lock, unlock, write_lock


def __replace_page(mm, addr, old, new):
    """The new page is on the reverse mapping and the LRU before the PTE is cleared."""
    replaced = False
    lock(old.lock)
    if feature.change_pte_bracketed:
        mmu_notifier_invalidate_range_start(mm, addr, addr + 1)
    with spin_lock(mm.ptl):
        pte = mm.pte[addr]
        if pte.present and pte.page is old:
            page_add_new_anon_rmap(new, addr)
            lru_cache_add(new)
            ptep_clear_flush(mm, addr)
            set_pte_at_notify(mm, addr, Pte(present=True, page=new))
            page_remove_rmap(old, addr)
            put_page(old)
            replaced = True
    if feature.change_pte_bracketed:
        mmu_notifier_invalidate_range_end(mm, addr, addr + 1)
    unlock(old.lock)
    return replaced


def uprobe_write_opcode(mm, addr):
    with write_lock(mm.mmap_lock):
        old = follow_page(mm, addr, False)
        if old is not None:
            new = copy_page(old, mm)
            if new is not None:
                if not __replace_page(mm, addr, old, new):
                    put_page(new)
            put_page(old)


def uprobe_register(mm):
    """Any number of breakpoints."""
    while True:
        uprobe_write_opcode(mm, choose(mm.nr_addresses))
