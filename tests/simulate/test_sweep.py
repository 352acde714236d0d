"""A sweep runs what is missing, once, and keeps it, whatever ends it."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from mmuwitness.simulate.meters import EXITS
from mmuwitness.simulate.sweep import (
    Dataset,
    Progress,
    Sweep,
    SweepError,
    answer,
    read_sweep,
    sweep,
)
from mmuwitness.simulate.tables import QueryError, runs_of, tables_of
from tests.house.tree import ROOT
from tests.simulate.made_runs import COPY, run, run_point

ASKED = Sweep("made", ["old", "new"], [1, 2], None, {"guests": 7}, {"rate": [10, 20]})
TEXT = """
workload = "made"
designs = ["old", "new"]
seeds = 2
[parameters]
guests = 7
[grid]
rate = [10, 20]
"""


def written(directory: Path, text: str) -> Path:
    path = directory / "sweep.toml"
    path.write_text(text)
    return path


def test_reads_a_grid(tmp_path: Path) -> None:
    found = read_sweep(written(tmp_path, TEXT))
    assert found == ASKED
    assert [str(point) for point in found.points][:3] == [
        "made old seed=1 guests=7 rate=10",
        "made new seed=1 guests=7 rate=10",
        "made old seed=1 guests=7 rate=20",
    ]
    assert len({point.key for point in found.points}) == len(found.points) == 8


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (('workload = "made"', ""), "say which workload"),
        (('["old", "new"]', "[]"), "designs is a list"),
        (('["old", "new"]', '["old", "old"]'), "each once"),
        (("seeds = 2", "seeds = 0"), "seeds is a number"),
        (("seeds = 2", "seeds = [1.5]"), "seeds is a number"),
        (("seeds = 2", "seed = 2"), "unknown seed"),
        (("[10, 20]", "10"), "rate is a list"),
        (("[10, 20]", "[[10]]"), "a number, a text, true or false"),
        (("rate =", "guests ="), "in \\[parameters\\] and in \\[grid\\]"),
        (("guests = 7", "guests ="), "sweep.toml"),
    ],
)
def test_says_what_is_wrong(change: tuple[str, str], why: str, tmp_path: Path) -> None:
    with pytest.raises(SweepError, match=why):
        read_sweep(written(tmp_path, TEXT.replace(*change)))


def test_tables_give_the_runs_back() -> None:
    runs = [
        run("old", 1, exit=5, copy=2),
        run("new", 2, exit=9, parameters={"guests": 3, "memory": "4G"}),
        replace(run("none", 3), series={}),
    ]
    assert runs_of(tables_of(runs)) == runs


@pytest.mark.slow
def test_runs_what_is_missing_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    asked = replace(ASKED, parameters={"guests": 7, "log": str(log)})
    seen: list[Progress] = []
    dataset = Dataset(tmp_path / "made", "sources")
    sweep(asked, dataset, run_point, 2, seen.append)
    done = [each.done for each in seen]
    assert done == sorted(done)
    assert (done[0], done[-1], seen[0].left) == (0, 8, None)
    assert seen[-1].left == 0
    assert len(log.read_text().splitlines()) == 8

    sweep(asked, Dataset(tmp_path / "made", "sources"), run_point, 2, seen.append)
    assert (seen[-1].done, seen[-1].skipped) == (8, 8)
    more = replace(asked, seeds=[2, 3])
    sweep(more, dataset, run_point, 2, seen.append)
    assert len(log.read_text().splitlines()) == 12

    found = dataset.runs(asked.points)
    assert [(each.design, each.seed, each.parameters["rate"]) for each in found] == [
        (point.design, point.seed, point.parameters["rate"]) for point in asked.points
    ]
    assert all(each.counters == {EXITS: 1000 * each.seed, COPY: 7} for each in found)
    rows = answer(dataset, "SELECT design, sum(exits) AS n FROM runs GROUP BY design ORDER BY 1")
    assert rows.rows() == [("new", 12_000), ("old", 12_000)]
    with pytest.raises(QueryError, match="tables: counters, cpu, runs, series"):
        answer(dataset, "SELECT nothing FROM nowhere")


@pytest.mark.slow
def test_keeps_what_there_is_at_an_interrupt(tmp_path: Path) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.done >= 4:  # of two of them, parts perhaps
            raise KeyboardInterrupt

    dataset = Dataset(tmp_path / "made", "sources")
    with pytest.raises(KeyboardInterrupt):
        sweep(ASKED, dataset, run_point, 2, interrupt)
    kept = len(dataset.runs(ASKED.points))
    assert 2 <= kept <= 8
    seen: list[Progress] = []
    sweep(ASKED, dataset, run_point, 2, seen.append)
    assert seen[0].skipped >= kept
    assert len(dataset.runs(ASKED.points)) == 8


@pytest.mark.slow
def test_a_run_that_fails_names_itself(tmp_path: Path) -> None:
    asked = replace(ASKED, parameters={"guests": 7, "fails": "new"})
    dataset = Dataset(tmp_path / "made", "sources")
    with pytest.raises(SweepError, match=r"made new seed=1 .*: this design cannot run"):
        sweep(asked, dataset, run_point, 1)
    assert [each.design for each in dataset.runs(asked.points)][:1] == ["old"]


@pytest.mark.slow
def test_goes_on_after_a_kill(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\n"
        "from dataclasses import replace\n"
        "from mmuwitness.simulate.sweep import Dataset, sweep\n"
        "from tests.simulate.made_runs import run_point\n"
        "from tests.simulate.test_sweep import ASKED\n"
        "if __name__ == '__main__':\n"
        f"    log = {str(tmp_path / 'log')!r}\n"
        "    asked = replace(ASKED, parameters={'guests': 7, 'hours': 0.2, 'log': log})\n"
        f"    sweep(asked, Dataset(Path({str(tmp_path / 'made')!r}), 's'), run_point, 1)\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    killed = subprocess.Popen([sys.executable, script], env={**os.environ, "PYTHONPATH": path})
    parts = tmp_path / "made" / "runs"
    for _ in range(1200):
        if parts.is_dir() and len(list(parts.glob("*.parquet"))) >= 2:
            break
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    time.sleep(0.5)  # its worker ends with it
    asked = replace(ASKED, parameters={"guests": 7, "hours": 0.2, "log": str(tmp_path / "log")})
    there, lines = len(list(parts.glob("*.parquet"))), (tmp_path / "log").read_text()
    time.sleep(0.5)
    assert (tmp_path / "log").read_text() == lines
    assert 2 <= there < 8
    seen: list[Progress] = []
    sweep(asked, Dataset(tmp_path / "made", "s"), run_point, 2, seen.append)
    assert (seen[0].skipped, seen[-1].done) == (there, 8)


def test_parts_that_are_not_finished_are_not_read(tmp_path: Path) -> None:
    dataset = Dataset(tmp_path / "made", "sources")
    half = tmp_path / "made" / "counters"
    half.mkdir()
    tables_of([run("old", 1)])["counters"].write_parquet(half / "0123.parquet")
    assert dataset.tables() == {}
    assert dataset.runs(ASKED.points) == []


def test_refuses_runs_of_something_else(tmp_path: Path) -> None:
    Dataset(tmp_path / "made", "sources")
    Dataset(tmp_path / "made", "sources")
    with pytest.raises(SweepError, match="another version"):
        Dataset(tmp_path / "made", "other sources")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    with pytest.raises(SweepError, match="is not empty and no sweep"):
        Dataset(tmp_path / "full", "sources")
