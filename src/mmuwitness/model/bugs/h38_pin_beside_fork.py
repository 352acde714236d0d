"""H38: a page is pinned while fork write-protects it."""

from __future__ import annotations

from mmuwitness.model.bugs.bug import Bug
from mmuwitness.model.features.feature import PATCH
from mmuwitness.model.scenarios import find_scenario

BUG = Bug(
    id="H38",
    text="Fork finds a page that nobody has pinned. A device pins it, without a lock, before the"
    " PTE is read-only: it goes on writing to a page that the child shares and the parent copies.",
    commit="57efa1fe5957",
    subject="mm/gup: prevent gup_fast from racing with COW during fork",
    release="v5.11",
    source=PATCH,
    reference="The fast way compares the PTE after the pin, and the PTE is as it was until fork"
    " gets to it.",
    claim="no_lost_write",
    scenario=find_scenario("fork_dma"),
    arch="x86-tdp",
    era="v5.11",
    without=("fork_write_protect_seq",),
)
