"""balloon-storm: guests give memory back, and want it again."""

from __future__ import annotations

from typing import ClassVar

from mmuwitness.model.state import Bounded
from mmuwitness.simulate.engine import Engine
from mmuwitness.simulate.kernel.balloon import balloon_page
from mmuwitness.simulate.machine import Guest
from mmuwitness.simulate.program import Call
from mmuwitness.simulate.workloads.workload import SECOND, Parameter, Workload


class BalloonStorm(Workload):
    """Ranges of guest memory are dropped, each in one window; who touches them faults again.

    The defaults are those of free page reporting: up to 32 blocks (PAGE_REPORTING_CAPACITY) every
    2 seconds (PAGE_REPORTING_DELAY), of 2 MiB with pageblocks of x86 (PAGE_REPORTING_MIN_ORDER).
    With range_pages 1 it is a balloon, which QEMU discards page by page."""

    name = "balloon-storm"
    text = "guests whose memory the VMM drops in ranges, and that touch it again"
    designs = ("ranged-retry", "global-retry", "precise-ranges")
    parameters: ClassVar[dict[str, Parameter]] = Workload.parameters | {
        "ranges": Parameter(16, "ranges dropped a second, of each guest", 1e-3, 1e6),
        "range_pages": Parameter(512, "pages of a range", 1, 1 << 30),
        "random": Parameter(True, "ranges are anywhere, not one after the other"),
    }

    def calls(self, guest: Guest) -> list[Call]:
        pages = Bounded(0, self.pages)
        return [Call("vmm", balloon_page, (guest.mm,), {"addr": self.gfn, "pages": pages})]

    def daemons(self, engine: Engine) -> None:
        """A VMM for each guest."""
        pages = min(int(self["range_pages"]), self.pages)
        period = round(SECOND / self["ranges"])
        for guest in range(self.count):
            engine.add_daemon(
                "vmm",
                self.seed,
                first_guest=guest,
                guest_count=1,
                time=period * (guest + 1) // self.count,
                span=self.pages - self.pages % pages,
                stride=pages,
                batch=1,
                sleep=period,
                scatter=int(bool(self.given["random"])),
                argument=pages,
            )

    def gauges(self) -> dict[str, float]:
        saved = self.count * self.pages - self.machine.used_pages()
        return super().gauges() | {"memory saved pages": saved}
