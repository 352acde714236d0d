"""Scenarios of aging: the primary MMU asks whether guests use their pages."""

from __future__ import annotations

from mmuwitness.model.mm import memory, rmap
from mmuwitness.model.scenarios.scenario import (
    ONE_GFN,
    Actor,
    Scenario,
    mm_actor,
    two_private_pages,
)

AGING = (
    Scenario(
        "aging",
        "kswapd looks whether pages are used while the VMM drops them.",
        "1 vCPU, 1 gfn, 2 pages, any number of looks and of calls",
        two_private_pages,
        lambda host: [
            Actor("kswapd", rmap.kswapd_age_node, (host.mm,)),
            Actor("madvise", memory.madvise_dontneed, (host.mm,)),
        ],
        {**ONE_GFN, "ages_pages": True},
    ),
    Scenario(
        "reclaim_aging",
        "As reclaim_one, but kswapd leaves pages alone that a guest has used of late.",
        "1 vCPU, 1 gfn, 2 pages, any number of reclaims",
        two_private_pages,
        mm_actor("kswapd", rmap.shrink_folio_list, False),
        {**ONE_GFN, "ages_pages": True},
    ),
)
