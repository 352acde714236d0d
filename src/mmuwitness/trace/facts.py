"""The events that matter, in one form whatever the kernel, the probes' names and the reader were.

    reader = FactReader()
    for batch in trace.batches():
        for fact in reader.read(batch).rows():
            print(fact.row, fact.kind, fact.gfn)

A fact is a row of one table, null where the trace does not tell; `Fact` is that row as a tuple.
Addresses (`start`, `end`, `address`, `range_start`, `range_end`: hva, or gfn ranges of newer
kernels), page-table entries (`old`, `new`), `gfn`, `gfn_end`, `pfn` and pointers are unsigned,
`ret`, counts and `level` are signed. Of a guest's fault, `address` is what the guest used and `gfn`
is that address by pages: under shadow paging it is virtual, see `kernel.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import repeat
from typing import Any, NamedTuple

import polars as pl

from mmuwitness.trace.events import Batch
from mmuwitness.trace.tracepoints import NAMES, PROBE, TRACEPOINT, Kind, Probe

# A probe on a function's entry may stand behind the landing pad (x86 ENDBR64, arm64 BTI): +0x4.
ENTRY_OFFSET_MAX = 4
EVENT_COLUMNS = ("time", "cpu", "pid", "task", "stack")
SIGNED = ("ret", "level", "in_progress", "active", "vcpu", "slot", "fixed", "event_type")
TEXTS = ("function", "caller", "reason", "text")
SYSCALL_NAMES = {
    "start": ("start", "addr"),
    "size": ("len_in", "len", "old_len"),
    "flags": ("behavior", "prot", "flags"),
    "ret": ("ret",),
}


class Fact(NamedTuple):
    """One fact. `kind` is a Kind, `stack` the functions, innermost first."""

    row: int
    time: int
    cpu: int
    pid: int
    task: str
    stack: list[str] | None
    kind: int
    function: str | None = None
    caller: str | None = None
    start: int | None = None
    end: int | None = None
    address: int | None = None
    gfn: int | None = None
    gfn_end: int | None = None
    pfn: int | None = None
    old: int | None = None
    new: int | None = None
    level: int | None = None
    ret: int | None = None
    vcpu: int | None = None
    vm: int | None = None  # struct kvm
    mn: int | None = None  # its struct mmu_notifier
    mm: int | None = None
    seq: int | None = None
    in_progress: int | None = None
    active: int | None = None
    range_start: int | None = None
    range_end: int | None = None
    event_type: int | None = None
    flags: int | None = None
    memcache: int | None = None
    slot: int | None = None
    size: int | None = None
    error_code: int | None = None
    fixed: int | None = None
    reason: str | None = None
    text: str | None = None


PAYLOAD = Fact._fields[7:]
_STORE = {"gfn": ("ipa>>12",)}


class _Piece(NamedTuple):
    """A table of one kind: its function, and which fields are what beside NAMES."""

    table: pl.DataFrame
    kind: Kind
    function: str
    names: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Facts:
    """Facts of one batch in the order of the trace; `table` has the columns of Fact, or some."""

    table: pl.DataFrame

    def __len__(self) -> int:
        return self.table.height

    def rows(self) -> Iterator[Fact]:
        """The same as tuples; a column that was not asked for is None."""
        height = len(self)
        columns: list[Iterable[Any]] = []
        for name in Fact._fields:
            known = name in self.table.columns and self.table[name].null_count() < height
            columns.append(self.table[name].to_list() if known else repeat(None, height))
        return map(Fact._make, zip(*columns, strict=True))


class FactReader:
    """Finds facts in batches. Knows which probe stands for a function when several are on it."""

    def __init__(
        self,
        kinds: Callable[[Counter[Kind]], Collection[int]] | None = None,
        columns: Collection[str] = PAYLOAD,
    ) -> None:
        """Only some kinds, depending on which were seen; of their payload only these columns."""
        self.kinds, self.columns = kinds, tuple(columns)
        self.counts = Counter[Kind]()
        """Facts of each kind so far, also of kinds that were not asked for."""
        self.functions = Counter[str]()
        """Entries of each probed function so far."""
        self.returns = Counter[str]()
        """Returns of each probed function so far."""
        self.events = Counter[str]()
        """Events of each name so far."""
        self._owners: dict[tuple[str, Kind], str] = {}

    def read(self, batch: Batch) -> Facts:
        """The facts of the next batch."""
        names = batch.events["event"].value_counts()
        pairs = zip(names["event"].to_list(), names["count"].to_list(), strict=True)
        self.events.update(dict(pairs))
        pieces = list(self._pieces(batch))
        kinds = tuple(Kind) if self.kinds is None else self.kinds(self.counts)
        wanted = [self._payload(piece) for piece in pieces if piece.kind in kinds]
        if not wanted:
            return Facts(pl.DataFrame(schema=dict.fromkeys(Fact._fields, pl.Null)))
        payload = pl.concat(wanted, how="diagonal").sort("row")
        unknown = [name for name in self.columns if name not in payload.columns]
        payload = payload.with_columns(pl.lit(None, dtype_of(name)).alias(name) for name in unknown)
        events = batch.events.select(EVENT_COLUMNS)[payload["row"] - batch.events["row"][0]]
        return Facts(pl.concat([payload, events], how="horizontal"))

    def _pieces(self, batch: Batch) -> Iterator[_Piece]:
        tables = dict(batch.tables)
        for name, table in sorted(tables.items(), key=lambda each: each[1]["row"][0]):
            if "function" in table.columns:
                yield from self._probe_pieces(name, table)
            elif name.startswith("sys_"):
                yield from self._syscall_pieces(name, table)
            elif (row := TRACEPOINT.get(name)) and row.kind is not None:
                self.counts[row.kind] += table.height
                names = {key: (one,) for key, one in row.facts.items()}
                yield _Piece(table, row.kind, name, names)

    def _probe_pieces(self, name: str, table: pl.DataFrame) -> Iterator[_Piece]:
        enters = "offset" in table.columns or name == "function"
        if "offset" in table.columns:
            stores = table.filter(pl.col("offset") > ENTRY_OFFSET_MAX)
            table = table.filter(pl.col("offset") <= ENTRY_OFFSET_MAX)
            # The only instructions of interest inside a function: those that store a leaf.
            stores = stores.filter(pl.col("function").str.starts_with("stage2_"))
            if stores.height and "new" in stores.columns:
                self.counts[Kind.SPTE_STORE] += stores.height
                yield _Piece(stores, Kind.SPTE_STORE, stores["function"][0], _STORE)
        for part in table.partition_by("function", maintain_order=True):
            function = part["function"][0]
            row = PROBE.get(function, Probe(function))
            kind = row.entry if enters else row.returns
            # A function may carry two probes, a kprobe and an fprobe: only the first one counts.
            if self._owners.setdefault((function, kind), name) != name:
                continue
            self.counts[kind] += part.height
            (self.functions if enters else self.returns)[function] += part.height
            yield _Piece(part, kind, function, {key: (one,) for key, one in row.facts.items()})

    def _syscall_pieces(self, name: str, table: pl.DataFrame) -> Iterator[_Piece]:
        left = pl.col("ret").is_not_null() if "ret" in table.columns else pl.lit(False)
        if name.startswith("sys_exit_"):
            left = pl.lit(True)
        function = name.removeprefix("sys_").removeprefix("enter_").removeprefix("exit_")
        for kind, part in (
            (Kind.SYSCALL_ENTER, table.filter(~left)),
            (Kind.SYSCALL_EXIT, table.filter(left)),
        ):
            if part.height:
                self.counts[kind] += part.height
                yield _Piece(part, kind, function, SYSCALL_NAMES)

    def _payload(self, piece: _Piece) -> pl.DataFrame:
        """The row number, the kind, and the payload that it has in canonical columns."""
        columns = [pl.col("row"), pl.lit(int(piece.kind), pl.UInt8).alias("kind")]
        for column in self.columns:
            own = piece.names.get(column, ())
            if column == "function":
                columns.append(pl.lit(piece.function, pl.String).alias(column))
            elif own != ("",):
                names = (*own, *NAMES.get(column, (column,)))
                columns += _column(piece.table, column, names)
        return piece.table.select(columns)


def dtype_of(column: str) -> type[pl.DataType]:
    return pl.String if column in TEXTS else pl.Int64 if column in SIGNED else pl.UInt64


def _column(table: pl.DataFrame, column: str, candidates: Collection[str]) -> list[pl.Expr]:
    """The first of these fields that the table has, as this column's type; or nothing."""
    dtype = dtype_of(column)
    for candidate in candidates:
        name, _, shift = candidate.partition(">>")
        if name not in table.columns:
            continue
        # Of another type: a field that has the name and another meaning.
        if (table.schema[name] == pl.String) != (dtype == pl.String):
            continue
        value = pl.col(name)
        if shift:
            value = value // (1 << int(shift))
        return [value.cast(dtype, strict=False).alias(column)]
    return []
