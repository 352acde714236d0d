"""Scenarios of reclaim and migration."""

from __future__ import annotations

from mmuwitness.model.mm import gup, memory, migrate, mprotect, page_writeback, rmap
from mmuwitness.model.scenarios.scenario import (
    ONE_GFN,
    Actor,
    Scenario,
    mm_actor,
    one_page_swapped_out,
    two_private_pages,
)

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
        "reclaim_thread",
        "kswapd flushes the host's TLB once it has unmapped a page, and a thread of the VMM reads"
        " and writes on.",
        "1 vCPU that reads, 1 host thread, 1 gfn, 2 pages, any number of reclaims",
        two_private_pages,
        lambda host: [
            Actor("kswapd", rmap.shrink_folio_list, (host.mm, False)),
            Actor("vmm", memory.host_thread, (host.mm,)),
        ],
        {
            **ONE_GFN,
            "written_gfns": 0,
            "host_thread": True,
            "swap_cache": True,
            "defers_flushes": True,
        },
    ),
    Scenario(
        "reclaim_mprotect",
        "kswapd unmaps a page while the VMM makes guest memory read-only, and writable again; a"
        " thread of it reads.",
        "1 vCPU that reads, 1 host thread, 1 gfn, 1 page, any number of reclaims and of calls",
        two_private_pages,
        lambda host: [
            Actor("kswapd", rmap.shrink_folio_list, (host.mm, False)),
            Actor("mprotect", mprotect.mprotect, (host.mm,)),
            Actor("vmm", memory.host_reader, (host.mm,)),
        ],
        {
            **ONE_GFN,
            "pages": 1,
            "written_gfns": 0,
            "host_thread": True,
            "swap_cache": True,
            "defers_flushes": True,
            "changes_vmas": True,
        },
    ),
    Scenario(
        "swapin",
        "A vCPU and a thread of the VMM fault a page in that was swapped out to zram, and kswapd"
        " takes it again.",
        "1 vCPU, 1 host thread, 1 gfn, 2 pages, any number of reclaims",
        one_page_swapped_out,
        lambda host: [
            Actor("kswapd", rmap.shrink_folio_list, (host.mm, False)),
            Actor("vmm", memory.host_reader, (host.mm,)),
        ],
        {**ONE_GFN, "host_thread": True, "swap_cache": True},
    ),
    Scenario(
        "writeback",
        "Guest memory is a file, mapped shared, whose pages are written to disk while the guest"
        " writes to them.",
        "1 vCPU, 1 gfn, 1 page, any number of pages written back",
        two_private_pages,
        mm_actor("writeback", page_writeback.write_cache_pages),
        {**ONE_GFN, "pages": 1, "writes_back": True},
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
    Scenario(
        "migrate_thread",
        "As migrate_one, while a thread of the VMM reads and writes through the host's TLB.",
        "1 vCPU that reads, 1 host thread, 1 gfn, 2 pages, any number of migrations",
        two_private_pages,
        lambda host: [
            Actor("kcompactd", migrate.migrate_pages, (host.mm, False)),
            Actor("vmm", memory.host_thread, (host.mm,)),
        ],
        {**ONE_GFN, "written_gfns": 0, "host_thread": True, "defers_flushes": True},
    ),
    Scenario(
        "migrate_dma",
        "Compaction moves a page to which a device writes.",
        "1 vCPU that reads, 1 gfn, 2 pages, any number of migrations, and of pins",
        two_private_pages,
        lambda host: [
            Actor("kcompactd", migrate.migrate_pages, (host.mm, False)),
            Actor("vfio", gup.vfio_dma, (host.mm,)),
        ],
        {**ONE_GFN, "written_gfns": 0},
    ),
)
