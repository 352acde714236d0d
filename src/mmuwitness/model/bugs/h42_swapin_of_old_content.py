"""H42: a page is swapped in with content that was overwritten since."""

from __future__ import annotations

from mmuwitness.model.bugs.bug import Bug
from mmuwitness.model.features.feature import PATCH
from mmuwitness.model.scenarios import find_scenario

BUG = Bug(
    id="H42",
    text="Two threads fault one page in from zram. One writes to it, and it is swapped out to the"
    " same slot; the other finds the PTE as it was, and maps what it had read before.",
    commit="13ddaf26be32",
    subject="mm/swap: fix race when skipping swapcache",
    release="v6.8",
    source=PATCH,
    reference='CVE-2024-26759. Since commit 0bcac06f27d7 ("mm, swap: skip swapcache for swapin of'
    ' synchronous device") in v4.15.',
    claim="no_lost_write",
    scenario=find_scenario("swapin"),
    arch="x86-tdp",
    era="v6.8",
    without=("swapin_exclusive",),
)
