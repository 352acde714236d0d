"""P1: Book3S PR subscribes to notifiers, and its faults do not ask what they tell."""

from __future__ import annotations

from mmuwitness.model.bugs.bug import Bug
from mmuwitness.model.features.feature import PATCH
from mmuwitness.model.scenarios import find_scenario

BUG = Bug(
    id="P1",
    text="A fault looks a page up, the page goes away in a window, and the fault maps it after"
    " that: nothing compares the sequence.",
    commit="d78bca72961a",
    subject="KVM: PPC: Book3S PR: Use mmu_notifier_retry() in kvmppc_mmu_map_page()",
    release="v3.13",
    source=PATCH,
    reference="Kernels from v3.8 on had notifiers without a retry check.",
    claim="freed_page_unmapped",
    scenario=find_scenario("dontneed_one"),
    arch="powerpc-pr",
    era="v3.13",
    without=("powerpc_pr_retry",),
)
