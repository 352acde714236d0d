"""A trace as Parquet tables, to keep or to ask in SQL: `events`, and one per event name.

    DIR/events/00000.parquet ...     row, time, cpu, task, pid, event, place, stack
    DIR/kvm_exit/00000.parquet ...   row and the fields of that event

A part per batch, so that a trace of any size is written in bounded memory.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from pathlib import Path
from types import TracebackType

import polars as pl

from mmuwitness.trace.events import Trace

EVENTS = "events"
NO_FILE_NAME = re.compile(r"[^\w.-]")


class QueryError(ValueError):
    """SQL that cannot be run; says which tables there are."""


def make_directory(directory: Path) -> None:
    """ValueError if it cannot be made, or if tables there would stand beside something else."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--parquet {directory}: {error.strerror}") from error
    if any(directory.iterdir()):
        raise ValueError(f"--parquet {directory}: is not empty: give a new directory")


class EventTables:
    """The tables of a trace in a directory: the given one, or one that lasts for the `with`."""

    def __init__(self, trace: Trace, directory: Path | None = None) -> None:
        """Writes them. TraceError if it is no trace."""
        self.temporary = None if directory else tempfile.TemporaryDirectory(prefix="mmuwitness-")
        self.directory = directory or Path(self.temporary.name if self.temporary else "")
        self.rows = Counter[str]()
        """Rows of each table."""
        self.parts: dict[str, list[Path]] = {}
        for number, batch in enumerate(trace.batches()):
            self._write(EVENTS, batch.events, number)
            for name, table in batch.tables.items():
                self._write(name, table, number)
        self.notes, self.complete = list(trace.notes), trace.complete and not trace.lost

    def __enter__(self) -> EventTables:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        if self.temporary is not None:
            self.temporary.cleanup()

    def _write(self, name: str, table: pl.DataFrame, number: int) -> None:
        path = self.directory / NO_FILE_NAME.sub("_", name) / f"{number:05}.parquet"
        try:
            path.parent.mkdir(exist_ok=True)
            table.write_parquet(path)
        except OSError as error:
            raise ValueError(f"{path}: cannot be written: {error}") from error
        self.parts.setdefault(name, []).append(path)
        self.rows[name] += table.height

    def query(self, sql: str) -> pl.DataFrame:
        """What this SQL answers; QueryError if it cannot be run."""
        tables = {
            name: pl.concat([pl.scan_parquet(path) for path in parts], how="diagonal_relaxed")
            for name, parts in self.parts.items()
        }
        try:
            return pl.SQLContext(tables, eager=False).execute(sql).collect()
        except pl.exceptions.PolarsError as error:
            names = ", ".join(sorted(tables))
            why = str(error).splitlines()[0]
            raise QueryError(f"--sql: {why} (tables: {names})") from error
