"""One batch of a trace.dat: the events of all CPUs in order, and the tables of their fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mmuwitness.trace.dat.columns import (
    COLUMN_COUNT,
    LOST,
    NONE_LOST,
    PID,
    PLACE,
    TIME,
    TYPE,
    TYPES,
)
from mmuwitness.trace.dat.header import Header
from mmuwitness.trace.dat.stacks import Stacks
from mmuwitness.trace.dat.streams import Part, Room, Words, address, loops
from mmuwitness.trace.dat.tables import Rows, Tables
from mmuwitness.trace.dat.values import Records, coded
from mmuwitness.trace.events import Batch

UNNAMED, IDLE = "<...>", "<idle>"  # as the kernel prints a task it has no name of, and pid 0


@dataclass(frozen=True)
class Events:
    """The columns of `columns` in time order, and the number of each event's stream."""

    columns: Words
    streams: Words

    @classmethod
    def of(cls, part: Part, room: Room) -> Events:
        """The events of a part. At one time those of a lower stream come first."""
        by_stream = sorted(range(len(part.blocks)), key=part.streams.__getitem__)
        blocks = [part.blocks[number] for number in by_stream]
        order = np.argsort(np.concatenate([block.keys for block in blocks]), kind="stable")
        count = len(order)
        unordered = room.words(COLUMN_COUNT * count).reshape(COLUMN_COUNT, count)
        np.concatenate([block.columns for block in blocks], axis=1, out=unordered)
        numbers = np.array([part.streams[number] for number in by_stream], np.int64)
        stream = np.repeat(numbers, [len(block.keys) for block in blocks])
        return cls(unordered, stream)._arranged(order)

    def only(self, chosen: NDArray[np.bool_]) -> Events:
        return self._arranged(np.flatnonzero(chosen))

    def _arranged(self, order: NDArray[np.intp]) -> Events:
        length, count = len(self), len(order)
        columns = np.empty((len(self.columns), count), np.int64)
        arrays = address(self.columns), length, address(order), count, address(columns)
        loops()["arrange"](*arrays)
        return Events(columns, self.streams[order])

    def __len__(self) -> int:
        return len(self.streams)


@dataclass
class Batches:
    """Makes batches of the events of one file, one after the other."""

    header: Header
    tables: Tables
    tasks: Mapping[int, str]
    cpus: Words
    """Of each stream."""
    row: int = 0
    """Of the next event."""
    lost: list[tuple[int, int, int]] = field(default_factory=list)
    """Row of the first event after them, CPU, and how many (see columns)."""
    unknown: dict[str, int] = field(default_factory=dict)
    """How many events there are of kinds that the file does not describe, or not readably."""

    def __post_init__(self) -> None:
        self._stacks = Stacks(self.header, self.tables.symbols)

    def batch(self, events: Events) -> Batch | None:
        """The next batch. None if nothing is in it but stack traces of earlier events."""
        owners = self._stacks.owners(events.columns, events.streams)
        shown = owners < 0
        after = self.row + np.cumsum(shown) - shown  # of a stack trace: the row of what follows
        for at in np.flatnonzero(events.columns[LOST] != NONE_LOST).tolist():
            cpu = int(self.cpus[events.streams[at]])
            self.lost.append((int(after[at]), cpu, int(events.columns[LOST, at])))
        stack = self._stacks.column(events.columns, owners)
        if not shown.all():
            events = events.only(shown)
        if not len(events):
            return None
        rows = np.arange(self.row, self.row + len(events), dtype=np.uint64)
        self.row += len(events)
        names, tables = self._kinds(events.columns, rows)
        columns = events.columns
        frame = pl.DataFrame(
            [
                pl.Series("row", rows),
                pl.Series("time", columns[TIME]),
                pl.Series("cpu", self.cpus.astype(np.int32)[events.streams]),
                self._task_column(columns[PID]),
                pl.Series("pid", columns[PID].astype(np.int32)),
                names,
                pl.Series("place", columns[PLACE].astype(np.uint64)),
                stack,
            ]
        )
        return Batch(frame, tables)

    def _kinds(
        self, columns: Words, rows: NDArray[np.uint64]
    ) -> tuple[pl.Series, dict[str, pl.DataFrame]]:
        """The name of each event, and the tables of their fields by name."""
        count = len(rows)
        ends = np.zeros(TYPES, np.int64)
        starts, sizes, places = (np.empty(count, np.int64) for _ in range(3))
        arrays = [address(each) for each in (ends, starts, sizes, places)]
        loops()["group"](address(columns), count, *arrays)
        names: list[str] = []
        by_type = np.zeros(TYPES, np.uint32)
        found: dict[str, list[pl.DataFrame]] = {}
        exceptions: list[tuple[Words, int]] = []
        begin = 0
        for number in np.flatnonzero(np.diff(ends, prepend=0)).tolist():
            here = slice(begin, begin := int(ends[number]))
            records = Records(starts[here], sizes[here], self.header.big_endian)
            for name, part, table in self._tables(number, records, rows[places[here]]):
                if isinstance(part, slice):
                    by_type[number] = len(names)
                else:
                    exceptions.append((places[here][part], len(names)))
                names.append(name)
                if table is not None:
                    found.setdefault(name, []).append(table)
        codes = by_type[columns[TYPE]]
        for where, code in exceptions:
            codes[where] = code
        column = pl.Series("event", names, pl.Categorical)[codes]
        return column, {name: _joined(tables) for name, tables in found.items()}

    def _tables(
        self, number: int, records: Records, rows: NDArray[np.uint64]
    ) -> list[tuple[str, Rows, pl.DataFrame | None]]:
        """Of events of one type: by name which ones they are, and their table."""
        everything = slice(None)
        kind = self.header.format(number)
        if kind is None:
            file = self.header.formats.get(number)
            name = f"type_{number}" if file is None else file.name
            self.unknown[name] = self.unknown.get(name, 0) + len(rows)
            return [(name, everything, None)]
        if number in self._stacks.types:
            return [(kind.name, everything, None)]
        short = records.sizes < kind.end
        if short.any():
            count = int(short.sum())
            self.tables.short[kind.name] = self.tables.short.get(kind.name, 0) + count
            named: list[tuple[str, Rows, pl.DataFrame | None]] = []
            named.append((kind.name, np.flatnonzero(short), None))
            if len(left := np.flatnonzero(~short)):
                whole = self.tables.named(kind, rows[left], records.only(left))
                named += [(name, left[part], table) for name, part, table in whole]
            return named
        return self.tables.named(kind, rows, records)

    def _task_column(self, pids: Words) -> pl.Series:
        different, codes = coded(pids)
        names = [self.tasks.get(pid, UNNAMED) for pid in different.tolist()]
        return pl.Series("task", names, pl.Categorical)[codes]


def _joined(tables: list[pl.DataFrame]) -> pl.DataFrame:
    """Of events of one name: two groups of probes may use the same."""
    if len(tables) == 1:
        return tables[0]
    return pl.concat(tables, how="diagonal_relaxed").sort("row")
