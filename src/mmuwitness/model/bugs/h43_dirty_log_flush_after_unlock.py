"""H43: as H3, where SPTEs are made read-only for the dirty log."""

from __future__ import annotations

from mmuwitness.model.arch.x86_page_track import shadow_first_page
from mmuwitness.model.bugs.bug import Bug
from mmuwitness.model.features.feature import PATCH
from mmuwitness.model.kvm.dirty_log import migrate_guest
from mmuwitness.model.scenarios.scenario import ONE_GFN, Actor, Scenario, two_private_pages

SHADOWED = Scenario(
    "dirty_log_shadow",
    "The VMM reads the dirty log while a vCPU makes a page a page table, which KVM shadows.",
    "1 vCPU, 1 gfn, 1 page, any number of reads of the log",
    two_private_pages,
    lambda host: [
        Actor("migration", migrate_guest, (host.kvm,)),
        Actor("shadow", shadow_first_page, (host.kvm,)),
    ],
    {**ONE_GFN, "pages": 1, "logs_dirty_pages": True, "tracks_writes": True},
)

BUG = Bug(
    id="H43",
    text="KVM_GET_DIRTY_LOG drops mmu_lock before it flushes. Who shadows a page table finds its"
    " SPTE read-only already and does not flush: a TLB still lets a guest write to it.",
    commit="6dbf79e7164e",
    subject="KVM: Fix write protection race during dirty logging",
    release="v3.4",
    source=PATCH,
    reference="Takuya Yoshikawa, 2012; commit 95d4c16ce78c brought it. Since v3.16 the flush is"
    " after mmu_lock again: others ask whether an SPTE is MMU-writable.",
    claim="tracked_page_read_only",
    scenario=SHADOWED,
    arch="x86-shadow",
    era="v3.4",
    without=("dirty_log_flush_under_lock",),
)
