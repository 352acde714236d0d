"""Scenarios of reclaim and migration."""

from __future__ import annotations

from mmuwitness.model.mm import migrate, rmap
from mmuwitness.model.scenarios.scenario import ONE_GFN, Scenario, mm_actor, two_private_pages

RMAP = (
    Scenario(
        "reclaim",
        "kswapd unmaps pages through the reverse mapping and frees them.",
        "1 vCPU, 2 gfns in one table page, 4 pages, any number of reclaims",
        two_private_pages,
        mm_actor("kswapd", rmap.shrink_folio_list, False),
    ),
    Scenario(
        "reclaim_one",
        "As reclaim, with one gfn.",
        "1 vCPU, 1 gfn, 2 pages, any number of reclaims",
        two_private_pages,
        mm_actor("kswapd", rmap.shrink_folio_list, False),
        ONE_GFN,
    ),
    Scenario(
        "migrate",
        "Compaction moves guest pages.",
        "1 vCPU, 2 gfns in one table page, 4 pages, any number of migrations",
        two_private_pages,
        mm_actor("kcompactd", migrate.migrate_pages, False),
    ),
    Scenario(
        "migrate_one",
        "As migrate, with one gfn.",
        "1 vCPU, 1 gfn, 2 pages, any number of migrations",
        two_private_pages,
        mm_actor("kcompactd", migrate.migrate_pages, False),
        ONE_GFN,
    ),
)
