"""H26: KVM frees a page of a driver that nobody counts."""

from __future__ import annotations

from mmuwitness.model.bugs.bug import Bug
from mmuwitness.model.features.feature import PATCH
from mmuwitness.model.scenarios import find_scenario

BUG = Bug(
    id="H26",
    text="A driver maps a page whose reference count is 0, though it is in use. A fault takes a"
    " reference and drops it: the page goes to the allocator, and the guest has it mapped.",
    commit="f8be156be163",
    subject="KVM: do not allow mapping valid but non-reference-counted pages",
    release="v5.13",
    source=PATCH,
    reference='CVE-2021-22543. Since commit add6a0cd1c5b ("KVM: MMU: try to fix up page faults'
    ' before giving up") in v4.8. Since v6.13 KVM takes no reference there.',
    claim="freed_page_unmapped",
    scenario=find_scenario("pfnmap"),
    arch="x86-tdp",
    era="v5.13",
    without=("uncounted_pfn_refused",),
)
