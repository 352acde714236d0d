"""What the time stamps of a trace tell: how long it is, and whether they come from hardware."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmuwitness.trace.events import Batch

# Hardware records two events in a row in well under a microsecond, an emulated CPU does not.
EMULATED_GAP_NS = 2000
GAPS_MIN = 200
TICKS = ("counter", "x86-tsc")  # clocks of tracefs that do not count ns
GAPS_MAX = 100_000


@dataclass(frozen=True)
class Span:
    """A trace from its first event to its last, in ns of its clock."""

    start: int
    end: int
    emulated: bool | None  # None: too few events to tell


class Gaps:
    """Times between two events in a row on one CPU, of the first events of a trace."""

    def __init__(self) -> None:
        self.found: list[np.ndarray] = []
        self.count = 0

    def see(self, batch: Batch) -> None:
        """The next batch."""
        if self.count < GAPS_MAX:
            for part in batch.events.head(GAPS_MAX).partition_by("cpu"):
                self.found.append(np.diff(part["time"].to_numpy()))
                self.count += len(self.found[-1])

    @property
    def emulated(self) -> bool | None:
        """Whether even the shortest are too long for hardware; None: too few to tell."""
        if self.count < GAPS_MIN:
            return None
        return bool(np.percentile(np.concatenate(self.found), 1) >= EMULATED_GAP_NS)
