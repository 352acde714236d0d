"""H2: change_pte maps into a memslot that is being deleted."""

from __future__ import annotations

from mmuwitness.model.bugs.bug import Bug
from mmuwitness.model.features.feature import SOURCE
from mmuwitness.model.scenarios import find_scenario

BUG = Bug(
    id="H2",
    text="A memslot is INVALID and flushed. A KSM merge inside its window has change_pte install"
    " a leaf there, and no later window finds it: what should be MMIO reads memory.",
    commit="2230f9e1171a",
    subject="KVM: Avoid illegal stage2 mapping on invalid memory slot",
    release="v6.4",
    source=SOURCE,
    reference="Reported from arm64: edk2 hung while KSM ran. Fixes: commit d5d8184d35c9, exposed by"
    " commit cd4c71835228. In v5.15.119, v6.1.36 and v6.3.10, too.",
    claim="deleted_slot_unmapped",
    scenario=find_scenario("memslot_delete"),
    arch="arm64",
    era="v6.4",
    without=("change_pte_skips_invalid_slot",),
)
