"""H53: a zap drops mmu_lock on its way, and goes on through tables that were freed meanwhile."""

from __future__ import annotations

from mmuwitness.model.bugs.bug import Bug
from mmuwitness.model.features.feature import MEMORY
from mmuwitness.model.scenarios import find_scenario

BUG = Bug(
    id="H53",
    text="start() zaps two pages and drops mmu_lock between them. The VM is destroyed, and its"
    " tables are freed at once. The zap goes on in them.",
    commit="0c428a6a9256",
    subject="kvm: arm/arm64: Fix use after free of stage2 page table",
    release="v4.12",
    source=MEMORY,
    reference="Suzuki K Poulose, 2017. What it changed was read in an annotated virt/kvm/arm/mmu.c;"
    " its subject was not.",
    claim="walks_freed",
    scenario=find_scenario("vm_tables"),
    arch="arm64",
    era="v4.12",
    without=("arm64_walk_rechecks_pgd",),
)
