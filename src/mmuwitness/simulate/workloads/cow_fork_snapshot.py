"""cow-fork-snapshot: VMMs that fork to save their guests, which write on and break COW."""

from __future__ import annotations

from typing import Any, ClassVar

from mmuwitness.model.state import Bounded
from mmuwitness.simulate.engine import Engine
from mmuwitness.simulate.kernel.snapshot import snapshot
from mmuwitness.simulate.machine import Guest
from mmuwitness.simulate.program import Call
from mmuwitness.simulate.workloads.workload import SECOND, Parameter, Workload


class CowForkSnapshot(Workload):
    """Each VMM forks every `interval`, with one window over all its memory; the child lives for
    `lifetime`.  No default is anybody's measurement: a snapshot a minute, written in 10 s."""

    name = "cow-fork-snapshot"
    text = "guests that are saved by a fork of their VMM, and write on meanwhile"
    designs = ("wrapped", "removed", "unwrapped-2009")
    parameters: ClassVar[dict[str, Parameter]] = Workload.parameters | {
        "spare": Parameter(1.1, "free memory of the machine, as a share of all guests'", 0.001, 10),
        "interval": Parameter(60.0, "seconds from one fork of a VMM to the next", 1e-3, 1e6),
        "lifetime": Parameter(10.0, "seconds that the child lives", 1e-3, 1e6),
    }

    def sizes(self) -> dict[str, Any]:
        return super().sizes() | {"forks": True}

    def calls(self, guest: Guest) -> list[Call]:
        return [Call("vmm", snapshot, (*guest.children, guest.mm), {"phase": Bounded(0, 1)})]

    def daemons(self, engine: Engine) -> None:
        """The two phases of a snapshot are the two numbers of a pass: after each the daemon sleeps
        for a lifetime, and after the second it rests until the next fork."""
        if self["interval"] < 2 * self["lifetime"]:
            raise ValueError("the interval must be two lifetimes at least")
        interval, lifetime = (round(SECOND * self[name]) for name in ("interval", "lifetime"))
        for guest in range(self.count):
            engine.add_daemon(
                "vmm",
                self.seed,
                first_guest=guest,
                guest_count=1,
                time=interval * (guest + 1) // (2 * self.count),
                span=2,
                stride=1,
                batch=1,
                sleep=lifetime,
                rest=interval - 2 * lifetime,
            )
