"""Bounded set-ups: which processes run on which host.  A scenario is one value of these tables.

Actors that repeat for ever are marked so in `bounds`; nothing else is unbounded.
"""

from __future__ import annotations

from mmuwitness.model.era import UnknownName
from mmuwitness.model.scenarios.aging import AGING
from mmuwitness.model.scenarios.cow import COW
from mmuwitness.model.scenarios.dirty_log import DIRTY_LOG
from mmuwitness.model.scenarios.exit import EXIT
from mmuwitness.model.scenarios.fork import FORK
from mmuwitness.model.scenarios.hmm import HMM
from mmuwitness.model.scenarios.huge import HUGE
from mmuwitness.model.scenarios.ksm import KSM
from mmuwitness.model.scenarios.large import LARGE as LARGE_TABLE
from mmuwitness.model.scenarios.liveness import LIVENESS
from mmuwitness.model.scenarios.madvise import MADVISE
from mmuwitness.model.scenarios.memslots import MEMSLOTS
from mmuwitness.model.scenarios.mprotect import MPROTECT
from mmuwitness.model.scenarios.mremap import MREMAP
from mmuwitness.model.scenarios.oom import OOM
from mmuwitness.model.scenarios.pfncache import PFNCACHE
from mmuwitness.model.scenarios.private import PRIVATE
from mmuwitness.model.scenarios.rmap import RMAP
from mmuwitness.model.scenarios.scenario import Scenario
from mmuwitness.model.scenarios.uprobes import UPROBES
from mmuwitness.model.scenarios.vms import VMS
from mmuwitness.model.scenarios.yields import YIELDS
from mmuwitness.model.scenarios.zap import ZAP

TABLES = (
    *(KSM, COW, UPROBES, ZAP, RMAP, MADVISE, MPROTECT, FORK, MREMAP, HUGE, YIELDS),
    *(MEMSLOTS, DIRTY_LOG, AGING, PFNCACHE, PRIVATE),
    *(HMM, OOM, EXIT, VMS, LIVENESS),
)

SCENARIOS: dict[str, Scenario] = {scenario.name: scenario for table in TABLES for scenario in table}

LARGE: dict[str, Scenario] = {scenario.name: scenario for scenario in LARGE_TABLE}
"""Those that no verb takes unless they are named."""


def find_scenario(name: str) -> Scenario:
    """The scenario of that name; UnknownName lists what exists."""
    known = {**SCENARIOS, **LARGE}
    if name not in known:
        raise UnknownName("scenario", name, list(known))
    return known[name]
