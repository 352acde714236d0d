"""The events around a departure, as they stand in the trace, with their places in its file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmuwitness.trace.events import Batch
from mmuwitness.trace.facts import Fact
from mmuwitness.trace.rules.rule import Departure
from mmuwitness.trace.tracepoints import NAMES

if TYPE_CHECKING:
    import polars as pl

BEFORE, AFTER, BESIDE = 12, 3, 1  # events of the same tasks; beside the event that it contradicts
# Numbers that people read in decimal; the others are addresses, frames and bits.
DECIMAL = {
    name
    for field in ("seq", "in_progress", "active", "level", "ret", "vcpu", "slot", "event_type")
    for name in NAMES[field]
}


@dataclass(frozen=True)
class Line:
    """An event as the reader of a report sees it."""

    row: int
    place: int | None  # line or byte offset in the file; None: no longer at hand
    time_ns: int
    cpu: int
    task: str
    pid: int
    event: str
    payload: str


class Around:
    """Keeps the lines around the first departure while the batches that hold them are at hand."""

    def __init__(self) -> None:
        self._batches: list[Batch] = []
        self._first: Departure | None = None
        self._lines: tuple[Line, ...] = ()

    def see(self, batch: Batch, departures: Sequence[Departure]) -> None:
        """The next batch has been checked; these are all departures so far."""
        self._batches = [*self._batches[-1:], batch]
        first = min(departures, key=lambda each: each.fact.row, default=None)
        if first is not None and first is not self._first:
            self._first, self._lines = first, self._find(first)

    def lines(self, departure: Departure) -> tuple[Line, ...]:
        """The lines around this departure, the first one; in the order of the trace."""
        if departure is not self._first:
            self._lines = self._find(departure)
        return self._lines or tuple(
            _bare(fact) for fact in (departure.since, departure.fact) if fact
        )

    def _find(self, departure: Departure) -> tuple[Line, ...]:
        rows = {departure.fact.row}
        pids = {departure.fact.pid}
        if departure.since:
            pids.add(departure.since.pid)
        for batch in self._batches:
            mine = batch.events.filter(batch.events["pid"].is_in(list(pids)))["row"].to_list()
            before = [row for row in mine if row < departure.fact.row]
            after = [row for row in mine if row > departure.fact.row]
            rows |= {*before[-BEFORE:], *after[:AFTER]}
            if departure.since:
                beside = [row for row in mine if row <= departure.since.row]
                rows |= set(beside[-1 - BESIDE :])
        found = {line.row: line for batch in self._batches for line in _lines(batch, rows)}
        if departure.fact.row not in found:
            return ()
        if departure.since and departure.since.row not in found:
            found[departure.since.row] = _bare(departure.since)
        return tuple(found[row] for row in sorted(found))


def _lines(batch: Batch, rows: set[int]) -> list[Line]:
    events = batch.events.filter(batch.events["row"].is_in(sorted(rows)))
    return [
        Line(
            each["row"],
            each["place"],
            each["time"],
            each["cpu"],
            each["task"] or "?",
            each["pid"],
            *_payload(batch.tables.get(each["event"]), each),
        )
        for each in events.iter_rows(named=True)
    ]


def _payload(table: pl.DataFrame | None, event: dict[str, Any]) -> tuple[str, str]:
    """The event's name (of a probe, its function), and its fields."""
    name = event["event"]
    if table is None:
        return name, ""
    rows = table.filter(table["row"] == event["row"])
    if not rows.height:
        return name, ""
    fields = rows.row(0, named=True)
    function, caller = fields.pop("function", None), fields.pop("caller", None)
    offset = fields.pop("offset", None)
    if function:
        name = f"{function}() returns" if offset is None else f"{function}()"
    shown = [
        f"{key}={_show(key, value)}"
        for key, value in fields.items()
        if key != "row" and value is not None
    ]
    if caller:
        shown.append(f"to {caller}")
    return name, " ".join(shown)


def _show(name: str, value: Any) -> str:
    hexadecimal = isinstance(value, int) and value > 9 and name not in DECIMAL
    return f"{value:#x}" if hexadecimal else str(value)


def _bare(fact: Fact) -> Line:
    """An event whose batch is gone."""
    shown = [
        f"{key}={_show(key, value)}"
        for key, value in fact._asdict().items()
        if value is not None and key not in _KNOWN
    ]
    return Line(
        fact.row,
        None,
        fact.time,
        fact.cpu,
        fact.task or "?",
        fact.pid,
        fact.function or "event",
        " ".join(shown),
    )


_KNOWN = {"row", "time", "cpu", "pid", "task", "stack", "kind", "function", "text"}
