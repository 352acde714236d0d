"""`sweep`: every point of a grid of parameters, under every design and seed, on all cores.

    FILE.toml                            DIR/
      workload = "ksm-density"             sweep.json          what made it
      designs = ["wrapped", "removed"]     runs/KEY.parquet    a part for each finished run,
      seeds = 5                            counters/KEY.parquet ...
      [parameters]
      guests = 40
      [grid]
      memory = ["1G", "4G"]

A run's part in `runs` is written last, and whole: what is there is finished, and is not run again.
A grid may grow in the same directory. Runs of other sources or costs do not go beside these.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import multiprocessing as mp
import os
import signal
import threading
import time
import tomllib
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from io import BytesIO
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from typing import Any

import polars as pl

from mmuwitness.explore.programs import sources_digest
from mmuwitness.process.disk_cache import write_whole
from mmuwitness.simulate.cost import CostTable
from mmuwitness.simulate.meters import Run, Value
from mmuwitness.simulate.tables import TABLES, query, run_key, runs_of, tables_of

KEYS = {"workload", "designs", "seeds", "baseline", "parameters", "grid"}
PART = "*.parquet"
MADE_BY = "sweep.json"
TELL_SECONDS = 0.5

Tell = Callable[[float], None]
"""What a run calls now and then, with the share of it that is done."""

RunPoint = Callable[[str, str, int, Mapping[str, Value], Tell], Run]
"""Runs a workload under a design with a seed and parameters. Other processes call it by name."""


class SweepError(ValueError):
    """A sweep that cannot be run; says why, and what to do."""


@dataclass(frozen=True)
class Point:
    """One run that is asked for."""

    workload: str
    design: str
    seed: int
    parameters: Mapping[str, Value]

    @property
    def key(self) -> str:
        """Names its part."""
        return run_key(self.workload, self.design, self.seed, self.parameters)

    def __str__(self) -> str:
        said = " ".join(f"{name}={value}" for name, value in self.parameters.items())
        return f"{self.workload} {self.design} seed={self.seed} {said}".rstrip()


@dataclass(frozen=True)
class Sweep:
    """What a file asks for."""

    workload: str
    designs: list[str]
    seeds: list[int]
    baseline: str | None
    parameters: Mapping[str, Value]
    grid: Mapping[str, list[Value]]

    @property
    def settings(self) -> list[dict[str, Value]]:
        """The parameters of each point of the grid."""
        return [
            {**self.parameters, **dict(zip(self.grid, values, strict=True))}
            for values in itertools.product(*self.grid.values())
        ]

    @property
    def points(self) -> list[Point]:
        """All runs: of one setting and seed all designs together, so that a part of a sweep is
        worth something."""
        return [
            Point(self.workload, design, seed, setting)
            for seed in self.seeds
            for setting in self.settings
            for design in self.designs
        ]


@dataclass(frozen=True)
class Progress:
    """How far a sweep is."""

    done: float  # of all, those of former calls too, and parts of those under way
    total: int
    skipped: int  # that were there
    seconds: float

    @property
    def left(self) -> float | None:
        """Seconds that the rest will take, if it goes on like this."""
        made = self.done - self.skipped
        return (self.total - self.done) * self.seconds / made if made else None


def made_by(costs: CostTable) -> str:
    """A hash of all that decides what a run counts, beside what is asked of it."""
    digest = hashlib.sha256(sources_digest().encode())
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    for name, cost in sorted(costs.items()):
        digest.update(f"{name} {cost.ns}".encode())
    return digest.hexdigest()


def read_sweep(path: Path) -> Sweep:
    """SweepError says what is wrong with the file."""
    try:
        said = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SweepError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SweepError(f"{path}: {error}") from error
    if unknown := set(said) - KEYS:
        raise SweepError(
            f"{path}: unknown {', '.join(sorted(unknown))} ({', '.join(sorted(KEYS))})"
        )
    designs, seeds = said.get("designs"), said.get("seeds", 1)
    if not isinstance(said.get("workload"), str):
        raise SweepError(f"{path}: say which workload: workload = NAME")
    if not isinstance(designs, list) or not designs or len(set(designs)) < len(designs):
        raise SweepError(f"{path}: designs is a list of names, each once")
    if isinstance(seeds, int) and not isinstance(seeds, bool) and seeds > 0:
        seeds = list(range(1, seeds + 1))
    if not isinstance(seeds, list) or not seeds or not all(type(each) is int for each in seeds):
        raise SweepError(f"{path}: seeds is a number of them, or a list of numbers")
    parameters, grid = said.get("parameters", {}), said.get("grid", {})
    for name, values in grid.items():
        if not isinstance(values, list) or not values:
            raise SweepError(f"{path}: [grid] {name} is a list of values")
        if name in parameters:
            raise SweepError(f"{path}: {name} is in [parameters] and in [grid]")
    for name, value in [*parameters.items(), *((key, v) for key in grid for v in grid[key])]:
        if not isinstance(value, int | float | str | bool):
            raise SweepError(f"{path}: {name} = {value!r}: a number, a text, true or false")
    return Sweep(said["workload"], designs, seeds, said.get("baseline"), parameters, grid)


class Dataset:
    """The directory of a sweep."""

    def __init__(self, directory: Path, made_by: str) -> None:
        """made_by: what decides what a run counts: sources and costs. SweepError if it was
        something else that made what is there."""
        self.directory = directory
        note = directory / MADE_BY
        try:
            directory.mkdir(parents=True, exist_ok=True)
            if not note.exists():
                if any(directory.iterdir()):
                    raise SweepError(f"{directory}: is not empty and no sweep: give another one")
                write_whole(note, json.dumps({"made_by": made_by}).encode())
            known = json.loads(note.read_text(encoding="utf-8")).get("made_by")
        except (OSError, ValueError) as error:
            raise (
                error if isinstance(error, SweepError) else SweepError(f"{note}: {error}")
            ) from error
        if known != made_by:
            raise SweepError(
                f"{directory}: its runs are of another version of the simulator, or of other "
                "costs: they do not compare; give another directory"
            )

    def has(self, point: Point) -> bool:
        """It is finished."""
        return (self.directory / "runs" / f"{point.key}.parquet").exists()

    def tables(self) -> dict[str, pl.LazyFrame]:
        """All finished runs, not read yet."""
        keys = {path.stem for path in (self.directory / "runs").glob(PART)}
        found = {}
        for name in TABLES:
            # Of a run that was stopped while it was written, other parts may be there.
            parts = sorted(p for p in (self.directory / name).glob(PART) if p.stem in keys)
            if parts:
                scans = [pl.scan_parquet(path) for path in parts]
                found[name] = pl.concat(scans, how="diagonal_relaxed")
        return found

    def runs(self, points: list[Point]) -> list[Run]:
        """Those of these points that are finished, in their order."""
        keys = [point.key for point in points if self.has(point)]
        if not keys:
            return []
        tables = {
            name: table.filter(pl.col("run").is_in(keys)).collect()
            for name, table in self.tables().items()
        }
        order = pl.DataFrame({"run": keys})
        return runs_of({**tables, "runs": order.join(tables["runs"], on="run", how="left")})


def write_part(directory: Path, key: str, run: Run) -> None:
    """The tables of one run; that of `runs` last, which says that all is there."""
    for name, table in sorted(tables_of([run], [key]).items(), key=lambda each: each[0] == "runs"):
        content = BytesIO()
        table.write_parquet(content)
        write_whole(directory / name / f"{key}.parquet", content.getvalue())


class _Worker:
    """What a process that runs points shares with its parent."""

    shares: Any = None  # of each process: how much of its run is done
    number = 0

    @classmethod
    def tell(cls, share: float) -> None:
        """How much of the run is done."""
        cls.shares[cls.number] = min(max(share, 0.0), 1.0)


def work(run_point: RunPoint, point: Point, directory: Path) -> None:
    """One run, in a process of its own."""
    _Worker.tell(0.0)
    told = _Worker.tell
    run = run_point(point.workload, point.design, point.seed, point.parameters, told)
    write_part(directory, point.key, run)
    _Worker.tell(0.0)


def prepare_worker(shares: Any, numbers: Any) -> None:
    """Ctrl-C is for the parent, which ends its workers; they end if it is killed, too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with numbers.get_lock():
        _Worker.shares, _Worker.number = shares, numbers.value
        numbers.value += 1
    parent = mp.parent_process()
    if parent is not None:
        threading.Thread(target=end_with, args=(parent.sentinel,), daemon=True).start()


def end_with(sentinel: int) -> None:
    """Wait for the parent's end, and end."""
    wait_for([sentinel])
    os._exit(1)


def sweep(
    asked: Sweep,
    dataset: Dataset,
    run_point: RunPoint,
    workers: int,
    progress: Callable[[Progress], None] = lambda _: None,
) -> None:
    """Run what is missing. What is finished stays, whatever ends this: SweepError if a run fails,
    KeyboardInterrupt."""
    points = asked.points
    missing = [point for point in points if not dataset.has(point)]
    skipped, start = len(points) - len(missing), time.monotonic()
    progress(Progress(skipped, len(points), skipped, 0.0))
    if not missing:
        return
    # Closed here and now, also by Ctrl-C: the workers end with it.
    with closing(finished(missing, dataset, run_point, workers)) as made:
        most = 0.0
        for done in made:
            most = max(most, done)
            seconds = time.monotonic() - start
            progress(Progress(skipped + most, len(points), skipped, seconds))


def finished(
    missing: list[Point], dataset: Dataset, run_point: RunPoint, workers: int
) -> Generator[float]:
    """How many of them are done, now and then. Only as many wait as keep the workers busy."""
    before = set(mp.active_children())
    count, done = min(workers, len(missing)), 0
    context = mp.get_context("spawn")
    shares = context.Array("d", count, lock=False)
    pool = ProcessPoolExecutor(count, context, prepare_worker, (shares, context.Value("i", 0)))
    todo, running = iter(missing), dict[Future[None], Point]()
    try:
        while done < len(missing):
            for point in itertools.islice(todo, 2 * count - len(running)):
                running[pool.submit(work, run_point, point, dataset.directory)] = point
            for each in wait(running, TELL_SECONDS, FIRST_COMPLETED).done:
                check(each, running.pop(each))
                done += 1
            yield min(done + sum(shares), len(missing)) if running else done
    finally:
        pool.shutdown(wait=not running, cancel_futures=True)
        for child in set(mp.active_children()) - before:
            child.terminate()


def check(done: Future[None], point: Point) -> None:
    """SweepError if it failed."""
    try:
        done.result()
    except BrokenProcessPool as error:
        raise SweepError(f"{point}: its process was killed (is there memory enough?)") from error
    except (ValueError, OSError) as error:
        raise SweepError(f"{point}: {error}") from error


def answer(dataset: Dataset, sql: str) -> pl.DataFrame:
    """What this SQL answers of all finished runs."""
    return query(dataset.tables(), sql)
