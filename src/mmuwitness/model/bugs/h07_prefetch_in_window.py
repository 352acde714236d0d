"""H7: the fault of one gfn maps its neighbour, over which a window is open."""

from __future__ import annotations

from mmuwitness.model.bugs.bug import Bug
from mmuwitness.model.features.feature import SOURCE
from mmuwitness.model.scenarios import find_scenario

BUG = Bug(
    id="H7",
    text="Faults retry only if their own address is in an open window. Without the guard that came"
    " with that, a fault prefetches the neighbour from under its window.",
    commit="4a42d848db95",
    subject="KVM: x86/mmu: Consider the hva in mmu_notifier retry",
    release="v5.12",
    source=SOURCE,
    reference="The commit is about invalidators that are preempted and stall every vCPU. The guard"
    " is part of it; no release was without.",
    claim="freed_page_unmapped",
    scenario=find_scenario("dontneed"),
    arch="x86-shadow",
    era="v5.12",
    without=("prefetch_guard",),
)
