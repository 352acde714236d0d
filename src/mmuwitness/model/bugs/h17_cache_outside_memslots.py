"""H17: a window that hits no memslot is not seen by the refresh of a gfn_to_pfn_cache."""

from __future__ import annotations

from mmuwitness.model.bugs.bug import Bug
from mmuwitness.model.features.feature import DERIVED
from mmuwitness.model.scenarios import find_scenario

BUG = Bug(
    id="H17",
    text="The hva of a cache may be outside every memslot. A window there does not bump"
    " mmu_invalidate_seq, so that one which comes and goes during a refresh goes unnoticed.",
    commit="da260bcb56fe",
    subject="KVM: pfncache: use a dedicated invalidation sequence for cache refresh",
    release="v7.3",
    source=DERIVED,
    reference="Read in v7.3.4, and missing in v6.12.117; whether v7.3 itself has it is not known.",
    claim="freed_page_unmapped",
    scenario=find_scenario("pfncache_hva"),
    arch="x86-tdp",
    era="v7.3",
    without=("gpc_invalidate_seq",),
)
