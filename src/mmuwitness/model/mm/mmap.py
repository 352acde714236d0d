"""mm/mmap.c: a mapping in the place of another; the end of an address space."""

from __future__ import annotations

from mmuwitness.model.mm.huge_memory import zap_huge_pmd
from mmuwitness.model.mm.memory import zap_pte_range
from mmuwitness.model.mm.mm_types import PMD_HUGE, put_page
from mmuwitness.model.mm.mmu_notifier import (
    mmu_notifier_invalidate_range_end,
    mmu_notifier_invalidate_range_start,
    mmu_notifier_release,
)
from mmuwitness.model.mm.tlb import flush_tlb_range
from mmuwitness.model.primitives import write_lock


def mmap_region(mm, huge):
    """MAP_FIXED over the first PMD: what is there is unmapped, and freed after the window by
    tlb_finish_mmu(); then there is another VMA, of hugetlb or not."""
    with write_lock(mm.mmap_lock):
        mmu_notifier_invalidate_range_start(mm, 0, 2)
        if mm.pmd[0] == PMD_HUGE:
            first, second = zap_huge_pmd(mm, 0)
        else:
            first = zap_pte_range(mm, 0)
            second = zap_pte_range(mm, 1)
        mmu_notifier_invalidate_range_end(mm, 0, 2)
        if first is not None:
            put_page(first)
        if second is not None:
            put_page(second)
        mm.vma_huge = huge


def mmap(mm):
    """Small pages in the place of huge ones, and huge ones again, for ever."""
    while True:
        mmap_region(mm, False)
        mmap_region(mm, True)


def exit_mmap(mm):
    """The last user of the mm has gone.  Subscribers go first; nobody is there to be told of what
    is unmapped then."""
    mmu_notifier_release(mm)
    for addr in mm.addresses:
        page = zap_pte_range(mm, addr)
        if page is not None:
            flush_tlb_range(mm, addr, addr + 1)
            put_page(page)
