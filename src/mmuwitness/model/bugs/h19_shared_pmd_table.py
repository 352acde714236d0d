"""H19: migration forgets all but one of the mappings that share a PMD table."""

from __future__ import annotations

from mmuwitness.model.bugs.bug import Bug
from mmuwitness.model.features.feature import PATCH
from mmuwitness.model.scenarios import find_scenario

BUG = Bug(
    id="H19",
    text="Two mappings of hugetlb share a PMD table, and a page in it counts as mapped once. The"
    " walk of the reverse mapping ends after the first of them, and the secondary MMU of the second"
    " is not told: its guest goes on with the old page.",
    commit="017b1660df89",
    subject="mm: migration: fix migration of huge PMD shared pages",
    release="v4.19",
    source=PATCH,
    reference="Commit dff11abe280b in the same release widened the windows of others who unshare;"
    " these are not in the model.",
    claim="freed_page_unmapped",
    scenario=find_scenario("hugetlb_shared"),
    arch="x86-shadow",
    era="v4.19",
    without=("hugetlb_shared_pmd_range",),
)
