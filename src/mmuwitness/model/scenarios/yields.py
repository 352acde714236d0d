"""Scenarios of zaps that drop mmu_lock on the way, and of roots that are replaced under guests."""

from __future__ import annotations

from mmuwitness.model.kvm.memslots import KVM_MR_CREATE, KVM_MR_DELETE, kvm_vm_ioctl
from mmuwitness.model.mm import memory
from mmuwitness.model.scenarios.scenario import (
    TWO_SLOTS,
    Actor,
    Scenario,
    mm_actor,
    two_private_pages,
)

YIELDS = (
    Scenario(
        "dontneed_both",
        "The VMM drops two guest pages in one window, and the zap may drop mmu_lock between them.",
        "1 vCPU, 2 gfns in two table pages, 3 pages, any number of calls",
        two_private_pages,
        mm_actor("madvise", memory.madvise_dontneed_range, 0),
        {"gfns_per_table": 1, "pages": 3, "yields": True},
    ),
    Scenario(
        "memslot_roots",
        "The VMM deletes a memslot and creates it again, and the x86 TDP MMU replaces its root,"
        " while another thread drops a page of the other memslot.",
        "1 vCPU that reads, 2 gfns in one table page, 2 pages, any number of calls and of"
        " deletions",
        two_private_pages,
        lambda host: [
            Actor("madvise", memory.madvise_dontneed_range, (host.mm, 1)),
            Actor("ioctl", kvm_vm_ioctl, (host.kvm, KVM_MR_DELETE, KVM_MR_CREATE)),
        ],
        {**TWO_SLOTS, "replaces_roots": True, "pages": 2, "written_gfns": 0},
    ),
)
