"""H11: a fault maps into a root that was zapped for good."""

from __future__ import annotations

from mmuwitness.model.bugs.bug import Bug
from mmuwitness.model.features.feature import SOURCE
from mmuwitness.model.scenarios import find_scenario

BUG = Bug(
    id="H11",
    text="A fault of one memslot is under way when another one is deleted, which makes its root"
    " invalid. Nothing tells the fault: it maps into a root that may have been zapped already.",
    commit="a955cad84cda",
    subject="KVM: x86/mmu: Retry page fault if root is invalidated by memslot update",
    release="v5.16",
    source=SOURCE,
    reference="Fixes: commit b7cccd397f31; commit 18c841e1f411 mends it for roots that have no"
    " shadow page. No SRCU grace period waits for the fault: it began after the last one. The"
    " kernel here is one with the fix of H8.",
    claim="obsolete_root_unmapped",
    scenario=find_scenario("memslot_roots"),
    arch="x86-tdp",
    era="v5.16.19",
    without=("x86_fault_checks_root",),
)
