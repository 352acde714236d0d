"""H52: reclaim asks a VM that has no tables any more whether a page is young."""

from __future__ import annotations

from mmuwitness.model.bugs.bug import Bug
from mmuwitness.model.features.feature import MEMORY
from mmuwitness.model.scenarios import find_scenario

BUG = Bug(
    id="H52",
    text="An exiting mm releases KVM, which frees its tables while it is on the list of subscribers"
    " still. Reclaim asks it whether the guest has used a page, and the walk begins at NULL.",
    commit="7e5a672289c9",
    subject="KVM: arm/arm64: Handle hva aging while destroying the vm",
    release="v4.13",
    source=MEMORY,
    reference="Suzuki K Poulose, 2017. Zaps asked already.",
    claim="walks_freed",
    scenario=find_scenario("exit_aging"),
    arch="arm64",
    era="v4.13",
    without=("arm64_aging_checks_pgd",),
)
