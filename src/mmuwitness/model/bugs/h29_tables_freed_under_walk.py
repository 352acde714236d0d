"""H29: the tables of a VM that ends are freed, and the pointer to them is reset after that."""

from __future__ import annotations

from mmuwitness.model.bugs.bug import Bug
from mmuwitness.model.features.feature import MEMORY
from mmuwitness.model.scenarios import find_scenario

BUG = Bug(
    id="H29",
    text="An exiting mm releases KVM, which zaps all and drops mmu_lock. A reclaim that has waited"
    " for the lock finds the pointer to the tables and walks them, while they are freed.",
    commit="6c0d706b563a",
    subject="kvm: arm/arm64: Fix race in resetting stage2 PGD",
    release="v4.12",
    source=MEMORY,
    reference="Suzuki K Poulose, 2017. Its subject was read in a list of stable kernels, as commit"
    " caaf1252d7d7.",
    claim="walks_freed",
    scenario=find_scenario("exit_aging"),
    arch="arm64",
    era="v4.13",
    without=("arm64_pgd_reset_under_lock",),
)
