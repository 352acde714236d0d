"""mm/oom_kill.c: the oom reaper, who takes a victim's pages while the victim may still run."""

from __future__ import annotations

from mmuwitness.model.mm.memory import zap_pte_range
from mmuwitness.model.mm.mm_types import put_page
from mmuwitness.model.mm.mmu_notifier import (
    mmu_notifier_invalidate_range_end,
    mmu_notifier_invalidate_range_start_nonblock,
)
from mmuwitness.model.primitives import read_lock


def __oom_reap_task_mm(mm):
    """False: a subscriber would have slept, which the reaper must not."""
    if not mmu_notifier_invalidate_range_start_nonblock(mm, 0, mm.nr_addresses):
        return False
    for addr in mm.addresses:
        page = zap_pte_range(mm, addr)
        if page is not None:
            put_page(page)
    mmu_notifier_invalidate_range_end(mm, 0, mm.nr_addresses)
    return True


def oom_reap_task(mm):
    """One attempt.  (The kernel makes 10; mmap_lock is only tried.)"""
    with read_lock(mm.mmap_lock):
        __oom_reap_task_mm(mm)


def oom_reaper(mm):
    """Any number of attempts."""
    while True:
        oom_reap_task(mm)
