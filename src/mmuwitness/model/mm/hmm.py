"""mm/hmm.c: what a driver finds behind an address, faulting it in where it has to."""

from __future__ import annotations

from mmuwitness.model.mm.memory import handle_mm_fault
from mmuwitness.model.mm.mmu_interval_notifier import mmu_interval_check_retry
from mmuwitness.model.state import Bool, Bounded, Local, Ref, Snapshot


class HmmRange(Local):
    """struct hmm_range of one page.  write: what is asked for (HMM_PFN_REQ_WRITE).

    Found by hmm_range_fault(): page, without a reference, and whether it may be written to
    (HMM_PFN_WRITE).  Constant: notifier, the interval subscription."""

    start = Bounded(0, "addresses")
    write = Bool()
    notifier_seq = Snapshot()
    page = Ref("Page")
    page_write = Bool()


def hmm_range_fault(mm, range):
    """False is -EBUSY: the range was invalidated.  mmap_lock is held; the PTE is read without ptl,
    and what was read is worth nothing until mmu_interval_read_retry() has said so."""
    while True:
        if mmu_interval_check_retry(range.notifier, range.notifier_seq):
            return False
        pte = mm.pte[range.start]
        if pte.present and (pte.write or not range.write):
            range.page = pte.page
            range.page_write = pte.write
            return True
        handle_mm_fault(mm, range.start, range.write)
