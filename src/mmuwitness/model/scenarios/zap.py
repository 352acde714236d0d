"""Scenarios of guest memory that the VMM drops."""

from __future__ import annotations

from mmuwitness.model.mm import memory
from mmuwitness.model.scenarios.scenario import (
    ONE_GFN,
    Scenario,
    mm_actor,
    two_private_pages,
    zero_pages,
)

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
)
