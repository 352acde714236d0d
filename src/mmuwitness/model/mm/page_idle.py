"""mm/page_idle.c: pages that user space marks idle, to see later which of them were used."""

from __future__ import annotations

from mmuwitness.model.mm.mmu_notifier import mmu_notifier_clear_young
from mmuwitness.model.primitives import choose, spin_lock


def page_idle_clear_pte_refs_one(mm, addr):
    with spin_lock(mm.ptl):
        if mm.pte[addr].present:
            mmu_notifier_clear_young(mm, addr, addr + 1)


def page_idle_bitmap_write(mm):
    """Any number of times.  (The walk from the page to its addresses is left out.)"""
    while True:
        page_idle_clear_pte_refs_one(mm, choose(mm.nr_addresses))
