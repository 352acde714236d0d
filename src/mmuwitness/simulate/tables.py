"""Runs as tables, to keep, to ask in SQL, and to read again.

    runs       a row for each run: workload, design, seed, guest_seconds, stall_ns, cpu_ns,
               a column for each meter, and p_NAME for each parameter
    counters   run, name, value
    cpu        run, task, ns
    series     run, name, seconds, value

`run` is the key that the tables share.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from mmuwitness.simulate.meters import METERS, Run, Value

TABLES = ("runs", "counters", "cpu", "series")
PARAMETER = "p_"
SCHEMAS: Mapping[str, Mapping[str, Any]] = {
    "counters": {"run": pl.String, "name": pl.String, "value": pl.Int64},
    "cpu": {"run": pl.String, "task": pl.String, "ns": pl.Int64},
    "series": {"run": pl.String, "name": pl.String, "seconds": pl.Float64, "value": pl.Float64},
}


class QueryError(ValueError):
    """SQL that cannot be run; says which tables there are."""


def run_key(workload: str, design: str, seed: int, parameters: Mapping[str, Value]) -> str:
    """The same for what is asked to be the same run."""
    said = json.dumps([workload, design, seed, sorted(parameters.items())])
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def tables_of(runs: Sequence[Run], keys: Sequence[str] | None = None) -> dict[str, pl.DataFrame]:
    """The four tables. keys: of the runs, where they are not those of their parameters."""
    named = list(zip(keys or [key_of(run) for run in runs], runs, strict=True))
    rows: dict[str, list[tuple[Any, ...]]] = {
        "counters": [(key, name, n) for key, run in named for name, n in run.counters.items()],
        "cpu": [(key, task, ns) for key, run in named for task, ns in run.cpu_ns.items()],
        "series": [
            (key, name, seconds, value)
            for key, run in named
            for name, values in run.series.items()
            if name != "seconds"
            for seconds, value in zip(run.series["seconds"], values, strict=True)
        ],
    }
    frames = {
        name: pl.DataFrame(found, schema=SCHEMAS[name], orient="row")
        for name, found in rows.items()
    }
    # Wide, and of runs with other parameters not the same width: missing ones are null.
    wide = [pl.DataFrame([row_of(key, run)]) for key, run in named]
    return {"runs": pl.concat(wide, how="diagonal_relaxed"), **frames}


def key_of(run: Run) -> str:
    """By what it says of itself."""
    return run_key(run.workload, run.design, run.seed, run.parameters)


def row_of(key: str, run: Run) -> dict[str, Any]:
    """Its row of `runs`."""
    return {
        "run": key,
        "workload": run.workload,
        "design": run.design,
        "seed": run.seed,
        "guest_seconds": run.guest_seconds,
        "stall_ns": run.stall_ns,
        "cpu_ns": run.cpu_total_ns,
        **{meter.name: meter.read(run) for meter in METERS},
        **{f"{PARAMETER}{name}": value for name, value in sorted(run.parameters.items())},
    }


def runs_of(tables: Mapping[str, pl.DataFrame]) -> list[Run]:
    """The runs that these tables hold."""
    counters, cpu = by_run(tables["counters"]), by_run(tables["cpu"])
    series: dict[str, dict[str, list[float]]] = {}
    for key, name, seconds, value in tables["series"].iter_rows():
        found = series.setdefault(key, {"seconds": []})
        found.setdefault(name, []).append(value)
        if len(found[name]) > len(found["seconds"]):
            found["seconds"].append(seconds)
    return [
        Run(
            row["workload"],
            row["design"],
            row["seed"],
            {
                name.removeprefix(PARAMETER): value
                for name, value in row.items()
                if name.startswith(PARAMETER) and value is not None
            },
            row["guest_seconds"],
            counters.get(row["run"], {}),
            cpu.get(row["run"], {}),
            row["stall_ns"],
            series.get(row["run"], {}),
        )
        for row in tables["runs"].iter_rows(named=True)
    ]


def by_run(table: pl.DataFrame) -> dict[str, dict[str, int]]:
    """Of a long table, the values by name for each run."""
    found: dict[str, dict[str, int]] = {}
    for key, name, value in table.iter_rows():
        found.setdefault(key, {})[name] = value
    return found


def write_tables(runs: Sequence[Run], directory: Path) -> dict[str, int]:
    """Each table as DIR/NAME.parquet: how many rows each has."""
    rows = {}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, table in tables_of(runs).items():
            table.write_parquet(directory / f"{name}.parquet")
            rows[name] = table.height
    except OSError as error:
        raise ValueError(f"--parquet {directory}: {error.strerror or error}") from error
    return rows


def query(tables: Mapping[str, pl.LazyFrame], sql: str) -> pl.DataFrame:
    """What this SQL answers; QueryError if it cannot be run."""
    try:
        return pl.SQLContext(dict(tables), eager=False).execute(sql).collect()
    except pl.exceptions.PolarsError as error:
        why = str(error).splitlines()[0]
        raise QueryError(f"--sql: {why} (tables: {', '.join(sorted(tables))})") from error
