"""L1: the other half of H7, what the range check of faults is for."""

from __future__ import annotations

from mmuwitness.model.bugs.bug import Bug
from mmuwitness.model.features.feature import SOURCE
from mmuwitness.model.scenarios import find_scenario

BUG = Bug(
    id="L1",
    text="A fault is retried while any window is open, over whatever pages. Whoever is preempted in"
    " one stalls every vCPU.",
    commit="4a42d848db95",
    subject="KVM: x86/mmu: Consider the hva in mmu_notifier retry",
    release="v5.12",
    source=SOURCE,
    reference="arm64, RISC-V and MIPS still retry so in v7.3.",
    claim="other_windows_pass",
    scenario=find_scenario("fault_beside_window"),
    arch="x86-shadow",
    era="v5.12",
    without=("range_retry_hva",),
)
