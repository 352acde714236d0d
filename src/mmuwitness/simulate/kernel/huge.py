"""mm/huge_memory.c, mm/khugepaged.c and huge leaves, with PMDs of 512 pages; the model has two.

The same functions over 512 entries.  What a huge PMD maps is in its PTEs, one by one, as in the
model; its pages need not be neighbours, so nobody has to compact memory: that is not simulated."""

from __future__ import annotations

from typing import Any

from mmuwitness.model.kvm.kvm_host import Spte
from mmuwitness.model.mm.huge_memory import pmdp_collapse_flush
from mmuwitness.model.mm.memory import zap_page_range_single
from mmuwitness.model.mm.mm_types import (
    PMD_HUGE,
    PMD_TABLE,
    Pte,
    alloc_page,
    pmd_of,
    put_page,
)
from mmuwitness.model.mm.mmu_notifier import (
    mmu_notifier_invalidate_range_end,
    mmu_notifier_invalidate_range_start,
)
from mmuwitness.model.mm.rmap import page_add_new_anon_rmap, page_remove_rmap
from mmuwitness.model.primitives import atomic, read_lock, spin_lock, write_lock
from mmuwitness.model.state import Bounded

PMD_SHIFT = 9
PMD_PAGES = 1 << PMD_SHIFT


def huge_pmd_of(addr):
    return addr >> PMD_SHIFT


def __split_huge_pmd(mm, addr):
    """A window over all of the PMD, inside that of whoever wants a part of it."""
    start = addr >> PMD_SHIFT << PMD_SHIFT
    mmu_notifier_invalidate_range_start(mm, start, start + PMD_PAGES)
    with spin_lock(mm.ptl):
        if mm.pmd[pmd_of(addr)] == PMD_HUGE:
            pmdp_collapse_flush(mm, addr)
            mm.pmd[pmd_of(addr)] = PMD_TABLE
    mmu_notifier_invalidate_range_end(mm, start, start + PMD_PAGES)


def discard_page(mm, addr):
    """MADV_DONTNEED of one page, which splits a huge PMD."""
    zap_page_range_single(mm, addr)


def khugepaged_scan_pmd(mm, addr):
    """hpage_collapse_scan_pmd(): PMDs of which enough is mapped, and no page is somebody else's,
    are collapsed, if there is memory."""
    suitable = False
    with read_lock(mm.mmap_lock):
        if mm.pmd[pmd_of(addr)] == PMD_TABLE and mm.zone.nr_free >= PMD_PAGES:
            suitable = may_collapse(mm, addr)
    if suitable:
        collapse_huge_page(mm, addr)


def may_collapse(mm, addr):
    none: Bounded(0, PMD_PAGES) = 0
    shared = False
    with spin_lock(mm.ptl):
        for each in mm.addresses:
            if addr <= each and each < addr + PMD_PAGES:
                pte = mm.pte[each]
                if not pte.present:
                    none += 1
                elif pte.page.refcount != 1:
                    shared = True
    return none <= mm.max_ptes_none and not shared


def collapse_huge_page(mm, addr):
    """As the model's, page by page: the window is closed before anything is copied."""
    with write_lock(mm.mmap_lock):
        if mm.pmd[pmd_of(addr)] == PMD_TABLE:
            mmu_notifier_invalidate_range_start(mm, addr, addr + PMD_PAGES)
            with spin_lock(mm.ptl):
                pmdp_collapse_flush(mm, addr)
            mmu_notifier_invalidate_range_end(mm, addr, addr + PMD_PAGES)
            collapsed = may_collapse(mm, addr) and mm.zone.nr_free >= PMD_PAGES
            if collapsed:
                copy_to_huge_page(mm, addr)
            with spin_lock(mm.ptl):
                mm.pmd[pmd_of(addr)] = PMD_HUGE if collapsed else PMD_TABLE


def copy_to_huge_page(mm, addr):
    """The PMD is none and mmap_lock is held for writing: nobody walks the table."""
    for each in mm.addresses:
        if addr <= each and each < addr + PMD_PAGES:
            page = alloc_page(mm)
            if page is not None:
                with spin_lock(mm.ptl):
                    old = mm.pte[each].page
                    if old is not None:
                        page.content = old.content
                        page_remove_rmap(old, each)
                        put_page(old)
                    page_add_new_anon_rmap(page, each)
                    page.lru = True
                    mm.pte[each] = Pte(present=True, write=True, dirty=True, page=page)


def zap_leaf(self, kvm, gfn):
    if self.is_huge(kvm, gfn):
        first = self.table_of(kvm, gfn) << kvm.table_shift
        with atomic("one entry, which hardware reads whole"):
            kvm.huge[self.table_of(kvm, gfn)] = False
            for each in kvm.gfns:
                if first <= each and each < first + PMD_PAGES:
                    kvm.spte[each] = Spte()
    else:
        kvm.spte[gfn] = Spte()


def map_huge(self, kvm, fault):
    """gfns are hvas here: what the huge leaf maps is what the huge PMD does."""
    table = self.table_of(kvm, fault.gfn)
    first = table << kvm.table_shift
    with atomic("one entry, which hardware reads whole"):
        kvm.huge[table] = True
        kvm.table[table] = False
        for each in kvm.gfns:
            if first <= each and each < first + PMD_PAGES:
                page = kvm.mm.pte[each].page
                kvm.spte[each] = Spte(present=True, write=fault.map_writable, page=page)


def stage2_map_huge(self, kvm, fault):
    """A block.  Break before make: a table in its place is detached and flushed first."""
    first = self.table_of(kvm, fault.gfn) << kvm.table_shift
    if kvm.table[self.table_of(kvm, fault.gfn)]:
        with atomic("one entry, which hardware reads whole"):
            for each in kvm.gfns:
                if first <= each and each < first + PMD_PAGES:
                    kvm.spte[each] = Spte()
        self.flush_huge(kvm, fault.gfn)
    self.map_huge(kvm, fault)


def flush_huge(self, kvm, gfn):
    """Counted, and paid for by whoever waits."""


def hugetlb_fault(mm, addr):
    """No VMA is of hugetlb here."""


HUGE: dict[str, Any] = {
    "mm.hugetlb.hugetlb_fault": hugetlb_fault,
    "mm.mm_types.pmd_of": huge_pmd_of,
    "mm.huge_memory.__split_huge_pmd": __split_huge_pmd,
    "arch.arch.Arch.zap_leaf": zap_leaf,
    "arch.arch.Arch.map_huge": map_huge,
    "arch.arch.Arch.flush_huge": flush_huge,
    "arch.arm64.Arm64.stage2_map_huge": stage2_map_huge,
}
"""In the place of the model's."""
