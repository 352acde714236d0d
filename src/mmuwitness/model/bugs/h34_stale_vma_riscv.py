"""H34: H14 on RISC-V."""

from __future__ import annotations

from mmuwitness.model.bugs.bug import Bug
from mmuwitness.model.features.feature import SOURCE
from mmuwitness.model.scenarios import find_scenario

BUG = Bug(
    id="H34",
    text="As H14: the VMA is looked up before the snapshot is taken, and a huge leaf maps what lies"
    " beside a small page.",
    commit="2ed90cb0938a",
    subject="KVM: RISC-V: Retry fault if vma_lookup() results become invalid",
    release="v6.4",
    source=SOURCE,
    reference="The code came from arm64, and the bug with it.",
    claim="coherent",
    scenario=find_scenario("mmap_hugetlb"),
    arch="riscv",
    era="v6.4",
    without=("riscv_snapshot_before_mmap_unlock",),
)
