"""What guests and daemons do: one class each."""

from __future__ import annotations

from mmuwitness.simulate.workloads.balloon_storm import BalloonStorm
from mmuwitness.simulate.workloads.cow_fork_snapshot import CowForkSnapshot
from mmuwitness.simulate.workloads.from_trace import FromTrace
from mmuwitness.simulate.workloads.idle_aging import IdleAging
from mmuwitness.simulate.workloads.ksm_density import KsmDensity
from mmuwitness.simulate.workloads.live_migration import LiveMigration
from mmuwitness.simulate.workloads.numa_balancing import NumaBalancing
from mmuwitness.simulate.workloads.swap_pressure import SwapPressure
from mmuwitness.simulate.workloads.thp_churn import ThpChurn
from mmuwitness.simulate.workloads.workload import Workload

WORKLOADS: dict[str, type[Workload]] = {
    made.name: made
    for made in (
        KsmDensity,
        BalloonStorm,
        NumaBalancing,
        CowForkSnapshot,
        LiveMigration,
        IdleAging,
        SwapPressure,
        ThpChurn,
        FromTrace,
    )
}
