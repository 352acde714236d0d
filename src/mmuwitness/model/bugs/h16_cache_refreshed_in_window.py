"""H16: a gfn_to_pfn_cache is refreshed while a window is on its way to mmu_lock."""

from __future__ import annotations

from mmuwitness.model.bugs.bug import Bug
from mmuwitness.model.features.feature import SOURCE
from mmuwitness.model.scenarios import find_scenario

BUG = Bug(
    id="H16",
    text="start() clears the cache before it raises the count. A refresh between the two sees no"
    " window, and what it looked up is valid while the page goes away.",
    commit="58cd407ca4c6",
    subject="KVM: Fix multiple races in gfn=>pfn cache refresh",
    release="v5.19",
    source=SOURCE,
    reference="From v5.17 on; the cache kept a reference to its page then, so that it was lost but"
    " not free. Commit 85165781c5d9, which drops that, is of the same series.",
    claim="freed_page_unmapped",
    scenario=find_scenario("pfncache"),
    arch="x86-tdp",
    era="v5.19",
    without=("pfncache_rechecks_retry",),
)
