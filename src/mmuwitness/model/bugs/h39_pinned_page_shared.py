"""H39: fork shares a page that a device writes to."""

from __future__ import annotations

from mmuwitness.model.bugs.bug import Bug
from mmuwitness.model.features.feature import PATCH
from mmuwitness.model.scenarios import find_scenario

BUG = Bug(
    id="H39",
    text="Fork makes a pinned page read-only, as any other. The parent's next write copies it: what"
    " the device writes from then on, the parent's guest does not see.",
    commit="70e806e4e645",
    subject="mm: Do early cow for pinned pages during fork() for ptes",
    release="v5.9",
    source=PATCH,
    reference="H38 is what this fix left open; the kernel here has that one, too.",
    claim="no_lost_write",
    scenario=find_scenario("fork_dma"),
    arch="x86-tdp",
    era="v5.11",
    without=("fork_copies_pinned",),
)
