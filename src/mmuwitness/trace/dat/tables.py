"""The fields of events, from their records to a table for each name of event."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mmuwitness.trace.dat.format import Format
from mmuwitness.trace.dat.print import Printed, printed_columns
from mmuwitness.trace.dat.symbols import Symbols
from mmuwitness.trace.dat.values import Records, coded, named_series

KPROBE, KPROBE_FUNCTION, KRETPROBE = "__probe_ip", "__probe_func", "__probe_ret_ip"
_HIDDEN = {KPROBE, KPROBE_FUNCTION, KRETPROBE, "__syscall_nr"}
# Events of ftrace's that say in `ip` who wrote them, and are printed by that name.
_WRITTEN = {"print": "buf", "bputs": "str", "bprint": "fmt"}

Rows = slice | NDArray[np.intp]


class Tables:
    """Makes tables of records; knows symbols, and the formats of trace_printk by address."""

    def __init__(self, symbols: Symbols, printk: dict[int, str]) -> None:
        self.symbols = symbols
        self._printk = printk
        self._printed: dict[int, list[Printed]] = {}  # by the format's id; most never occur
        self.short: dict[str, int] = {}  # events with records that end before their fields do
        self.undecoded = 0  # of trace_printk, whose arguments are not put into their format

    def named(
        self, kind: Format, rows: NDArray[np.uint64], records: Records
    ) -> list[tuple[str, Rows, pl.DataFrame | None]]:
        """Of events of one kind, the names that they are known by (most kinds have one), which of
        them have it, and the table of their fields, None if they have none."""
        writer = kind.field_named("ip")
        if kind.system != "ftrace" or kind.name not in _WRITTEN or writer is None:
            return [(kind.name, slice(None), self._table(kind, rows, records))]
        writers = records.words(writer.offset, writer.size, signed=False)
        names = named_series("name", writers, lambda at: self._writer(kind, at))
        parts: list[tuple[str, Rows, pl.DataFrame | None]] = []
        for name in names.unique(maintain_order=True):
            part = np.flatnonzero((names == name).to_numpy())
            parts.append((name, part, self._table(kind, rows[part], records.only(part))))
        return parts

    def _writer(self, kind: Format, address: int) -> str:
        symbol = self.symbols.at(address)
        return kind.name if symbol is None else symbol.function

    def _table(
        self, kind: Format, rows: NDArray[np.uint64], records: Records
    ) -> pl.DataFrame | None:
        if kind.system == "ftrace" and kind.name in _WRITTEN:
            columns = self._written(kind, records)
        elif kind.system == "ftrace" and kind.name == "function":
            columns = self._function(kind, records)
        else:
            columns = self._fields(kind, records)
        return pl.DataFrame([pl.Series("row", rows), *columns]) if columns else None

    def _fields(self, kind: Format, records: Records) -> list[pl.Series]:
        columns = self._probe(kind, records)
        syscall_number = "nr" if kind.system == "syscalls" else None  # until v3.17
        for field in kind.fields:
            hidden = field.name in _HIDDEN or field.name == syscall_number
            if not hidden and not field.name.startswith("common_"):
                columns.append(records.column(field))
        if kind.id not in self._printed:
            self._printed[kind.id] = _printed(kind)
        # Of a field that is printed in two ways, the first counts.
        ways = reversed(self._printed[kind.id])
        made = {each.column: printed_series(each, columns) for each in ways}
        return [*(each for each in columns if each.name not in made), *made.values()]

    def _probe(self, kind: Format, records: Records) -> list[pl.Series]:
        """Where a kprobe, kretprobe or fprobe fired: by function, as text shows it."""
        returned = kind.field_named(KRETPROBE)
        probed = kind.field_named(KPROBE_FUNCTION if returned else KPROBE)
        if probed is None:
            return []
        at = records.words(probed.offset, probed.size, signed=False)
        function = named_series("function", at, self.symbols.function)
        if returned is None:
            return [function, named_series("offset", at, self._offset).cast(pl.UInt64)]
        to = records.words(returned.offset, returned.size, signed=False)
        return [function, named_series("caller", to, self.symbols.printed)]

    def _offset(self, address: int) -> int | None:
        symbol = self.symbols.at(address)
        return None if symbol is None else symbol.offset

    def _function(self, kind: Format, records: Records) -> list[pl.Series]:
        columns = []
        for name, column in (("ip", "function"), ("parent_ip", "caller")):
            if (field := kind.field_named(name)) is not None:
                at = records.words(field.offset, field.size, signed=False)
                columns.append(named_series(column, at, self.symbols.frame))
        return columns

    def _written(self, kind: Format, records: Records) -> list[pl.Series]:
        """What somebody wrote: trace_marker, trace_printk, trace_puts."""
        field = kind.field_named(_WRITTEN[kind.name])
        if field is None:
            return []
        if field.array:
            return [records.column(field).str.strip_chars_end("\n").alias("text")]
        if kind.name == "bprint":
            self.undecoded += len(records)
        at = records.words(field.offset, field.size, signed=False)
        return [named_series("text", at, lambda where: self._printk.get(where, f"{where:#x}"))]


def printed_series(printed: Printed, columns: list[pl.Series]) -> pl.Series:
    """A column as text prints it, evaluated once for each combination of values that occurs."""
    sources = [next(each for each in columns if each.name == name) for name in printed.fields]
    codes = np.zeros(len(sources[0]), np.uint32)
    for source in sources:
        different, own = coded(source.to_numpy().view(np.int64))
        # There are at most as many combinations as events: this never goes beyond 64 bits.
        _, codes = coded(codes * np.int64(len(different)) + own)
    first = np.unique(codes, return_index=True)[1].tolist()
    rows = [{each.name: each[at] for each in sources} for at in first]
    values = [printed.value(row) for row in rows]
    if all(isinstance(each, str) for each in values):
        return pl.Series(printed.column, values, pl.String)[codes]
    return pl.Series(printed.column, [_signed(each) for each in values], pl.Int64)[codes]


def _signed(value: int | str) -> int:
    word = value & (1 << 64) - 1 if isinstance(value, int) else 0
    return word - (1 << 64) if word >> 63 else word


def _printed(kind: Format) -> list[Printed]:
    """Of numbers only: a text is not a number that is printed by name."""
    numbers = [each.name for each in kind.fields if not each.array]
    found = printed_columns(kind.print_format, frozenset(numbers))
    return [each for each in found if not each.column.startswith("common_")]
