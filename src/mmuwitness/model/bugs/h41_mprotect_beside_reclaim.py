"""H41: mprotect() returns while a TLB still lets a thread write."""

from __future__ import annotations

from mmuwitness.model.bugs.bug import Bug
from mmuwitness.model.features.feature import PATCH
from mmuwitness.model.scenarios import find_scenario

BUG = Bug(
    id="H41",
    text="Reclaim has cleared a PTE and flushes later, for many at once. mprotect() finds nothing"
    " to change, so it flushes nothing either: a thread goes on writing to read-only memory.",
    commit="3ea277194daa",
    subject="mm, mprotect: flush TLB if potentially racing with a parallel reclaim leaving stale"
    " TLB entries",
    release="v4.13",
    source=PATCH,
    reference="Nadav Amit, by review. SPTEs are not concerned: they went with start().",
    claim="read_only_for_threads",
    scenario=find_scenario("reclaim_mprotect"),
    arch="x86-shadow",
    era="v4.13",
    without=("batched_flush_seen",),
)
