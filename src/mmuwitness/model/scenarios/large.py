"""Scenarios with more vCPUs, gfns and actors: explored up to symmetry, and not for every kernel."""

from __future__ import annotations

from mmuwitness.model.mm import ksm, memory
from mmuwitness.model.scenarios.scenario import (
    ONE_GFN,
    Actor,
    Scenario,
    mm_actor,
    private_beside_ksm_page,
    private_beside_mapped_ksm_page,
    two_private_pages,
)

LARGE = (
    Scenario(
        "dontneed_3vcpus",
        "Three vCPUs fault the same page in again.",
        "3 vCPUs, 1 gfn, 4 pages, any number of calls",
        two_private_pages,
        mm_actor("madvise", memory.madvise_dontneed),
        {**ONE_GFN, "pages": 4, "vcpus": 3},
    ),
    Scenario(
        "dontneed_2vcpus",
        "Two vCPUs fault pages in again that the VMM drops.",
        "2 vCPUs, 2 gfns in one table page, 4 pages, any number of calls",
        two_private_pages,
        mm_actor("madvise", memory.madvise_dontneed),
        {"vcpus": 2},
    ),
    Scenario(
        "dontneed_3gfns",
        "The VMM drops pages of three gfns.",
        "1 vCPU, 3 gfns, 4 pages, any number of calls",
        two_private_pages,
        mm_actor("madvise", memory.madvise_dontneed),
        {"addresses": 3, "slot_pages": 3},
    ),
    Scenario(
        "dontneed_2vcpus_3gfns",
        "As dontneed_3gfns, with two vCPUs.",
        "2 vCPUs, 3 gfns, 4 pages, any number of calls",
        two_private_pages,
        mm_actor("madvise", memory.madvise_dontneed),
        {"addresses": 3, "slot_pages": 3, "vcpus": 2},
    ),
    Scenario(
        "ksm_2vcpus",
        "As ksm, with two vCPUs.",
        "2 vCPUs, 2 gfns in one table page, 3 pages, any number of KSM merges",
        private_beside_mapped_ksm_page,
        mm_actor("ksmd", ksm.ksmd),
        {"pages": 3, "read_gfns": 1, "vcpus": 2},
    ),
    Scenario(
        "ksm_3vcpus",
        "As ksm, with three vCPUs.",
        "3 vCPUs, 2 gfns in one table page, 3 pages, any number of KSM merges",
        private_beside_mapped_ksm_page,
        mm_actor("ksmd", ksm.ksmd),
        {"pages": 3, "read_gfns": 1, "vcpus": 3},
    ),
    Scenario(
        "ksm_cow_zap",
        "ksmd merges guest pages, the guest writes to them and breaks COW, the VMM drops them.",
        "1 vCPU, 2 gfns in one table page, 3 pages, any number of KSM merges, of calls and of"
        " copies",
        private_beside_ksm_page,
        lambda host: [
            Actor("ksmd", ksm.ksmd, (host.mm,)),
            Actor("madvise", memory.madvise_dontneed, (host.mm,)),
        ],
        {"pages": 3, "read_gfns": 1},
    ),
)
