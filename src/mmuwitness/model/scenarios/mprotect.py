"""Scenarios of protections that change: mprotect() and NUMA balancing."""

from __future__ import annotations

from mmuwitness.model.host import Host
from mmuwitness.model.mm import memory, mprotect
from mmuwitness.model.scenarios.scenario import (
    ONE_GFN,
    Actor,
    Scenario,
    mm_actor,
    two_private_pages,
)


def second_page_pinned(host: Host) -> None:
    """As two_private_pages; a device writes to the second one."""
    two_private_pages(host)
    pinned = host.pages[1]
    pinned.refcount += 1
    pinned.pincount += 1


MPROTECT = (
    Scenario(
        "mprotect",
        "The VMM makes guest memory read-only, and writable again.",
        "1 vCPU, 2 gfns in one table page, 2 pages, any number of calls",
        two_private_pages,
        mm_actor("mprotect", mprotect.mprotect),
        {"pages": 2, "changes_vmas": True},
    ),
    Scenario(
        "mprotect_thread",
        "As mprotect, while a thread of the VMM reads and writes through the host's TLB.",
        "1 vCPU that reads, 1 host thread, 1 gfn, 1 page, any number of calls",
        two_private_pages,
        lambda host: [
            Actor("mprotect", mprotect.mprotect, (host.mm,)),
            Actor("vmm", memory.host_thread, (host.mm,)),
        ],
        {
            **ONE_GFN,
            "pages": 1,
            "written_gfns": 0,
            "host_thread": True,
            "defers_flushes": True,
            "changes_vmas": True,
        },
    ),
    Scenario(
        "numa",
        "NUMA balancing makes guest pages inaccessible; one of them is pinned, and is zapped with"
        " the others.",
        "1 vCPU, 2 gfns in one table page, 2 pages, any number of passes",
        second_page_pinned,
        mm_actor("numa", mprotect.task_numa_work),
        {"pages": 2},
    ),
    Scenario(
        "numa_dontneed",
        "NUMA balancing goes over guest memory of which the VMM drops pages.",
        "1 vCPU, 1 gfn, 2 pages, any number of passes and of calls",
        two_private_pages,
        lambda host: [
            Actor("numa", mprotect.task_numa_work, (host.mm,)),
            Actor("madvise", memory.madvise_dontneed, (host.mm,)),
        ],
        ONE_GFN,
    ),
)
