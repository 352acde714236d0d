"""H3: a page is freed while another task has yet to flush the TLBs that map it."""

from __future__ import annotations

from mmuwitness.model.bugs.bug import Bug
from mmuwitness.model.features.feature import MEMORY
from mmuwitness.model.mm.memory import madvise_dontneed
from mmuwitness.model.scenarios.scenario import Actor, Scenario, two_private_pages

BUG = Bug(
    id="H3",
    text="start() drops mmu_lock before it flushes. A second start() finds the SPTE clear already,"
    " flushes nothing and returns: its caller goes on, and a TLB still maps the page.",
    commit="565f3be21746",
    subject="KVM: mmu_notifier: Flush TLBs before releasing mmu_lock",
    release="v3.4",
    source=MEMORY,
    reference="Takuya Yoshikawa, 2012. Commit 6dbf79e7164e describes the same race in dirty"
    " logging.",
    claim="no_stale_tlb_entry",
    scenario=Scenario(
        "two_balloons",
        "Two threads of the VMM drop the same guest page.",
        "1 vCPU, 1 gfn, 2 pages, any number of calls",
        two_private_pages,
        lambda host: [
            Actor("madvise0", madvise_dontneed, (host.mm,)),
            Actor("madvise1", madvise_dontneed, (host.mm,)),
        ],
        {"addresses": 1, "slot_pages": 1, "pages": 2},
    ),
    arch="x86-shadow",
    era="v3.4",
    without=("flush_before_unlock",),
)
