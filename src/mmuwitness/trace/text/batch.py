"""The events of one block of text as tables."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mmuwitness.trace.events import Batch
from mmuwitness.trace.text import columns as column
from mmuwitness.trace.text.loops import Bytes, Halves, Scanned, Words, intern, own_stacks
from mmuwitness.trace.text.names import EventName, event_name
from mmuwitness.trace.text.stacks import no_stacks, stack_column
from mmuwitness.trace.text.tables import TableMaker, joined

STYLES = 8  # more than there are


class BlockEvents:
    """What was found in a block, with the names of the events and the owners of stack traces.

    An entry is what has a line of its own; entries that are the stack trace of another one are
    no events.
    """

    def __init__(self, block: Bytes, found: Scanned) -> None:
        self._block, self._columns, self._times = block, found.columns, found.times
        codes, printed = intern(block, found.columns[column.NAME_START], self._of(column.NAME_END))
        self._codes = codes * STYLES + self._of(column.STYLE)
        used = np.flatnonzero(np.bincount(self._codes)).tolist() if len(codes) else []
        self.names: dict[int, EventName] = {
            code: event_name(printed[code // STYLES].decode(errors="replace"), code % STYLES)
            for code in used
        }
        self._framed = self._of(column.FRAMES_END) > self._of(column.FRAMES_START)
        is_stack = np.zeros(max(used, default=0) + 1, np.bool_)
        is_stack[[code for code, name in self.names.items() if name.is_stack]] = True
        stacks = is_stack[self._codes] & self._framed
        self._owners = own_stacks(stacks, self._of(column.CPU), self._of(column.PID))
        self._kept = ~(stacks & (self._owners != np.arange(len(stacks))))
        self._before = np.cumsum(self._kept) - self._kept
        self.entries, self.count = len(codes), int(self._kept.sum())

    def _of(self, which: int) -> Halves:
        numbers: Halves = self._columns[which]
        return numbers

    def events_before(self, entry: int) -> int:
        return int(self._before[entry]) if entry < self.entries else self.count

    def name(self, entry: int) -> str:
        return self.names[int(self._codes[entry])].event

    def line(self, entry: int) -> int:
        return int(self._columns[column.LINE, entry])

    def extend(self, entry: int, end: int) -> None:
        """The payload of this entry goes on to the offset `end`."""
        self._columns[column.PAYLOAD_END, entry] = end

    @cached_property
    def times(self) -> Words:
        times: Words = self._times[self._kept]
        return times

    @cached_property
    def lines(self) -> Halves:
        lines: Halves = self._columns[column.LINE, self._kept]
        return lines

    def batch(self, rows: int, lines: int, maker: TableMaker) -> Batch:
        """As tables, numbered on from this many rows and lines before."""
        first = np.uint64(rows)
        events = self._events(np.arange(self.count, dtype=np.uint64) + first, lines)
        chosen = np.flatnonzero(self._kept)
        order = chosen[np.argsort(self._codes[chosen], kind="stable")]
        borders = np.flatnonzero(np.diff(self._codes[order])) + 1
        tables: dict[str, pl.DataFrame] = {}
        for part in np.split(order, borders):
            name = self.names[int(self._codes[part[0]])]
            starts = self._columns[column.PAYLOAD_START][part]
            ends = self._columns[column.PAYLOAD_END][part]
            numbers = self._before[part].astype(np.uint64) + first
            table = maker.table(name, self._block, numbers, starts, ends)
            if table is not None:
                known = tables.get(name.event)
                tables[name.event] = table if known is None else joined([known, table])
        return Batch(events, tables)

    def _events(self, rows: NDArray[np.uint64], lines: int) -> pl.DataFrame:
        columns = self._columns[:, self._kept]
        codes, tasks = intern(self._block, columns[column.TASK_START], columns[column.TASK_END])
        events = np.zeros(max(self.names) + 1, np.uint32)
        events[list(self.names)] = np.arange(len(self.names))
        names = [name.event for name in self.names.values()]
        return pl.DataFrame(
            [
                pl.Series("row", rows),
                pl.Series("time", self.times),
                pl.Series("cpu", columns[column.CPU]),
                categories("task", [each.decode(errors="replace") for each in tasks], codes),
                pl.Series("pid", columns[column.PID]),
                categories("event", names, events[self._codes[self._kept]]),
                pl.Series("place", columns[column.LINE].astype(np.uint64) + np.uint64(lines + 1)),
                self._stacks(),
            ]
        )

    def _stacks(self) -> pl.Series:
        framed = np.flatnonzero(self._framed)
        if not len(framed):
            return no_stacks(self.count)
        starts = self._columns[column.FRAMES_START][framed]
        ends = self._columns[column.FRAMES_END][framed]
        owners = self._before[self._owners[framed]]
        return stack_column(self._block, starts, ends, owners, self.count)


def categories(name: str, texts: list[str], codes: NDArray[Any]) -> pl.Series:
    return pl.Series(name, texts, pl.Categorical).gather(codes)
