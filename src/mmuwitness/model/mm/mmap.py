"""mm/mmap.c: the end of an address space."""

from __future__ import annotations

from mmuwitness.model.mm.memory import zap_pte_range
from mmuwitness.model.mm.mm_types import put_page
from mmuwitness.model.mm.mmu_notifier import mmu_notifier_release


def exit_mmap(mm):
    """The last user of the mm has gone.  Subscribers go first; nobody is there to be told of what
    is unmapped then."""
    mmu_notifier_release(mm)
    for addr in mm.addresses:
        page = zap_pte_range(mm, addr)
        if page is not None:
            put_page(page)
