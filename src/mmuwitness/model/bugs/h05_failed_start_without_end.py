"""H5: a start() that fails leaves windows open that nobody closes."""

from __future__ import annotations

from mmuwitness.model.bugs.bug import Bug
from mmuwitness.model.features.feature import SOURCE
from mmuwitness.model.mm.oom_kill import oom_reap_task
from mmuwitness.model.scenarios.oom import beside_refusing_driver
from mmuwitness.model.scenarios.scenario import ONE_GFN, Scenario, mm_actor

BUG = Bug(
    id="H5",
    text="The oom reaper's start() must not sleep. KVM counts the window, a subscriber after it"
    " says -EAGAIN, and end() is called for nobody: every fault is retried for ever.",
    commit="c2655835fd8c",
    subject="mm/mmu_notifiers: ensure range_end() is paired with range_start()",
    release="v5.12",
    source=SOURCE,
    reference="It wants two subscribers on one mm. In v5.10.27, too.",
    claim="windows_balanced",
    scenario=Scenario(
        "oom_reap_once",
        "As oom_reap, with one attempt: counts that go wrong stay in their ranges.",
        "1 vCPU, 1 gfn, 2 pages, 1 attempt of the reaper",
        beside_refusing_driver,
        mm_actor("oom_reaper", oom_reap_task),
        ONE_GFN,
    ),
    arch="x86-tdp",
    era="v5.12",
    without=("nonblock_start_paired",),
)
