"""H24: what a fault without mmu_lock sets in an SPTE is overwritten."""

from __future__ import annotations

from mmuwitness.model.bugs.bug import Bug
from mmuwitness.model.features.feature import PATCH
from mmuwitness.model.kvm.dirty_log import kvm_mmu_slot_apply_flags, migrate_guest
from mmuwitness.model.mm.page_idle import page_idle_bitmap_write
from mmuwitness.model.scenarios.scenario import ONE_GFN, Actor, Scenario, two_private_pages


def migrate_again(kvm):
    """A migration that was given up leaves SPTEs that are read-only and MMU-writable."""
    kvm_mmu_slot_apply_flags(kvm, True)
    kvm_mmu_slot_apply_flags(kvm, False)
    migrate_guest(kvm)


BUG = Bug(
    id="H24",
    text="The TDP MMU ages an SPTE: it reads it, a fault without mmu_lock sets W, and it writes it"
    " back read-only. A TLB has it writable; when logging begins, nothing is there to flush.",
    commit="ba3a6120a4e7",
    subject="KVM: x86/mmu: Use atomic XCHG to write TDP MMU SPTEs with volatile bits",
    release="v5.18",
    source=PATCH,
    reference="Sean Christopherson, 2022. The commit names lost Dirty bits, too; those are not"
    " modelled.",
    claim="written_page_logged",
    scenario=Scenario(
        "dirty_log_again",
        "The VMM turns dirty logging on, off and on again while pages are marked idle.",
        "1 vCPU, 1 gfn, 1 page, any number of marks and of reads of the log",
        two_private_pages,
        lambda host: [
            Actor("migration", migrate_again, (host.kvm,)),
            Actor("idle", page_idle_bitmap_write, (host.mm,)),
        ],
        {**ONE_GFN, "pages": 1, "logs_dirty_pages": True, "ages_pages": True},
    ),
    arch="x86-tdp",
    era="v5.18",
    without=("x86_tdp_atomic_writes",),
)
