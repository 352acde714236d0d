"""P2: as P1, on e500."""

from __future__ import annotations

from mmuwitness.model.bugs.bug import Bug
from mmuwitness.model.features.feature import MEMORY
from mmuwitness.model.scenarios import find_scenario

BUG = Bug(
    id="P2",
    text="A fault looks a page up, the page goes away in a window, and the fault puts it into the"
    " shadow TLB after that: nothing compares the sequence.",
    commit="40fde70d0df9",
    subject="kvm: ppc: booke: check range page invalidation progress on page setup",
    release="v3.13",
    source=MEMORY,
    reference="The patch was read; its subject and its release are from memory.",
    claim="freed_page_unmapped",
    scenario=find_scenario("dontneed_one"),
    arch="powerpc-e500",
    era="v3.13",
    without=("powerpc_e500_retry",),
)
