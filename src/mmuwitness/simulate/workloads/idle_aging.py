"""idle-aging: the host asks for every page of its guests whether it is in use."""

from __future__ import annotations

from typing import Any, ClassVar

from mmuwitness.model.state import Bounded
from mmuwitness.simulate.engine import Engine
from mmuwitness.simulate.kernel.aging import PAGE_IDLE, RECLAIM, look_at_page
from mmuwitness.simulate.machine import Guest
from mmuwitness.simulate.program import Call
from mmuwitness.simulate.workloads.workload import SECOND, Parameter, Workload

ASKED_AT_ONCE = 64
"""Pages of a word of the idle bitmap; reclaim takes half as many (SWAP_CLUSTER_MAX)."""


class IdleAging(Workload):
    """All memory of each guest is asked about once every `period`, by reclaim's clear_flush_young
    or, with page_idle, by clear_young.  No default is a measurement."""

    name = "idle-aging"
    text = "guests whose pages are asked for, one by one, whether they are young"
    designs = ("aging-flushes", "aging-flushes-range", "aging-never-flushes", "age-zaps")
    parameters: ClassVar[dict[str, Parameter]] = Workload.parameters | {
        "period": Parameter(60.0, "seconds in which all pages of a guest are asked for", 1e-3, 1e6),
        "page_idle": Parameter(False, "by the idle bitmap, not by reclaim"),
        "no_accessed_bit": Parameter(False, "hardware does not say which SPTEs it has used"),
    }

    def sizes(self) -> dict[str, Any]:
        tracked = bool(self.given["no_accessed_bit"])
        return super().sizes() | {
            "ages_pages": True,
            "access_tracking": tracked,
            "writable_bits": tracked,
        }

    def calls(self, guest: Guest) -> list[Call]:
        arguments = {"addr": self.gfn, "asks": Bounded(RECLAIM, PAGE_IDLE)}
        return [Call("aging", look_at_page, (guest.mm,), arguments)]

    def daemons(self, engine: Engine) -> None:
        for guest in range(self.count):
            engine.add_daemon(
                "aging",
                self.seed,
                first_guest=guest,
                guest_count=1,
                span=self.pages,
                stride=1,
                batch=ASKED_AT_ONCE,
                sleep=round(SECOND * self["period"] * ASKED_AT_ONCE / self.pages),
                argument=PAGE_IDLE if self.given["page_idle"] else RECLAIM,
            )
