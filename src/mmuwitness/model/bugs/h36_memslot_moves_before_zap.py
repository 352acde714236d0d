"""H36: a memslot is at its new gfn before what it mapped at the old one is zapped."""

from __future__ import annotations

from mmuwitness.model.bugs.bug import Bug
from mmuwitness.model.features.feature import MEMORY
from mmuwitness.model.scenarios import find_scenario

BUG = Bug(
    id="H36",
    text="A memslot that moves was zapped after the new set of memslots was there. Until then a"
    " window finds the memslot at its new gfn, and leaves what the guest has at the old one.",
    commit="12d6e7538e2d",
    subject="KVM: perform an invalid memslot step for gpa base change",
    release="v3.7",
    source=MEMORY,
    reference="CVE-2013-4592 names it for another harm: an IOMMU mapping of the old place that"
    " stays.",
    claim="freed_page_unmapped",
    scenario=find_scenario("memslot_move"),
    arch="x86-shadow",
    era="v3.7 +memslot_move_flushes",
    without=("memslot_move_invalidates",),
)
