"""Scenarios of memslots that come and go."""

from __future__ import annotations

from mmuwitness.model.kvm.memslots import kvm_vm_ioctl
from mmuwitness.model.mm import ksm, memory
from mmuwitness.model.scenarios.scenario import (
    ONE_GFN,
    TWO_SLOTS,
    Actor,
    Scenario,
    private_beside_mapped_ksm_page,
    two_private_pages,
)

MEMSLOTS = (
    Scenario(
        "memslot_delete",
        "The VMM deletes a memslot and creates it again while ksmd merges a page of it and the"
        " guest reads that.  A neighbour in another memslot keeps the last-level table page.",
        "1 vCPU that reads, 2 gfns in one table page, 2 pages, any number of KSM merges and of"
        " deletions",
        private_beside_mapped_ksm_page,
        lambda host: [
            Actor("ksmd", ksm.ksmd, (host.mm,)),
            Actor("ioctl", kvm_vm_ioctl, (host.kvm,)),
        ],
        {**TWO_SLOTS, "pages": 2, "read_gfns": 1, "written_gfns": 0},
    ),
    Scenario(
        "memslot_dontneed",
        "The VMM drops a guest page while another thread of it deletes the memslot and creates"
        " it again.",
        "1 vCPU, 1 gfn, 2 pages, any number of calls and of deletions",
        two_private_pages,
        lambda host: [
            Actor("madvise", memory.madvise_dontneed, (host.mm,)),
            Actor("ioctl", kvm_vm_ioctl, (host.kvm,)),
        ],
        {**ONE_GFN, "updates_memslots": True},
    ),
)
