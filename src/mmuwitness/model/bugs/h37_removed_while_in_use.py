"""H37: a driver frees its subscription while the last window still takes it off a list."""

from __future__ import annotations

from mmuwitness.model.bugs.bug import Bug
from mmuwitness.model.features.feature import PATCH
from mmuwitness.model.scenarios import find_scenario

BUG = Bug(
    id="H37",
    text="mmu_interval_notifier_remove() waits for the sequence to move on. The last window that"
    " closes moves it first and then works off the deferred list, on which the subscription still"
    " is: its owner may have freed it by then.",
    commit="319561669a59",
    subject="mm/mmu_notifier.c: fix race in mmu_interval_notifier_remove()",
    release="v5.18",
    source=PATCH,
    reference="Alistair Popple, 2022, seen in stress tests of a driver. In v5.10.113, too.",
    claim="used_after_remove",
    scenario=find_scenario("hmm_open"),
    arch="x86-tdp",
    era="v5.18",
    without=("interval_remove_takes_lock",),
)
