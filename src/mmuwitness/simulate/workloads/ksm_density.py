"""ksm-density: many guests with much in common on one machine, and ksmd."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from mmuwitness.simulate.arrays import Array
from mmuwitness.simulate.engine import Engine
from mmuwitness.simulate.kernel.ksm import (
    ksm_break_cow,
    ksm_merge_tree_page,
    ksm_scan_item,
)
from mmuwitness.simulate.machine import Guest
from mmuwitness.simulate.meters import PAGE_BYTES
from mmuwitness.simulate.program import Call
from mmuwitness.simulate.workloads.ksm_advisor import ScanTimeAdvisor
from mmuwitness.simulate.workloads.workload import SECOND, Parameter, Workload, share, unique

RMAP_ITEM_BYTES = 64
"""sizeof(struct ksm_rmap_item), which general_profit takes off for each page that was scanned."""


class KsmDensity(Workload):
    """Guests of one image: most pages that are not written have equals in other guests."""

    name = "ksm-density"
    ksmd: Any = None
    text = "guests of one image, read and written, while ksmd merges what they have in common"
    designs = ("wrapped", "removed", "ksm-only", "unwrapped-2009")
    parameters: ClassVar[dict[str, Parameter]] = Workload.parameters | {
        "duplicate": Parameter(0.5, "share of pages that other guests have, too", 0, 1),
        "zero": Parameter(0.05, "share of pages of zeros", 0, 1),
        "volatile": Parameter(0.125, "share of memory that is written in the normal course", 0, 1),
        "stray": Parameter(0.001, "share of writes that go where reads go", 0, 1),
        "returns": Parameter(0.5, "share of those that write what other guests have", 0, 1),
        "pages_to_scan": Parameter(100, "pages that ksmd scans before it sleeps", 1, 1e9),
        "sleep_millisecs": Parameter(20, "that ksmd sleeps", 0, 1e6),
        "smart_scan": Parameter(False, "scan pages less often that did not merge (v6.7)"),
        "max_page_sharing": Parameter(256, "mappings of one KSM page", 2, 60_000),
        "advisor": Parameter(False, "scan-time: pages_to_scan is set after each pass (v6.8)"),
        "advisor_target_scan_time": Parameter(200, "seconds that a pass should take", 1, 1e6),
        "advisor_max_cpu": Parameter(70, "percent of a CPU that ksmd may take then", 1, 100),
    }

    def wiring(self) -> dict[str, Any]:
        return {
            "classes": 2 + round(self.pages * self["duplicate"]),
            "max_page_sharing": int(self["max_page_sharing"]),
            "smart_scan": bool(self.given["smart_scan"]),
        }

    def contents(self, guest: Guest) -> Array:
        """What is written in the normal course comes first, and is each guest's own."""
        made = unique(self.rng, self.pages)
        volatile = round(self.pages * self["volatile"])
        common = self.rng.random(self.pages) < self["duplicate"] / max(1e-9, 1 - self["volatile"])
        zeros = self.rng.random(self.pages) < self["zero"]
        common[:volatile] = zeros[:volatile] = False
        classes = guest.machine.ksm.classes
        made[common] = 1 + np.flatnonzero(common) % (classes - 1)
        made[zeros] = 0
        return made

    def calls(self, guest: Guest) -> list[Call]:
        """The first three: those that ksmd goes on with are known by number."""
        address = {"addr": self.gfn}
        return [
            Call("ksmd", ksm_scan_item, (guest.mm,), address),
            Call("ksmd, second page", ksm_merge_tree_page, (guest.mm,), address),
            Call("ksmd, undo", ksm_break_cow, (guest.mm,), address),
        ]

    def vcpu_words(self) -> dict[str, int]:
        return {
            "write_pages": max(1, round(self.pages * self["volatile"])),
            "stray_share": share(self["stray"]),
            "class_share": share(self["returns"]),
            "classes": self.machine.ksm.classes,
        }

    def daemons(self, engine: Engine) -> None:
        self.began = 0
        self.advisor = None
        if self.given["advisor"]:
            target, most = int(self["advisor_target_scan_time"]), int(self["advisor_max_cpu"])
            self.advisor = ScanTimeAdvisor(target, most)
        self.ksmd = engine.add_daemon(
            "ksmd",
            self.seed,
            span=self.pages,
            stride=1,
            batch=self.advisor.pages_to_scan if self.advisor else int(self["pages_to_scan"]),
            sleep=round(self["sleep_millisecs"] * 1e6),
            reports=1,
            chains=1,
        )

    def passed(self, engine: Engine) -> None:
        self.machine.ksm.seqnr += 1
        if self.advisor is not None:
            seconds = (engine.now - self.began) // SECOND
            self.advisor.passed(seconds, int(self.ksmd["spent"]) // 1_000_000)
            self.ksmd["batch"] = self.advisor.pages_to_scan
        self.began = engine.now

    def derived(self, counters: Mapping[str, int]) -> dict[str, int]:
        """What mapped a KSM page once, and does not any more."""
        once = ("mm.ksm.set_page_stable_node", "mm.rmap.page_add_anon_rmap")
        now = counters["ksm pages_shared"] + counters["ksm pages_sharing"]
        return {"ksm unmerged": sum(counters.get(name, 0) for name in once) - now}

    def gauges(self) -> dict[str, float]:
        """As in /sys/kernel/mm/ksm."""
        counters = self.machine.ksm_counters()
        found = {f"ksm {name}": float(value) for name, value in counters.items()}
        saved, items = counters["pages_sharing"], int(self.machine.ksm.rmap_items)
        return (
            super().gauges()
            | found
            | {
                "ksm general_profit": saved * PAGE_BYTES - items * RMAP_ITEM_BYTES,
                "ksm pages_to_scan": int(self.ksmd["batch"]) if self.ksmd is not None else 0,
                "memory saved pages": saved,
            }
        )
