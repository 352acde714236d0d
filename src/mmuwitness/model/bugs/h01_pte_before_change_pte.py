"""H1: the guest reads what the host has overwritten."""

from __future__ import annotations

from mmuwitness.model.bugs.bug import Bug
from mmuwitness.model.features.feature import SOURCE
from mmuwitness.model.scenarios import find_scenario

BUG = Bug(
    id="H1",
    text="COW installs the new, writable PTE before change_pte. The host writes to the new page"
    " while a vCPU still reads the old one.",
    commit="48af0d7cb3c8",
    subject="mm: mmu_notifier: fix inconsistent memory between secondary MMU and host",
    release="v3.7",
    source=SOURCE,
    reference="Xiao Guangrong, linux-mm, August 2012. The windows around change_pte came in the"
    " same release and hide it: the kernel here is one without them.",
    claim="no_lost_write",
    scenario=find_scenario("cow_smp"),
    arch="x86-shadow",
    era="v3.7 -change_pte_bracketed",
    without=("change_pte_before_set_pte",),
)
