"""Per event a table of its fields, from the payloads of a block."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mmuwitness.trace.text.layout import NUMBERS, Field, Layout, known_layouts, learn_layout
from mmuwitness.trace.text.loops import Bytes, Halves, Matched, intern, match
from mmuwitness.trace.text.names import EventName

LAYOUTS_MAX = 16  # learned per event: one that prints in more ways has the rest as text
PERF_PROBES = "probe"  # the group of the probes that `perf probe` makes
PERF_PROBE = re.compile(r"(\w+?)(?:__return)?(?:_\d+)?")


class TableMaker:
    """Knows how each event is laid out; learns it from the first payload that is new."""

    def __init__(self) -> None:
        self._learned: defaultdict[EventName, list[Layout]] = defaultdict(list)
        self.texts: dict[str, int] = defaultdict(int)
        """Per event, how many payloads could be kept as text only."""
        self.addresses = 0  # probes whose function is printed as an address

    def table(
        self,
        name: EventName,
        block: Bytes,
        rows: NDArray[np.uint64],
        starts: Halves,
        ends: Halves,
    ) -> pl.DataFrame | None:
        """The fields of these events, all of one name; None if they have none. `starts` and
        `ends` are the offsets of their payloads."""
        if not (ends > starts).any():
            return None
        parts = []
        learned = self._learned[name]
        layouts = [*known_layouts(name.event), *learned]
        while len(rows):
            if layouts:
                layout = layouts.pop(0)
            else:
                payload = block[starts[0] : ends[0]].tobytes().decode(errors="replace")
                new = learn_layout(name.event, name.style, payload)
                if new is None or len(learned) >= LAYOUTS_MAX or not fits(new, block, starts, ends):
                    self.texts[name.event] += len(rows)
                    parts.append(text_table(block, rows, starts, ends))
                    break
                learned.append(new)
                layout = new
            matched = match_layout(layout, block, starts, ends)
            if matched.fits.all():
                parts.append(self._part(layout, matched, block, rows, None))
                break
            if matched.fits.any():
                chosen = np.flatnonzero(matched.fits)
                parts.append(self._part(layout, matched, block, rows, chosen))
                left = ~matched.fits
                rows, starts, ends = rows[left], starts[left], ends[left]
        whole = parts[0] if len(parts) == 1 else joined(parts)
        if whole.width == 1:
            return None
        return name_function(whole, name) if name.group == PERF_PROBES else whole

    def _part(
        self,
        layout: Layout,
        matched: Matched,
        block: Bytes,
        rows: NDArray[np.uint64],
        chosen: NDArray[np.intp] | None,
    ) -> pl.DataFrame:
        def pick(array: NDArray[Any]) -> NDArray[Any]:
            return array if chosen is None else array[chosen]

        columns = [pl.Series("row", pick(rows))]
        nulls = pick(matched.nulls)
        some_null = bool(nulls.any())
        for field, place in layout.places():
            if field.kind not in NUMBERS:
                start, end = matched.words[2 * place], matched.words[2 * place + 1]
                columns.append(self._strings(field, block, pick(start), pick(end)))
                continue
            values = pick(matched.numbers[place])
            unsigned = field.kind in {"hex", "udec"}
            column = pl.Series(field.name, values.view(np.uint64) if unsigned else values)
            if some_null and (missing := np.flatnonzero(nulls >> place & 1)).size:
                column = column.scatter(missing, None)
            columns.append(column)
        return pl.DataFrame(columns)

    def _strings(self, field: Field, block: Bytes, starts: Halves, ends: Halves) -> pl.Series:
        codes, found = intern(block, starts, ends)
        texts = [each.decode(errors="replace") for each in found]
        if field.kind == "address":
            self.addresses += len(starts)
            texts = [text if text.startswith("0x") else "0x" + text for text in texts]
        elif field.kind in {"text", "word"}:
            texts = [text[1:-1] if re.fullmatch(r'"[^"]*"', text) else text for text in texts]
        return pl.Series(field.name, texts, pl.String).gather(codes)


def name_function(table: pl.DataFrame, name: EventName) -> pl.DataFrame:
    """perf prints a probe's address only, but names its event after the function unless its
    author chose another name."""
    if "function" not in table.columns or not (match := PERF_PROBE.fullmatch(name.event)):
        return table
    unnamed = pl.col("function").str.starts_with("0x")
    named = pl.when(unnamed).then(pl.lit(match[1])).otherwise(pl.col("function"))
    return table.with_columns(function=named)


def match_layout(layout: Layout, block: Bytes, starts: Halves, ends: Halves) -> Matched:
    return match(
        block,
        starts,
        ends,
        layout.operations,
        layout.literals,
        layout.numbers,
        len(layout.fields) - layout.numbers,
    )


def fits(layout: Layout, block: Bytes, starts: Halves, ends: Halves) -> bool:
    """Whether a layout reads the payload it was learned from."""
    return bool(match_layout(layout, block, starts[:1], ends[:1]).fits[0])


def text_table(
    block: Bytes, rows: NDArray[np.uint64], starts: Halves, ends: Halves
) -> pl.DataFrame:
    codes, found = intern(block, starts, ends)
    texts = pl.Series("text", [each.decode(errors="replace") for each in found], pl.String)
    return pl.DataFrame([pl.Series("row", rows), texts.gather(codes)])


def joined(parts: list[pl.DataFrame]) -> pl.DataFrame:
    """Parts of one table, laid out differently; a field that they type differently gets the type
    that holds all of it."""
    types: defaultdict[str, set[pl.DataType]] = defaultdict(set)
    for part in parts:
        for name, kind in part.schema.items():
            types[name].add(kind)
    for name, kinds in types.items():
        if len(kinds) > 1:
            columns = [part[name] for part in parts if name in part.columns]
            target = common_type(columns)
            parts = [
                part.with_columns(cast(part[name], target)) if name in part.columns else part
                for part in parts
            ]
    return pl.concat(parts, how="diagonal").sort("row")


def cast(column: pl.Series, target: Any) -> pl.Series:
    if target == pl.String and column.dtype == pl.UInt64:  # as such numbers are mostly printed
        texts = [None if value is None else f"{value:#x}" for value in column]
        return pl.Series(column.name, texts, pl.String)
    return column.cast(target)


def common_type(columns: list[pl.Series]) -> Any:
    """Of columns of which some are signed, some unsigned, some strings."""
    if any(column.dtype == pl.String for column in columns):
        return pl.String
    signed = [column for column in columns if column.dtype == pl.Int64]
    if not any((column < 0).any() for column in signed):
        return pl.UInt64
    unsigned = [column for column in columns if column.dtype == pl.UInt64]
    return pl.String if any((column >= 1 << 63).any() for column in unsigned) else pl.Int64
