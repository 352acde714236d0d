"""H32: a fault that has no hva is checked for one."""

from __future__ import annotations

from mmuwitness.model.bugs.bug import Bug
from mmuwitness.model.features.feature import SOURCE
from mmuwitness.model.scenarios import find_scenario

BUG = Bug(
    id="H32",
    text="A gfn in no memslot has no hva, so no window can be about it. A fault there was checked"
    " for retry like any other, and sent back by windows over whatever memory.",
    commit="5f8a7cf25a7d",
    subject="KVM: x86/mmu: Skip mmu_notifier check when handling MMIO page fault",
    release="v5.12",
    source=SOURCE,
    reference="Nothing is lost but time. With the range check of the same release the hva it was"
    " compared by was whatever the variable held.",
    claim="mmio_not_retried",
    scenario=find_scenario("memslot_mmio"),
    arch="x86-tdp",
    era="v5.12",
    without=("mmio_fault_skips_retry",),
)
