"""H35: H14 on x86, long before."""

from __future__ import annotations

from mmuwitness.model.bugs.bug import Bug
from mmuwitness.model.features.feature import MEMORY
from mmuwitness.model.scenarios import find_scenario

BUG = Bug(
    id="H35",
    text="As H14: mapping_level() asks the VMA before the snapshot of mmu_invalidate_seq is taken,"
    " and nobody asks again.",
    commit="83f06fa7a6fd",
    subject="KVM: x86/mmu: Rely on host page tables to find HugeTLB mappings",
    release="v5.6",
    source=MEMORY,
    reference="No report of it is known; the order of the two was read in kernels of v3.x. The"
    " fix was a by-product: since then a huge leaf needs a huge PMD, seen under mmu_lock after the"
    " retry check.",
    claim="coherent",
    scenario=find_scenario("mmap_hugetlb"),
    arch="x86-shadow",
    era="v5.6",
    without=("x86_hugetlb_from_page_tables",),
)
