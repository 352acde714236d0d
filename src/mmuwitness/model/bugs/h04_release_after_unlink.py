"""H4: an exiting process's subscriber leaves the list before it drops what it has mapped."""

from __future__ import annotations

from mmuwitness.model.bugs.bug import Bug
from mmuwitness.model.features.feature import MEMORY
from mmuwitness.model.scenarios import find_scenario

BUG = Bug(
    id="H4",
    text="When an mm exits its subscribers are taken off the list and then released. Reclaim that"
    " comes in between finds nobody to tell, and frees pages that the secondary MMU still maps.",
    commit="3ad3d901bbcf",
    subject="mm: mmu_notifier: fix freed page still mapped in secondary MMU",
    release="v3.6",
    source=MEMORY,
    reference="Xiao Guangrong, 2012. Undone by accident in v3.9, and fixed again by commit"
    " d34883d4e35c in v3.10.",
    claim="freed_page_unmapped",
    scenario=find_scenario("exit_reclaim"),
    arch="x86-shadow",
    era="v3.6",
    without=("release_before_unlink",),
)
