"""mm/ksm.c: scan_time_advisor(), which sets pages_to_scan so that a pass takes a given time.

In kernels from v6.8 on.  Integers as there: times are whole seconds, shares whole percent."""

from __future__ import annotations

from dataclasses import dataclass

EWMA_WEIGHT = 30
MIN_CPU = 10
MIN_PAGES_TO_SCAN, MAX_PAGES_TO_SCAN = 500, 30_000


@dataclass
class ScanTimeAdvisor:
    """target_scan_time in seconds, max_cpu in percent; pages_to_scan is what it says.  The others
    are what it remembers of the pass before."""

    target_scan_time: int = 200
    max_cpu: int = 70
    pages_to_scan: int = MIN_PAGES_TO_SCAN
    scan_time: int = 0
    change: int = 0
    cpu_ms: int = 0

    def passed(self, seconds: int, cpu_ms: int) -> None:
        """A pass has taken so long, and ksmd so much CPU time since the machine was started."""
        scan_time = max(1, seconds)
        spent = cpu_ms - self.cpu_ms
        cpu_percent = max(1, spent * 100 // (scan_time * 1000))
        factor = max(1, self.target_scan_time * 100 // scan_time)
        change = max(1, scan_time * 100 // (self.scan_time or scan_time))
        change = ((100 - EWMA_WEIGHT) * self.change + EWMA_WEIGHT * change) // 100
        pages = self.pages_to_scan * 100 // factor * change // 100
        per_percent = max(1, self.pages_to_scan // cpu_percent)
        pages = max(min(pages, per_percent * self.max_cpu), per_percent * MIN_CPU)
        self.pages_to_scan = min(pages, MAX_PAGES_TO_SCAN)
        self.change, self.scan_time, self.cpu_ms = change, scan_time, cpu_ms
