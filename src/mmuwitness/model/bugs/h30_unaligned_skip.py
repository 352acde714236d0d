"""H30: a zap steps over leaves that are there."""

from __future__ import annotations

from mmuwitness.model.bugs.bug import Bug
from mmuwitness.model.features.feature import SOURCE
from mmuwitness.model.mm.memory import madvise_dontneed_range
from mmuwitness.model.scenarios.scenario import Scenario, mm_actor, two_private_pages

BUG = Bug(
    id="H30",
    text="Where a zap finds no table page it goes on one table's size further, not at the next"
    " table. From an unaligned start it steps over the first leaves of that one.",
    commit="a5f8307e2eaa",
    subject="RISC-V: KVM: Fix skip of valid pages in kvm_riscv_gstage_unmap_range",
    release="v7.2",
    source=SOURCE,
    reference="Its twin is commit 0d9dc20842db, for the write protection of a range.",
    claim="freed_page_unmapped",
    scenario=Scenario(
        "dontneed_range",
        "The VMM drops two guest pages at once, of which each has its own table page; the first"
        " shares its one with a page that stays.",
        "1 vCPU, 3 gfns in two table pages, 3 pages, any number of calls",
        two_private_pages,
        mm_actor("madvise", madvise_dontneed_range, 1),
        {"addresses": 3, "slot_pages": 3, "pages": 3},
    ),
    arch="riscv",
    era="v7.2",
    without=("riscv_unmap_aligned",),
)
