"""H46: a page that a disk is read into is discarded as clean."""

from __future__ import annotations

from mmuwitness.model.bugs.bug import Bug
from mmuwitness.model.features.feature import PATCH
from mmuwitness.model.scenarios import find_scenario

BUG = Bug(
    id="H46",
    text="GUP-fast hands a page out for writing and leaves its PTE clean, as MADV_FREE has made it."
    " Reclaim finds it clean and drops it, before the one who writes makes it dirty: what is read"
    " later is a page of zeros.",
    commit="6c8e2a256915",
    subject="mm: fix race between MADV_FREE reclaim and blkdev direct IO read",
    release="v5.18",
    source=PATCH,
    reference='Since commit 802a3a92ad7a ("mm: reclaim MADV_FREE pages") in v4.12, or since'
    ' commit 854e9ed09ded ("mm: support madvise(MADV_FREE)") in v4.5; backported down to 4.9.',
    claim="written_page_kept",
    scenario=find_scenario("madv_free_dio"),
    arch="x86-tdp",
    era="v5.18",
    without=("lazyfree_counts_references",),
)
