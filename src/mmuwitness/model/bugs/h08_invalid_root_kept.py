"""H8: a page is freed while a root that is about to be zapped still maps it."""

from __future__ import annotations

from mmuwitness.model.bugs.bug import Bug
from mmuwitness.model.features.feature import SOURCE
from mmuwitness.model.scenarios import find_scenario

BUG = Bug(
    id="H8",
    text="A memslot update has made the root invalid and not zapped it yet. start() zaps valid"
    " roots only, and its page is freed; the update then hands the SPTE's dirty bit on to it.",
    commit="d62007edf01f",
    subject="KVM: x86/mmu: Zap _all_ roots when unmapping gfn range in TDP MMU",
    release="v5.18",
    source=SOURCE,
    reference="Fixes: commit b7cccd397f31. No guest runs on an invalid root: the harm is in the"
    " host. In v5.16.19, too.",
    claim="freed_page_unmapped",
    scenario=find_scenario("memslot_roots"),
    arch="x86-tdp",
    era="v5.18",
    without=("x86_tdp_unmaps_invalid_roots",),
)
