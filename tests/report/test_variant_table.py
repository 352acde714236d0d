"""`check --variant` and `replay --variant`: what they print, and how they exit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.test_cli import HOLDS, INCONCLUSIVE, USAGE, VIOLATED, run_words

BROKEN = "def mmu_invalidate_retry(kvm, mmu_seq):\n    return False\n"
EQUAL = 'FEATURES = ("+change_pte_bracketed",)\n'
UPROBES = "from mmuwitness.model.mm.uprobes import *\n\n\ndef uprobe_register(mm):\n    pass\n"
ON_ARM64 = ("--arch", "arm64", "--era", "v6.1")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my change.py"
    path.write_text(BROKEN)
    return path


def test_one_scenario_is_drawn_and_replayed(file: Path) -> None:
    done = run_words("check", "dontneed_one", "--variant", str(file), *ON_ARM64)
    assert done.code == VIOLATED
    row = next(line for line in done.lines if line.startswith("dontneed_one "))
    assert row.split("  ")[-1].strip() == "violates coherent"
    assert "  coherent: holds -> violated" in done.lines
    command = next(line for line in done.lines if line.startswith("Replay: "))
    schedule, option, path = command.removeprefix("Replay: mmuwitness replay ").split(" ", 2)
    assert (option, path) == ("--variant", f"'{file}'")
    again = run_words("replay", schedule, "--variant", str(file))
    assert again.code == HOLDS
    assert again.lines[-1] == command
    without = run_words("replay", schedule)
    assert (without.code, "add --variant FILE" in without.message) == (USAGE, True)


def test_without_a_scenario_those_that_touch_it_are_asked(tmp_path: Path) -> None:
    path = tmp_path / "no_uprobes.py"
    path.write_text("def is_register():\n    pass\n" + UPROBES)
    refused = run_words("check", "--variant", str(path), *ON_ARM64)
    assert refused.code == USAGE
    assert "no_uprobes.py:1: the model has no function is_register()" in refused.message
    path.write_text(UPROBES)
    done = run_words("check", "--variant", str(path), *ON_ARM64)
    assert done.code == HOLDS, done.err
    asked = [line.split(":")[0].strip() for line in done.lines if ": complete: " in line]
    assert asked == ["uprobe", "unmerge_uprobe", "uprobe_one"]
    assert max(len(line) for line in done.lines) <= 100


def test_what_runs_nowhere_says_so(tmp_path: Path) -> None:
    path = tmp_path / "equal.py"
    path.write_text(EQUAL)
    done = run_words("check", "--variant", str(path), *ON_ARM64)
    assert done.code == HOLDS
    assert "scenarios runs what it changes" in " ".join(done.out.split())
    assert "Bounds" not in done.out and "change_pte_bracketed" in done.out


def test_a_search_that_ends_early_decides_nothing(file: Path) -> None:
    file.write_text(EQUAL)
    limits = ("--memory", "1", "--claim", "no_lost_write")
    done = run_words("check", "cow", "--variant", str(file), *ON_ARM64, *limits)
    assert done.code == INCONCLUSIVE
    assert "INCONCLUSIVE" in done.out.split("scenario ")[0] and "NOT COMPLETE" in done.out


def test_machine_output_has_both_sides(file: Path) -> None:
    done = run_words("check", "dontneed_one", "--variant", str(file), *ON_ARM64, "--json")
    assert done.code == VIOLATED
    read = json.loads(done.out)
    only = read["scenarios"][0]
    sides = {side: only[side]["claims"]["coherent"] for side in ("unchanged", "changed")}
    assert sides == {"unchanged": "holds", "changed": "violated"}
    assert only["touched"] == ["kvm.kvm_main.mmu_invalidate_retry"]
    assert only["changed"]["witnesses"]["coherent"].startswith("dontneed_one+my_change.")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("kms",), "unknown scenario 'kms'"),
        (("ksm", "--arch", "s390", "--era", "v6.1"), "s390 has no MMU notifier in v6.1's KVM"),
        (("ksm", "--steps", "some"), "there are merged, every"),
        (("ksm", "--junit", "out.xml"), "--junit is for one scenario"),
    ],
)
def test_bad_questions(file: Path, words: tuple[str, ...], said: str) -> None:
    done = run_words("check", *words, "--variant", str(file))
    assert (done.code, said in done.message) == (USAGE, True), done.message
