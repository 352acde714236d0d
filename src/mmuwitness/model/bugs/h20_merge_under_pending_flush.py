"""H20: KSM merges a page that a TLB still lets a thread write to."""

from __future__ import annotations

from mmuwitness.model.bugs.bug import Bug
from mmuwitness.model.features.feature import SOURCE
from mmuwitness.model.mm.ksm import ksm_do_scan
from mmuwitness.model.mm.memory import handle_mm_fault, host_access
from mmuwitness.model.mm.mm_types import Pte
from mmuwitness.model.mm.mmu_notifier import (
    mmu_notifier_invalidate_range_end,
    mmu_notifier_invalidate_range_start,
)
from mmuwitness.model.primitives import atomic, read_lock, spin_lock
from mmuwitness.model.scenarios.scenario import Actor, Scenario, private_beside_ksm_page


def clear_refs_write(mm, addr):
    """fs/proc/task_mmu.c, and MADV_FREE with it: the PTE becomes read-only and clean, and TLBs are
    flushed later, for all PTEs at once."""
    with read_lock(mm.mmap_lock):
        with atomic("inc_tlb_flush_pending: an atomic_t"):
            mm.tlb_flush_pending += 1
        mmu_notifier_invalidate_range_start(mm, addr, addr + 1)
        with spin_lock(mm.ptl):
            pte = mm.pte[addr]
            if pte.present:
                mm.pte[addr] = pte.replace(write=False, dirty=False)
        mmu_notifier_invalidate_range_end(mm, addr, addr + 1)
        mm.tlb[addr] = Pte()
        with atomic("dec_tlb_flush_pending: an atomic_t"):
            mm.tlb_flush_pending -= 1


def write_first_page(mm):
    """A thread of the VMM that writes to one page, for ever."""
    while True:
        if not host_access(mm, 0, True):
            with read_lock(mm.mmap_lock):
                handle_mm_fault(mm, 0, True)


BUG = Bug(
    id="H20",
    text="Somebody has made a PTE read-only and clean and has yet to flush. KSM takes that for a"
    " page that nobody writes to, compares and merges it: what a stale TLB entry writes after the"
    " comparison is lost.",
    commit="b3a81d0841a9",
    subject="mm: fix KSM data corruption",
    release="v4.13",
    source=SOURCE,
    reference="A thread of the host needs a writable TLB entry from before; the guest only reads.",
    claim="no_lost_write",
    scenario=Scenario(
        "ksm_clear_refs",
        "ksmd merges a page while soft-dirty bits are cleared and a thread of the VMM writes.",
        "1 vCPU that reads, 1 host thread, 1 gfn, 3 pages, 1 KSM merge, 1 clear_refs",
        private_beside_ksm_page,
        lambda host: [
            Actor("ksmd", ksm_do_scan, (host.mm, 0)),
            Actor("clear_refs", clear_refs_write, (host.mm, 0)),
            Actor("vmm", write_first_page, (host.mm,)),
        ],
        {
            "pages": 3,
            "slot_pages": 1,
            "host_thread": True,
            "defers_flushes": True,
            "read_gfns": 1,
            "written_gfns": 0,
        },
    ),
    arch="x86-shadow",
    era="v4.13",
    without=("ksm_checks_tlb_flush_pending",),
)
