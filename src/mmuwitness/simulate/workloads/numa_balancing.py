"""numa-balancing: the scanner takes pages away from guests, to see who asks for them."""

from __future__ import annotations

from typing import Any, ClassVar

from mmuwitness.model.mm.mm_types import MM, Page
from mmuwitness.model.state import Bounded
from mmuwitness.simulate.engine import Engine
from mmuwitness.simulate.kernel.numa import MIGRATES, task_numa_work
from mmuwitness.simulate.machine import Guest, pages_of
from mmuwitness.simulate.program import Call
from mmuwitness.simulate.workloads.workload import SECOND, Parameter, Workload


class NumaBalancing(Workload):
    """Every scan_period the scanner of each VMM makes the next scan_size PROT_NONE, as
    task_numa_work(); an access is a hinting fault, after which the page may move.

    Defaults are those of sysctl_numa_balancing_scan_period_min and scan_size; the kernel lengthens
    the period, up to 60 s, while faults are local: that is for the parameter to say.  Pinned pages
    are those of a device that is passed through (vfio): a guest with one has all of them pinned."""

    name = "numa-balancing"
    text = "guests whose pages the NUMA scanner makes PROT_NONE, range by range"
    designs = ("as-is", "numa-told", "ranged-retry", "global-retry")
    parameters: ClassVar[dict[str, Parameter]] = Workload.parameters | {
        "scan_period": Parameter(1.0, "seconds between two scans of a guest", 1e-4, 1e4),
        "scan_size": Parameter(256.0, "MiB of a scan", 1 / 256, 1e6),
        "migrates": Parameter(
            0.1, "share of hinting faults whose page moves to another node", 0, 1
        ),
        "pinned": Parameter(0.0, "share of pages that a device has pinned", 0, 1),
    }
    overrides = MIGRATES

    def fill(self, guest: Guest) -> None:
        """Pinned pages lie together, from the first on: a range that the device may write to."""
        super().fill(guest)
        guest.mm.numa_migrates = round(100 * self["migrates"])
        taken = pages_of(guest.world, MM.pte)[: round(self.pages * self["pinned"])]
        shared = self.machine.world
        shared.array(Page.pincount)[taken] = 1
        shared.array(Page.refcount)[taken] += 1

    def calls(self, guest: Guest) -> list[Call]:
        arguments: dict[str, Any] = {"addr": self.gfn, "pages": Bounded(0, self.pages)}
        return [Call("numa scanner", task_numa_work, (guest.mm,), arguments)]

    def daemons(self, engine: Engine) -> None:
        """A scanner for each guest; the first scans are spread over the first period."""
        period = round(SECOND * self["scan_period"])
        pages = min(self.pages, max(1, round(self["scan_size"] * 256)))
        for guest in range(self.count):
            engine.add_daemon(
                "numa scanner",
                self.seed,
                first_guest=guest,
                guest_count=1,
                time=period * (guest + 1) // self.count,
                span=self.pages,
                stride=pages,
                batch=1,
                sleep=period,
                argument=pages,
            )
