"""P3: Book3S HV forgets to unmap a memslot that goes."""

from __future__ import annotations

from mmuwitness.model.bugs.bug import Bug
from mmuwitness.model.features.feature import DERIVED
from mmuwitness.model.scenarios import find_scenario

BUG = Bug(
    id="P3",
    text="A memslot is deleted, and nothing takes it out of the hashed page table: the guest goes"
    " on with its pages, which windows do not find any more.",
    commit="dfe49dbd1fc7",
    subject="KVM: PPC: Book3S HV: Handle memory slot deletion and modification correctly",
    release="v3.8",
    source=DERIVED,
    reference="kvm_arch_flush_shadow_memslot() was empty on powerpc; Book3S HV got one with this"
    " commit, whose release is derived from the dates around it.",
    claim="deleted_slot_unmapped",
    scenario=find_scenario("memslot_delete"),
    arch="powerpc-hpt",
    era="v3.8",
    without=("powerpc_hv_flushes_memslot",),
)
