"""Scenarios of guest memory that the VMM drops."""

from __future__ import annotations

from mmuwitness.model.host import Host
from mmuwitness.model.mm import memory, pfnmap
from mmuwitness.model.mm.mm_types import NO_VMA, UNKNOWN
from mmuwitness.model.scenarios.scenario import (
    ONE_GFN,
    Scenario,
    mm_actor,
    two_private_pages,
    zero_pages,
)


def nothing_but_a_driver(host: Host) -> None:
    """No page that the VMM could fault in."""
    for addr in host.mm.addresses:
        host.mm.vm_flags[addr] = NO_VMA
        host.mm.written[addr] = UNKNOWN


ZAP = (
    Scenario(
        "dontneed",
        "The VMM drops guest pages (a balloon), the guest faults them in again.",
        "1 vCPU, 2 gfns in one table page, 4 pages, any number of calls",
        two_private_pages,
        mm_actor("madvise", memory.madvise_dontneed),
    ),
    Scenario(
        "dontneed_one",
        "As dontneed, with one gfn.",
        "1 vCPU, 1 gfn, 2 pages, any number of calls",
        two_private_pages,
        mm_actor("madvise", memory.madvise_dontneed),
        ONE_GFN,
    ),
    Scenario(
        "dontneed_smp",
        "Two vCPUs fault the same page in again.",
        "2 vCPUs, 1 gfn, 3 pages, any number of calls",
        two_private_pages,
        mm_actor("madvise", memory.madvise_dontneed),
        {**ONE_GFN, "pages": 3, "vcpus": 2},
    ),
    Scenario(
        "zero_page",
        "As dontneed, with guest memory that was read and not written to: the zero page is there.",
        "1 vCPU, 1 gfn, 2 pages, any number of calls",
        zero_pages,
        mm_actor("madvise", memory.madvise_dontneed),
        {**ONE_GFN, "zero_page": True},
    ),
    Scenario(
        "pfnmap",
        "A driver maps a page of its own for the VMM, revokes it and frees it.",
        "1 vCPU, 1 gfn, 1 page, any number of mappings",
        nothing_but_a_driver,
        mm_actor("driver", pfnmap.driver),
        {**ONE_GFN, "pages": 1, "changes_vmas": True, "maps_pfns": True},
    ),
)
