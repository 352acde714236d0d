"""swap-pressure: guests that together have more memory than the machine."""

from __future__ import annotations

from typing import Any, ClassVar

from mmuwitness.model.mm.mm_types import MM, Pte
from mmuwitness.simulate.engine import Engine
from mmuwitness.simulate.kernel.vmscan import THROTTLED, shrink_at
from mmuwitness.simulate.machine import Guest, packed
from mmuwitness.simulate.program import Call
from mmuwitness.simulate.workloads.workload import SECOND, Parameter, Workload, unique

SWAP_CLUSTER_MAX = 32


class SwapPressure(Workload):
    """The machine has memory for the share `resident` of its guests' pages; kswapd keeps `spare` of
    that free, clock over all addresses, and guests swap in what they touch.

    Without daemons, the design "nothing", the machine has memory for all: what pressure costs is
    the difference."""

    name = "swap-pressure"
    text = "guests that have more memory than the machine: reclaim, swap-out, swap-in"
    designs = ("as-is", "aging-flushes", "ranged-retry", "global-retry")
    parameters: ClassVar[dict[str, Parameter]] = Workload.parameters | {
        "resident": Parameter(0.75, "memory of the machine, as a share of all guests'", 0.05, 1),
        "spare": Parameter(0.02, "of that, what kswapd keeps free", 0.001, 0.5),
        "rest": Parameter(1.0, "milliseconds that kswapd rests after 32 pages", 0, 1e6),
    }
    overrides = THROTTLED

    def memory(self) -> int:
        """At least 64 pages are free before kswapd is."""
        if not self.kernel.daemons:
            return super().memory()
        return round(self.count * self.pages * self["resident"])

    def wiring(self) -> dict[str, Any]:
        high = max(64, round(self.memory() * self["spare"]))
        return super().wiring() | {"high_wmark": high if self.kernel.daemons else 0}

    def sizes(self) -> dict[str, Any]:
        return super().sizes() | {"ages_pages": True}

    def fill(self, guest: Guest) -> None:
        """The first pages of each guest, which are hot ones, are there; the others are in swap."""
        zone = self.machine.zone
        there = (self.memory() - int(zone.high_wmark)) // self.count
        if not self.kernel.daemons or there >= self.pages:
            super().fill(guest)
            return
        contents = unique(self.rng, self.pages)
        guest.populate(contents[:there])
        guest.world.array(MM.swap)[there:] = contents[there:]
        guest.world.array(MM.pte)[there : self.pages] = packed(
            guest.world, Pte(swap=True), contents[there:] * 0 - 1
        )
        guest.map_all(there)

    def calls(self, guest: Guest) -> list[Call]:
        return [Call("kswapd", shrink_at, (guest.mm,), {"addr": self.gfn})]

    def daemons(self, engine: Engine) -> None:
        engine.add_daemon(
            "kswapd",
            self.seed,
            span=self.pages,
            stride=1,
            batch=SWAP_CLUSTER_MAX,
            sleep=round(SECOND * self["rest"] / 1000),
        )

    def gauges(self) -> dict[str, float]:
        return super().gauges() | {"memory free pages": int(self.machine.zone.nr_free)}
