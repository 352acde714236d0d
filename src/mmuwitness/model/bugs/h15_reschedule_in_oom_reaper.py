"""H15: a zap sleeps for the oom reaper, who said that it must not."""

from __future__ import annotations

from mmuwitness.model.bugs.bug import Bug
from mmuwitness.model.features.feature import PATCH
from mmuwitness.model.mm.oom_kill import oom_reap_task
from mmuwitness.model.scenarios.scenario import Scenario, mm_actor, two_private_pages

BUG = Bug(
    id="H15",
    text="A zap of a large range reschedules between its parts, whoever asked for it. The oom"
    " reaper did, inside a window that must not block.",
    commit="b5331379bc62",
    subject="KVM: arm64: Only reschedule if MMU_NOTIFIER_RANGE_BLOCKABLE is not set",
    release="v5.9",
    source=PATCH,
    reference="Will Deacon, 2020, from a BUG of the scheduler. Commit fdfe7cbd5880 before it hands"
    " the flag down to the architectures.",
    claim="sleeps_in_atomic",
    scenario=Scenario(
        "oom_reap_range",
        "The oom reaper takes two pages of the VMM while a vCPU still runs.",
        "1 vCPU, 2 gfns, 2 pages, 1 attempt of the reaper",
        two_private_pages,
        mm_actor("oom_reaper", oom_reap_task),
        {"pages": 2, "gfns_per_table": 1, "yields": True},
    ),
    arch="arm64",
    era="v5.9",
    without=("arm64_zap_reschedules_if_blockable",),
)
