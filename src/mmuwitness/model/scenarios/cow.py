"""Scenarios of copy-on-write."""

from __future__ import annotations

from mmuwitness.model.mm import memory, migrate, rmap
from mmuwitness.model.scenarios.scenario import ONE_GFN, Scenario, mm_actor, one_ksm_page

COW = (
    Scenario(
        "cow",
        "A guest and a thread of the VMM write to pages that share a KSM page.",
        "1 vCPU, 1 host thread, 2 gfns in one table page, 4 pages",
        one_ksm_page,
        mm_actor("vmm", memory.host_thread),
        {"host_thread": True},
    ),
    Scenario(
        "cow_smp",
        "One vCPU breaks COW while a thread of the VMM writes and another vCPU reads.",
        "2 vCPUs, 1 host thread, 1 gfn, 2 pages",
        one_ksm_page,
        mm_actor("vmm", memory.host_thread),
        {**ONE_GFN, "vcpus": 2, "host_thread": True},
    ),
    Scenario(
        "cow_migrate",
        "A guest breaks COW while compaction moves pages, the new one among them.",
        "1 vCPU, 2 gfns in one table page, 3 pages, any number of migrations",
        one_ksm_page,
        mm_actor("kcompactd", migrate.migrate_pages, True),
        {"pages": 3},
    ),
    Scenario(
        "cow_reclaim",
        "A guest breaks COW while kswapd reclaims pages, the new one among them.",
        "1 vCPU, 2 gfns in one table page, 3 pages, any number of reclaims",
        one_ksm_page,
        mm_actor("kswapd", rmap.shrink_folio_list, True),
        {"pages": 3},
    ),
)
