"""The windows of one task as slices: held back until all is known of them, and made to nest.

A slice's name and details are written where it begins, and the cause of a window is known when it
is over. So what happens in a task waits here, in order, until no window of it is open or in doubt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from mmuwitness.report.perfetto_writer import Details, PerfettoWriter
from mmuwitness.trace.windows import Window

ENTRIES_MAX = 100_000  # then windows are written with what is known of them by then


@dataclass(slots=True)
class Opened:
    """A window began."""

    window: Window
    has_end: bool  # whether the trace records ends
    name: str = ""
    details: Details | None = None  # None: not all is known yet


@dataclass(slots=True)
class Closed:
    """A window ended."""

    window: Window
    time: int


@dataclass(slots=True)
class Mark:
    """Something happened, in a window or not; an arrow starts or ends there."""

    window: Window | None
    time: int
    name: str
    details: Details
    starts: int = 0
    ends: int = 0


class Lanes:
    """One task's tracks: as many as it takes for slices to nest, almost always one."""

    def __init__(
        self,
        writer: PerfettoWriter,
        new_track: Callable[[], int],
        describe: Callable[[Window], tuple[str, Details]],
    ) -> None:
        """`describe` gives a window's name and details, as far as known."""
        self.writer, self.new_track, self.describe = writer, new_track, describe
        self.entries: list[Opened | Closed | Mark] = []
        self.slices = 0
        self._doubtful: dict[Window, Opened] = {}
        self._early: set[Window] = set()  # written before all was known
        self._tracks: list[int] = []
        self._stacks: list[list[Window]] = []  # of slices that are open, per track
        self._lane: dict[Window, int] = {}

    def open(self, window: Window, has_end: bool) -> None:
        """A window began; whether the trace records ends of windows."""
        entry = self._doubtful[window] = Opened(window, has_end)
        self._add(entry)

    def close(self, window: Window, time: int) -> None:
        """It ended."""
        self._add(Closed(window, time))

    def settle(self, window: Window, time: int) -> None:
        """All is known of it."""
        entry = self._doubtful.pop(window, None)
        if entry is not None:
            entry.name, entry.details = self.describe(window)
        if window.closed is None and window in self._lane:
            self.close(window, time)  # its end is lost, and its slice is written
        self.write()

    def mark(self, mark: Mark) -> None:
        """Something happened."""
        self._add(mark)
        self.write()

    def _add(self, entry: Opened | Closed | Mark) -> None:
        self.entries.append(entry)
        if len(self.entries) >= ENTRIES_MAX:
            self.write(at_once=True)

    def write(self, at_once: bool = False) -> None:
        """Write what happened, if all is known of it or `at_once`."""
        if self._doubtful and not at_once:
            return
        ends = {e.window: i for i, e in enumerate(self.entries) if isinstance(e, Closed)}
        for entry in self.entries:
            if isinstance(entry, Opened):
                self._begin(entry, ends)
            elif isinstance(entry, Closed):
                self._end(entry)
            else:
                lane = self._lane.get(entry.window, 0) if entry.window else 0
                self.writer.instant(
                    self._track(lane),
                    entry.time,
                    entry.name,
                    entry.details,
                    entry.starts,
                    entry.ends,
                )
        self.entries.clear()
        self._doubtful.clear()

    def _begin(self, entry: Opened, ends: dict[Window, int]) -> None:
        window, name, details = entry.window, entry.name, entry.details
        early = details is None
        if details is None:
            name, details = self.describe(window)
        if window not in ends and not (early and entry.has_end):
            self.writer.instant(self._track(0), window.opened, name, details)
            return
        if early:
            self._early.add(window)
        end = ends.get(window, inf)
        lane = 0
        while lane < len(self._stacks) and self._stacks[lane]:
            if ends.get(self._stacks[lane][-1], inf) > end:
                break  # it nests
            lane += 1
        track = self._track(lane)
        self._stacks[lane].append(window)
        self._lane[window] = lane
        self.writer.begin(track, window.opened, name, details)
        self.slices += 1

    def _end(self, entry: Closed) -> None:
        lane = self._lane.pop(entry.window)
        self._stacks[lane].remove(entry.window)
        details: Details = {}
        if entry.window in self._early:
            self._early.remove(entry.window)
            _, details = self.describe(entry.window)
        self.writer.end(self._tracks[lane], entry.time, details)

    def _track(self, lane: int) -> int:
        while len(self._tracks) <= lane:
            self._tracks.append(self.new_track())
            self._stacks.append([])
        return self._tracks[lane]
