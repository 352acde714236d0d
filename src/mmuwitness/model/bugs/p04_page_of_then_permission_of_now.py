"""P4: Book3S HV maps the page of one PTE with the permission of the next."""

from __future__ import annotations

from mmuwitness.model.bugs.bug import Bug
from mmuwitness.model.features.feature import SOURCE
from mmuwitness.model.scenarios import find_scenario

BUG = Bug(
    id="P4",
    text="A read fault has found a KSM page, and looks once more whether the PTE is writable. COW"
    " has installed the new PTE, which is, and not told KVM yet: the guest may write to the KSM"
    " page until change_pte unmaps it.",
    commit="48af0d7cb3c8",
    subject="mm: mmu_notifier: fix inconsistent memory between secondary MMU and host",
    release="v3.7",
    source=SOURCE,
    reference="Found by exploring H1 on powerpc-hpt; no report is known. The lookup was read in a"
    " kernel based on v3.4, and the windows around change_pte hide it as they hide H1.",
    claim="shared_page_read_only",
    scenario=find_scenario("unmerge"),
    arch="powerpc-hpt",
    era="v3.7 -change_pte_bracketed",
    without=("change_pte_before_set_pte",),
)
