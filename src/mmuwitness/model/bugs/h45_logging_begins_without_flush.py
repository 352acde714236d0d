"""H45: dirty logging begins, and a TLB is writable where no SPTE is."""

from __future__ import annotations

from mmuwitness.model.bugs.bug import Bug
from mmuwitness.model.features.feature import MEMORY
from mmuwitness.model.kvm.dirty_log import migrate_guest
from mmuwitness.model.mm.page_idle import page_idle_bitmap_write
from mmuwitness.model.scenarios.scenario import ONE_GFN, Actor, Scenario, two_private_pages

BUG = Bug(
    id="H45",
    text="Without an Accessed bit, clear_young makes an SPTE not accessible and does not flush."
    " When dirty logging begins no SPTE is writable, so nothing is flushed, but a TLB entry is.",
    commit="b64d740ea7dd",
    subject="kvm: x86: mmu: Always flush TLBs when enabling dirty logging",
    release="v6.0",
    source=MEMORY,
    reference="Junaid Shahid, 2022. On CPUs without EPT A bits.",
    claim="written_page_logged",
    scenario=Scenario(
        "dirty_log_idle",
        "The VMM turns dirty logging on while pages are marked idle.",
        "1 vCPU, 1 gfn, 1 page, any number of marks and of reads of the log",
        two_private_pages,
        lambda host: [
            Actor("migration", migrate_guest, (host.kvm,)),
            Actor("idle", page_idle_bitmap_write, (host.mm,)),
        ],
        {
            **ONE_GFN,
            "pages": 1,
            "logs_dirty_pages": True,
            "ages_pages": True,
            "access_tracking": True,
        },
    ),
    arch="x86-tdp",
    era="v6.0",
    without=("dirty_log_always_flushes",),
)
