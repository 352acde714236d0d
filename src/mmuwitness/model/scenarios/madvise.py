"""Scenarios of MADV_FREE: pages that may be dropped as long as nobody writes to them again."""

from __future__ import annotations

from mmuwitness.model.mm import madvise, rmap
from mmuwitness.model.scenarios.scenario import (
    ONE_GFN,
    Actor,
    Scenario,
    two_private_pages,
)

FREES_LAZILY = {**ONE_GFN, "frees_lazily": True}

MADVISE = (
    Scenario(
        "madv_free",
        "The VMM says that it can do without the content of guest memory, and kswapd drops pages"
        " that nobody has written to since; the guest reads and writes on.",
        "1 vCPU, 1 gfn, 2 pages, any number of calls and of reclaims, no swap",
        two_private_pages,
        lambda host: [
            Actor("madvise", madvise.madvise_free, (host.mm,)),
            Actor("kswapd", rmap.shrink_lazyfree_list, (host.mm,)),
        ],
        FREES_LAZILY,
        requires="madv_free",
    ),
    Scenario(
        "madv_free_dio",
        "A thread of the VMM says of a page that it can do without its content, and has a disk read"
        " into it with O_DIRECT, which looks the page up without a lock; kswapd drops pages.",
        "1 vCPU that reads, 1 gfn, 2 pages, any number of calls, of reclaims and of disk reads, no"
        " swap",
        two_private_pages,
        lambda host: [
            Actor("vmm", madvise.madvise_free_and_read, (host.mm,)),
            Actor("kswapd", rmap.shrink_lazyfree_list, (host.mm,)),
        ],
        {**FREES_LAZILY, "written_gfns": 0},
        requires="madv_free",
    ),
)
