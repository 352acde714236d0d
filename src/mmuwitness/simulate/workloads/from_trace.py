"""from-trace: the touches and the invalidations of a real trace, under other designs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from mmuwitness.model.kvm.kvm_host import KVM
from mmuwitness.model.state import Bool, Bounded
from mmuwitness.simulate.designs import Kernel
from mmuwitness.simulate.engine import Engine
from mmuwitness.simulate.kernel.replayed import ACTION_BITS, replay_touch, replay_window
from mmuwitness.simulate.machine import Guest
from mmuwitness.simulate.program import Call
from mmuwitness.simulate.records import State
from mmuwitness.simulate.workloads.trace_story import Event, read_story
from mmuwitness.simulate.workloads.workload import Parameter, Value, Workload


class FromTrace(Workload):
    """Each fault of a guest in the trace is a touch at its time; each window that told its gfns is
    done again with what its cause does to pages, but those of copies, which come of themselves.

    Touches that did not fault are in no trace.  So a design that zaps more than the kernel of the
    trace is better here than it would be, and one that zaps less is as it would be.  VMs are put
    into one guest, one behind the other; only pages that the trace names are simulated."""

    name = "from-trace"
    text = "the touches and the invalidations of a trace, at their times"
    designs = ("as-is", "ranged-retry", "global-retry", "precise-ranges")
    parameters: ClassVar[dict[str, Parameter]] = {
        "file": Parameter("", "the trace: trace.dat, or text of ftrace, trace-cmd or perf"),
        "hours": Parameter(0.0, "of guest time; 0: as long as the trace", 0, 1000),
        "spare": Parameter(1.0, "free memory of the machine, as a share of the guest's", 0.001, 10),
    }

    def __init__(self, given: Mapping[str, Value], kernel: Kernel, seed: int) -> None:
        self.story = read_story(str(given["file"]))
        hours = float(given["hours"]) or self.story.seconds / 3600
        more = {"guests": 1, "vcpus": 1, "memory": self.story.pages / (1 << 18), "hours": hours}
        super().__init__({**given, **more}, kernel, seed)

    def fill(self, guest: Guest) -> None:
        """What the trace took away first was mapped before; what it touched first was not."""
        super().fill(guest)
        absent = ~self.story.mapped
        guest.world.array(KVM.spte)[: self.pages][absent] = 0

    def calls(self, guest: Guest) -> list[Call]:
        what = Bounded(0, (self.pages << ACTION_BITS) + (1 << ACTION_BITS) - 1)
        return [
            Call("guest", replay_touch, (guest.vcpus[0],), {"gfn": self.gfn, "write": Bool()}),
            Call("windows", replay_window, (guest.mm,), {"addr": self.gfn, "what": what}),
        ]

    def start(self, engine: Engine) -> None:
        """A task for the touches and one for the windows: each is told what comes next."""
        told = [("guest", self.story.touches)]
        if self.kernel.daemons:
            told.append(("windows", self.story.windows))
        self.tasks = [
            Replayed(engine.add_daemon(name, self.seed, span=1, stride=1, batch=1, reports=1), each)
            for name, each in told
        ]

    def passed(self, engine: Engine) -> None:
        for each in self.tasks:
            each.go_on()

    def gauges(self) -> dict[str, float]:
        return super().gauges() | {
            "trace touches": len(self.story.touches),
            "trace windows": len(self.story.windows),
            "trace windows left out": self.story.left_out,
        }


class Replayed:
    """A task that does one event after another, none before its time."""

    def __init__(self, task: Any, events: list[Event]) -> None:
        self.task, self.events, self.done = task, iter(events), -1
        self.go_on()

    def go_on(self) -> None:
        if self.task["passes"] == self.done:
            return
        self.done = int(self.task["passes"])
        event = next(self.events, None)
        if event is None:
            self.task["state"] = State.OFF
        else:
            time, self.task["cursor"], self.task["argument"] = event
            self.task["time"] = max(int(self.task["time"]), time)
