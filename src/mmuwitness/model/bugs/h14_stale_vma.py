"""H14: a huge leaf over small pages, because a VMA said so that is gone."""

from __future__ import annotations

from mmuwitness.model.bugs.bug import Bug
from mmuwitness.model.features.feature import SOURCE
from mmuwitness.model.scenarios import find_scenario

BUG = Bug(
    id="H14",
    text="A fault asks the VMA how large the mapping is, drops mmap_lock, and only then takes its"
    " snapshot. If small pages come in the place of huge ones in between, no retry sees it: the"
    " leaf is huge, and maps whatever lies beside one small page.",
    commit="13ec9308a857",
    subject="KVM: arm64: Retry fault if vma_lookup() results become invalid",
    release="v6.3",
    source=SOURCE,
    reference="Its twins are H34 on RISC-V and H35 on x86.",
    claim="coherent",
    scenario=find_scenario("mmap_hugetlb"),
    arch="arm64",
    era="v6.3",
    without=("arm64_snapshot_before_mmap_unlock",),
)
