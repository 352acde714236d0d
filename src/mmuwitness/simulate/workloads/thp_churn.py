"""thp-churn: huge mappings that are split for a page, and collapsed again."""

from __future__ import annotations

from typing import Any, ClassVar

from mmuwitness.model.mm.mm_types import MM, PMD_HUGE
from mmuwitness.simulate.engine import Engine
from mmuwitness.simulate.kernel.huge import HUGE, PMD_PAGES, discard_page, khugepaged_scan_pmd
from mmuwitness.simulate.machine import Guest, make_huge
from mmuwitness.simulate.program import Call
from mmuwitness.simulate.workloads.workload import SECOND, Parameter, Workload


class ThpChurn(Workload):
    """Guests on PMDs of 512 pages, `huge` of them huge.  The VMM drops single pages, each of which
    splits its PMD; khugepaged goes round and collapses.  Faults map small pages here, as with
    `defrag` off and no free huge page: khugepaged is the only one who makes them.

    Of khugepaged the defaults are the kernel's: 4,096 pages every 10 s, and a PMD with one page is
    enough (max_ptes_none)."""

    name = "thp-churn"
    text = "guests on huge pages that are split for single pages, and collapsed by khugepaged"
    designs = ("as-is", "ranged-retry", "global-retry")
    parameters: ClassVar[dict[str, Parameter]] = Workload.parameters | {
        "huge": Parameter(1.0, "share of memory that is mapped by huge PMDs at first", 0, 1),
        "drops": Parameter(1.0, "single pages dropped a second, of each guest", 1e-6, 1e6),
        "pages_to_scan": Parameter(4096, "pages that khugepaged scans before it sleeps", 512, 1e9),
        "scan_sleep_millisecs": Parameter(10_000.0, "that khugepaged sleeps", 0, 1e9),
        "max_ptes_none": Parameter(511, "pages that a PMD to collapse may lack", 0, 511),
    }
    overrides = HUGE

    def memory(self) -> int:
        """A collapse needs a huge page beside the small ones."""
        return super().memory() + PMD_PAGES

    def sizes(self) -> dict[str, Any]:
        if self.pages % PMD_PAGES:
            raise ValueError("memory must be a multiple of 2 MiB")
        return super().sizes() | {"huge_pages": True}

    def fill(self, guest: Guest) -> None:
        super().fill(guest)
        guest.mm.max_ptes_none = int(self["max_ptes_none"])
        make_huge(guest, self.rng, self["huge"])

    def calls(self, guest: Guest) -> list[Call]:
        address = {"addr": self.gfn}
        return [
            Call("vmm", discard_page, (guest.mm,), address),
            Call("khugepaged", khugepaged_scan_pmd, (guest.mm,), address),
        ]

    def daemons(self, engine: Engine) -> None:
        engine.add_daemon(
            "vmm",
            self.seed,
            span=self.pages,
            stride=1,
            batch=1,
            sleep=round(SECOND / (self["drops"] * self.count)),
            scatter=1,
        )
        engine.add_daemon(
            "khugepaged",
            self.seed,
            span=self.pages,
            stride=PMD_PAGES,
            batch=int(self["pages_to_scan"]) // PMD_PAGES,
            sleep=round(SECOND * self["scan_sleep_millisecs"] / 1000),
        )

    def gauges(self) -> dict[str, float]:
        huge = (guest.world.array(MM.pmd) == PMD_HUGE for guest in self.guests)
        return super().gauges() | {"huge pmds": sum(int(each.sum()) for each in huge)}
