"""What a workload is: its parameters, the guests it makes, and the tasks that work on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from mmuwitness.model.state import Bool, Bounded
from mmuwitness.simulate.arrays import Array
from mmuwitness.simulate.designs import Kernel
from mmuwitness.simulate.engine import Engine
from mmuwitness.simulate.kernel.indexed import guest_touch
from mmuwitness.simulate.machine import Guest, Machine
from mmuwitness.simulate.program import Call

Value = int | float | str | bool

SECOND = 1_000_000_000
TABLE = 512
"""Pages below a table page of the last level, and below a huge PMD."""

SHARE = 65_536
"""Shares are given to the engine as so many of these."""


@dataclass(frozen=True)
class Parameter:
    """default; what it is, with its unit; the least and the most it may be."""

    default: Value
    text: str
    least: float = 0
    most: float = float("inf")


class Workload:
    """Base of all.  A subclass adds parameters, daemons and what it does when one has passed.

    designs: those that its question is about.  overrides: functions that stand in the place of the
    model's, unless a design has others."""

    name: ClassVar[str]
    text: ClassVar[str]
    designs: ClassVar[tuple[str, ...]]
    overrides: ClassVar[Mapping[str, Any]] = {}
    parameters: ClassVar[dict[str, Parameter]] = {
        "guests": Parameter(4, "guests on the machine", 1, 4096),
        "memory": Parameter(1.0, "GiB of each guest", 1 / 1024, 4096),
        "vcpus": Parameter(1, "vCPUs of each guest", 1, 64),
        "hours": Parameter(0.1, "of guest time", 1e-6, 1000),
        "touches": Parameter(100_000, "page touches a second, of each guest", 1, 1e9),
        "hot": Parameter(1 / 16, "share of memory that is hot", 1e-6, 1),
        "hot_touches": Parameter(0.9, "share of touches that go there", 0, 1),
        "writes": Parameter(0.1, "share of touches that write", 0, 1),
        "spare": Parameter(0.1, "free memory of the machine, as a share of all guests'", 0.001, 10),
    }

    def __init__(self, given: Mapping[str, Value], kernel: Kernel, seed: int) -> None:
        self.given, self.kernel, self.seed = given, kernel, seed
        self.rng = np.random.default_rng(seed)
        self.pages = round(self["memory"] * (1 << 18))
        self.count = int(self["guests"])
        self.machine = Machine(self.memory(), **self.wiring())
        self.guests = [self.make_guest(number) for number in range(self.count)]
        for guest in self.guests:
            self.fill(guest)

    def __getitem__(self, name: str) -> float:
        return float(self.given[name])

    # -- for subclasses --------------------------------------------------------------------

    def memory(self) -> int:
        """Pages of the machine."""
        total = self.count * self.pages
        return total + round(total * self["spare"]) + 64

    def wiring(self) -> dict[str, Any]:
        """Arguments of Machine."""
        return {"classes": 2, "max_page_sharing": 256, "smart_scan": False}

    def sizes(self) -> dict[str, Any]:
        """Arguments of the guests' hosts."""
        return {"gfns_per_table": TABLE}

    def contents(self, guest: Guest) -> Array:
        """What its pages hold at first."""
        return unique(self.rng, self.pages)

    def calls(self, guest: Guest) -> list[Call]:
        """The operations of daemons, besides the vCPUs'."""
        return []

    def daemons(self, engine: Engine) -> None:
        """Adds them."""

    def vcpu_words(self) -> dict[str, int]:
        """How vCPUs touch memory, besides what the common parameters say."""
        return {"write_pages": self.pages, "stray_share": 0}

    def passed(self, engine: Engine) -> None:
        """A daemon has been through all guests."""

    def derived(self, counters: Mapping[str, int]) -> dict[str, int]:
        """Counters that follow from others, at the end."""
        return {}

    def gauges(self) -> dict[str, float]:
        """The state of the machine now, by name."""
        return {"memory used pages": self.machine.used_pages()}

    # -- common ----------------------------------------------------------------------------

    def make_guest(self, number: int) -> Guest:
        kernel = self.kernel
        sizes = {"addresses": self.pages, "slot_pages": self.pages} | self.sizes()
        overrides = {**self.overrides, **kernel.overrides}
        return Guest(self.machine, number, kernel.era, kernel.arch, overrides, **sizes)

    def fill(self, guest: Guest) -> None:
        guest.populate(self.contents(guest))
        guest.map_all()

    @property
    def gfn(self) -> Bounded:
        return Bounded(0, self.pages - 1)

    def all_calls(self) -> list[Call]:
        """The first guest's: the others are wired alike."""
        guest = self.guests[0]
        mine = self.calls(guest)
        touch = Call("touch", guest_touch, (guest.vcpus[0],), {"gfn": self.gfn, "write": Bool()})
        return [*mine, touch]

    def start(self, engine: Engine) -> None:
        """Tasks: vCPUs, which begin one after the other, and daemons."""
        period = round(SECOND * self["vcpus"] / self["touches"])
        hot = max(1, round(self.pages * self["hot"]))
        for guest in range(self.count):
            for vcpu in range(int(self["vcpus"])):
                engine.add_vcpu(
                    "touch",
                    guest,
                    self.seed,
                    time=(guest * 7919 + vcpu * 104_729) % period,
                    period=period,
                    pages=self.pages,
                    hot=hot,
                    hot_share=share(self["hot_touches"]),
                    write_share=share(self["writes"]),
                    **self.vcpu_words(),
                )
        if self.kernel.daemons:
            self.daemons(engine)


def share(part: float) -> int:
    return round(part * SHARE)


def unique(rng: np.random.Generator, count: int) -> Array:
    """Contents that no other page has, nearly: 31 random bits."""
    return rng.integers(1 << 31, 1 << 32, count, np.int64).astype(np.uint32)
