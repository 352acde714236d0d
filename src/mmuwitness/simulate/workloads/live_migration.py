"""live-migration: guests are sent away while they write, by the dirty log."""

from __future__ import annotations

from typing import Any, ClassVar

from mmuwitness.model.state import Bounded
from mmuwitness.simulate.engine import Engine
from mmuwitness.simulate.kernel.migration import FIRST, NEXT, STOP, Migration, migrate_page
from mmuwitness.simulate.kernel.split import LOGGED
from mmuwitness.simulate.machine import Guest, make_huge
from mmuwitness.simulate.meters import PAGE_BYTES
from mmuwitness.simulate.program import Call
from mmuwitness.simulate.records import State
from mmuwitness.simulate.workloads.workload import SECOND, Parameter, Workload

MIB = 1 << 20


class LiveMigration(Workload):
    """Each VMM sends all pages, then again and again those that were written meanwhile, until what
    is left can be sent within the downtime.  Then the log is turned off, and the guest goes on
    here, so that all designs are looked at for the same time.  (What x86 does then to have huge
    leaves again, kvm_mmu_recover_huge_pages(), is not simulated; arm64 leaves it to faults.)

    The downtime is QEMU's default (downtime-limit, 300 ms); the bandwidth is that of a link of
    10 Gbit/s.  What one of `guests` begins is spread over the first tenth of the run."""

    name = "live-migration"
    text = "guests that are migrated while they write: write protection, dirty log, passes"
    designs = ("as-is", "no-fast-page-fault")
    parameters: ClassVar[dict[str, Parameter]] = Workload.parameters | {
        "bandwidth": Parameter(1192.0, "MiB a second, of each migration", 1e-3, 1e9),
        "downtime": Parameter(0.3, "seconds in which the last pages must be sent", 0, 1e6),
        "huge": Parameter(0.0, "share of memory that is mapped by huge PMDs at first", 0, 1),
        "eager_split": Parameter(True, "huge leaves are split when logging begins, not by writes"),
        "max_passes": Parameter(100, "passes after which a migration is given up", 1, 1e9),
    }

    overrides = LOGGED

    def sizes(self) -> dict[str, Any]:
        return super().sizes() | {"logs_dirty_pages": True, "huge_pages": self["huge"] > 0}

    def fill(self, guest: Guest) -> None:
        super().fill(guest)
        if self["huge"] > 0:
            make_huge(guest, self.rng, self["huge"])
        guest.kvm.eager_page_split = bool(self.given["eager_split"])
        guest.kvm.migration = guest.world.add(Migration)[0]

    def calls(self, guest: Guest) -> list[Call]:
        arguments = {"gfn": self.gfn, "phase": Bounded(FIRST, STOP)}
        return [Call("vmm", migrate_page, (guest.kvm,), arguments)]

    def daemons(self, engine: Engine) -> None:
        end = round(SECOND * 3600 * self["hours"])
        self.page_ns = SECOND * PAGE_BYTES / (self["bandwidth"] * MIB)
        self.migrations = [
            OneMigration(
                engine.add_daemon(
                    "vmm",
                    self.seed,
                    first_guest=number,
                    guest_count=1,
                    time=end * (number + 1) // (10 * self.count),
                    span=self.pages,
                    stride=1,
                    batch=self.pages,
                    reports=1,
                    argument=FIRST,
                ),
                guest,
            )
            for number, guest in enumerate(self.guests)
        ]

    def passed(self, engine: Engine) -> None:
        for each in self.migrations:
            each.go_on(self.page_ns, self["downtime"] * SECOND, int(self["max_passes"]))

    def gauges(self) -> dict[str, float]:
        made = getattr(self, "migrations", [])
        return super().gauges() | {
            "migration passes": sum(each.passes for each in made),
            "migrations converged": sum(each.converged for each in made),
            "migration pages sent": sum(guest.kvm.migration.sent for guest in self.guests),
        }


class OneMigration:
    """task: its daemon.  began: when this pass did."""

    def __init__(self, task: Any, guest: Guest) -> None:
        self.task, self.guest = task, guest
        self.began, self.sent, self.passes = int(task["time"]), 0, 0
        self.converged = False

    def go_on(self, page_ns: float, downtime: float, max_passes: int) -> None:
        """A pass may have ended: it took as long as its pages need on the wire, at least."""
        if self.task["passes"] == self.passes or self.task["state"] == State.OFF:
            return
        self.passes = int(self.task["passes"])
        if self.task["argument"] == STOP:
            self.task["state"] = State.OFF
            return
        wire = (self.guest.kvm.migration.sent - self.sent) * page_ns
        self.sent = self.guest.kvm.migration.sent
        self.task["time"] = self.began = max(int(self.task["time"]), self.began + round(wire))
        self.converged = self.passes > 1 and wire <= downtime
        over = self.converged or self.passes >= max_passes
        self.task["argument"] = STOP if over else NEXT
