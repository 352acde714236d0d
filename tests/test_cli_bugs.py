"""The verb `bugs`, and `check --bug`."""

from __future__ import annotations

import json

import pytest

from mmuwitness.explore.bugs import Hunt
from tests.test_cli import HOLDS, USAGE, VIOLATED, run


def test_bugs_prints_the_ones_that_are_named() -> None:
    done = run("bugs h5 P1")
    assert done.code == HOLDS
    assert done.lines[0].startswith("2 of 2 bugs are found.")
    assert [line.split()[0] for line in done.lines if line.endswith("all hold")] == ["H5", "P1"]


def test_bugs_as_json() -> None:
    found = json.loads(run("bugs H5 --json").out)["bugs"]
    assert [row["id"] for row in found] == ["H5"] and found[0]["found"]


def test_a_bug_that_is_missed_is_an_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hunt, "found", False)
    assert run("bugs H5").code == VIOLATED


def test_check_of_a_bug_draws_the_timeline_of_its_claim() -> None:
    done = run("check --bug h5")
    assert done.code == VIOLATED
    assert done.lines[0] == "H5 on x86-tdp, v5.12 -nonblock_start_paired: violates windows_balanced"
    replayed = [line for line in done.lines if line.startswith("Replay: mmuwitness ")]
    assert len(replayed) == 1
    again = run(replayed[0].removeprefix("Replay: mmuwitness "))
    assert again.code == HOLDS and "H5 on x86-tdp" in again.lines[0]
    assert run("check --bug H5 --claim I4").code == HOLDS


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("check --bug H77", "unknown bug 'H77': did you mean H7"),
        ("bugs H77", "unknown bug 'H77'"),
        ("check --bug H5 --arch arm64", "of its own: leave --arch out"),
        ("check ksm --bug H5", "leave SCENARIO out"),
        ("check --bug H5 --era v6.1", "leave --era out"),
        ("check --bug H5 --feature -ksm", "leave --feature out"),
        ("check", "name a scenario (`list scenarios`), a --bug or a --variant"),
    ],
)
def test_wrong_usage(line: str, says: str) -> None:
    done = run(line)
    assert done.code == USAGE and says in " ".join(done.err.split())
