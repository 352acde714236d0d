"""mm/mremap.c: a mapping moves to another address."""

from __future__ import annotations

from mmuwitness.model.mm.mm_types import NO_VMA, UNKNOWN, VM_WRITE, Pte, pte_none
from mmuwitness.model.mm.mmu_notifier import (
    mmu_notifier_invalidate_range_end,
    mmu_notifier_invalidate_range_start,
)
from mmuwitness.model.mm.tlb import flush_tlb_batched_pending, flush_tlb_range
from mmuwitness.model.primitives import feature, spin_lock, write_lock


def move_ptes(mm, old_addr, new_addr):
    """Nobody takes a reference: the page belongs to whoever has ptl.  Since commit eb66ae030829
    ("mremap: properly flush TLB before releasing the page") in v4.19 TLBs are flushed before that
    is given up; as until commit 7b6efc2bc4f1 ("mremap: avoid sending one IPI per page") in v3.2.

    (One page table, so one ptl; the kernel takes that of the new PTE, too.)"""
    with spin_lock(mm.ptl):
        flush_tlb_batched_pending(mm)
        pte = mm.pte[old_addr]
        if not pte_none(pte):
            mm.pte[old_addr] = Pte()
            mm.pte[new_addr] = pte
            mm.written[new_addr] = mm.written[old_addr]
            mm.written[old_addr] = UNKNOWN
            if feature.mremap_flushes_under_ptl:
                flush_tlb_range(mm, old_addr, old_addr + 1)


def move_page_tables(mm, old_addr, new_addr):
    """The window is over the old address: nothing was mapped at the new one."""
    mmu_notifier_invalidate_range_start(mm, old_addr, old_addr + 1)
    move_ptes(mm, old_addr, new_addr)
    if not feature.mremap_flushes_under_ptl:
        flush_tlb_range(mm, old_addr, old_addr + 1)
    mmu_notifier_invalidate_range_end(mm, old_addr, old_addr + 1)


def move_vma(mm, old_addr, new_addr):
    with write_lock(mm.mmap_lock):
        mm.vm_flags[new_addr] = VM_WRITE
        move_page_tables(mm, old_addr, new_addr)
        mm.vm_flags[old_addr] = NO_VMA


def mremap(mm):
    """The first page's VMA moves to the second address and back, any number of times."""
    while True:
        move_vma(mm, 0, 1)
        move_vma(mm, 1, 0)
