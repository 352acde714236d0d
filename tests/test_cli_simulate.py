"""The verbs `simulate` and `sweep`, with runs made by hand in place of the engine's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from mmuwitness.cli.simulate import parameters, seed_list
from mmuwitness.simulate import designs, runner, simulator, sweep, workloads
from tests.simulate import made_runner
from tests.simulate.test_trace_costs import story, text
from tests.test_cli import run_words as run_cli
from tests.trace.audited import DATA

SWEEP = 'workload = "made"\ndesigns = ["wrapped", "ksm-only"]\nseeds = 2\n[grid]\nguests = [2, 4]\n'


@pytest.fixture(autouse=True)
def made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workloads, "WORKLOADS", made_runner.WORKLOADS)
    monkeypatch.setattr(designs, "DESIGNS", made_runner.DESIGNS)
    monkeypatch.setattr(simulator, "resolved", made_runner.resolved)
    monkeypatch.setattr(runner, "Runner", made_runner.MadeRunner)


def test_parameters_are_read_as_toml_reads_them() -> None:
    said = ["--guests", "40", "--memory=4G", "--hot-touches", "0.5", "smart_scan=true", "n=-1"]
    assert parameters(said) == {
        "guests": 40,
        "memory": "4G",
        "hot_touches": 0.5,
        "smart_scan": True,
        "n": -1,
    }


def test_seeds() -> None:
    assert seed_list("3") == [1, 2, 3]
    assert seed_list("7,9") == [7, 9]
    assert seed_list("7,") == [7]


def test_lists_what_there_is() -> None:
    done = run_cli("simulate")
    assert done.code == 0
    assert "  made: made by hand" in done.lines
    assert "    --guests 2  guests on the machine" in done.lines
    assert "  ksm-only: a design" in done.lines


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (("none",), "made"),
        (("made", "--designs", "none"), "none"),
        (("made", "--designs", "wrapped,wrapped"), "each only once"),
        (("made", "--seeds", "0"), "how many (3), or which ones (3,7)"),
        (("made", "--seeds", "3,3"), "how many (3), or which ones (3,7)"),
        (("made", "--guests"), "say --NAME VALUE"),
        (("made", "--guest", "3"), "no parameter 'guest'"),
        (("made", "--arch", "z80"), "z80"),
        (("made", "--costs", "no.toml"), "No such file"),
        (("made", "--costs-from", str(DATA / "x86/6.1-tdp-ksm-merge.txt.xz")), "look emulated"),
    ],
)
def test_wrong_usage_is_one_message(said: tuple[str, ...], why: str, tmp_path: Path) -> None:
    done = run_cli("simulate", *said)
    assert (done.code, done.out) == (2, "")
    assert why in done.message


@pytest.mark.slow
def test_simulates_designs_beside_doing_nothing(tmp_path: Path) -> None:
    done = run_cli(
        *("simulate", "made", "--designs", "wrapped,ksm-only", "--seeds", "2", "--guests", "4"),
        *("--plot", str(tmp_path / "plots"), "--parquet", str(tmp_path / "tables")),
    )
    assert done.code == 0, done.err
    assert done.out.startswith("ksm-only saves 1.02 exits per merged page that is read again")
    assert "Beside doing nothing" in done.out
    assert "made: guests 4." in done.out
    assert len(list((tmp_path / "plots").glob("*.png"))) == 3
    table = pl.read_parquet(tmp_path / "tables" / "runs.parquet")
    assert sorted(zip(table["design"], table["seed"], strict=True)) == [
        (design, seed) for design in ("ksm-only", "nothing", "wrapped") for seed in (1, 2)
    ]
    assert set(table["p_guests"]) == {4}


@pytest.mark.slow
def test_costs_of_the_user_move_the_answer(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    entry = 'name = "mm.gup.get_user_page_fast_only"\nwhat = "GUP"\nsource = "measured"\n'
    path.write_text(f"[[cost]]\n{entry}ns = [1, 10, 20]\n")
    said = ("--designs", "wrapped,ksm-only", "--seeds", "1", "--costs", str(path), "--json")
    found = json.loads(run_cli("simulate", "made", *said).out)
    # 40,000 walks of 10 ns against 2,040 exits.
    assert found["comparisons"][0]["break_even"]["exit_ns"] == pytest.approx(400_000 / 2040)


@pytest.mark.slow
def test_costs_of_a_trace_are_taken_and_told(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text(text(story()))
    said = ("--designs", "wrapped,ksm-only", "--seeds", "1", "--costs-from", str(path))
    done = run_cli("simulate", "made", *said)
    assert done.code == 0, done.err
    assert max(map(len, done.lines)) <= 72
    words = " ".join(done.out.split())
    assert "Taken from the trace: handle_guest_fault 900 ns" in words
    assert "EPT_VIOLATION 80 x 1,040 ns, HLT 80 x 500 ns" in words
    assert "Costs: costs.toml, mine.txt;" in words


@pytest.mark.slow
def test_an_interrupt_keeps_whole_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    run_sweep = sweep.sweep

    def interrupted(asked: Any, dataset: Any, runner: Any, *more: Any) -> None:
        run_sweep(replace(asked, seeds=[2]), dataset, runner, *more)
        run_sweep(replace(asked, seeds=[1], designs=["wrapped"]), dataset, runner, *more)
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep, "sweep", interrupted)
    done = run_cli("simulate", "made", "--designs", "wrapped,ksm-only")
    assert done.code == 3
    assert "INTERRUPTED" in done.out
    assert "seeds 2." in " ".join(done.out.split())


def test_an_interrupt_with_nothing_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep, "sweep", interrupted)
    done = run_cli("simulate", "made", "--designs", "wrapped,ksm-only")
    assert (done.code, done.out) == (3, "interrupted before every design had finished one seed\n")


@pytest.mark.slow
def test_sweeps_a_grid_and_answers(tmp_path: Path) -> None:
    path = tmp_path / "grid.toml"
    path.write_text(SWEEP)
    done = run_cli("sweep", str(path))
    assert done.code == 0, done.err
    assert max(map(len, done.lines)) <= 72
    assert [line for line in done.lines if line.startswith("guests")] == ["guests 2", "guests 4"]
    rows = [line.split() for line in done.lines if line.startswith("ksm-only")]
    assert [row[1] for row in rows] == ["-2,040", "-4,080"]
    assert all(row[-3:] == ["above", "1,961", "ns"] for row in rows)
    asked = "SELECT count(*) AS n FROM runs WHERE p_guests = 4"
    assert run_cli("sweep", str(path), "--sql", asked).lines[-1].strip() == "4"
    found = json.loads(run_cli("sweep", str(path), "--json").out)
    assert [each["missing"] for each in found["settings"]] == [0, 0]
    other = run_cli("sweep", str(path), "--arch", "arm64")
    assert other.code == 2
    assert "another version" in other.message
