"""mm/mprotect.c, mm/mempolicy.c: the protection of a range changes, by mprotect() or for NUMA
balancing."""

from __future__ import annotations

from mmuwitness.model.mm.mm_types import VM_READ, VM_WRITE, pte_none, pte_present
from mmuwitness.model.mm.mmu_notifier import (
    mmu_notifier_invalidate_range_end,
    mmu_notifier_invalidate_range_start,
)
from mmuwitness.model.mm.tlb import (
    dec_tlb_flush_pending,
    flush_tlb_batched_pending,
    flush_tlb_range,
    inc_tlb_flush_pending,
)
from mmuwitness.model.primitives import choose, feature, read_lock, spin_lock, write_lock


def numa_skips(page):
    """A page that would not be migrated stays accessible.  Since commit 80d47f5de5e3 ("mm: don't
    try to NUMA-migrate COW pages that have other uses") in v5.17 a pinned one is among them."""
    return page.ksm or (feature.numa_skips_pinned and page.pincount != 0)


def change_pte_range(mm, addr, prot_numa):
    """A private page is mapped read-only in any case: the next write fault gives it back what its
    VMA allows.  (Kernels that spare an exclusive page the fault leave it writable.)  True if the
    PTE was changed."""
    changed = False
    with spin_lock(mm.ptl):
        flush_tlb_batched_pending(mm)
        pte = mm.pte[addr]
        if pte_present(pte) and not (prot_numa and numa_skips(pte.page)):
            if prot_numa:
                mm.pte[addr] = pte.replace(present=False, protnone=True)
            else:
                mm.pte[addr] = pte.replace(present=True, protnone=False, write=False)
            changed = True
    return changed


def populated(mm, addr):
    with spin_lock(mm.ptl):
        return not pte_none(mm.pte[addr])


def change_pmd_range(mm, start, end, prot_numa):
    """An address stands for a PMD entry here, which is populated unless the PTE is none.  (Seen
    under ptl: a PMD entry is not none for a moment only.)

    Since commit a5338093bfb4 ("mm: move mmu notifier call from change_protection to
    change_pmd_range") in v3.15 the window opens at the first populated entry, and ends where the
    range does.  A subscriber is told MMU_NOTIFY_PROTECTION_VMA by both callers, and not which pages
    are skipped: KVM zaps them all."""
    pages = False
    opened = end if feature.protection_window_lazy else start
    if not feature.protection_window_lazy:
        mmu_notifier_invalidate_range_start(mm, start, end)
    for addr in mm.addresses:
        if start <= addr and addr < end and populated(mm, addr):
            if opened == end:
                opened = addr
                mmu_notifier_invalidate_range_start(mm, opened, end)
            pages = change_pte_range(mm, addr, prot_numa) or pages
    if opened < end:
        mmu_notifier_invalidate_range_end(mm, opened, end)
    return pages


def change_protection(mm, start, end, prot_numa):
    """TLBs are flushed once, after the window, if a PTE was changed: stale entries are of the
    primary MMU alone."""
    inc_tlb_flush_pending(mm)
    if change_pmd_range(mm, start, end, prot_numa):
        flush_tlb_range(mm, start, end)
    dec_tlb_flush_pending(mm)


def mprotect_fixup(mm, flags):
    for addr in mm.addresses:
        mm.vm_flags[addr] = flags
    change_protection(mm, 0, mm.nr_addresses, False)


def mprotect(mm):
    """PROT_READ, and PROT_READ | PROT_WRITE, any number of times."""
    while True:
        with write_lock(mm.mmap_lock):
            mprotect_fixup(mm, VM_READ)
        with write_lock(mm.mmap_lock):
            mprotect_fixup(mm, VM_WRITE)


def change_prot_numa(mm, start, end):
    """Pages become PROT_NONE: whoever accesses one next says on which node it is wanted."""
    change_protection(mm, start, end, True)


def task_numa_work(mm):
    """kernel/sched/fair.c: passes over the address space, from anywhere, any number of them."""
    while True:
        start = choose(mm.nr_addresses)
        with read_lock(mm.mmap_lock):
            change_prot_numa(mm, start, mm.nr_addresses)
