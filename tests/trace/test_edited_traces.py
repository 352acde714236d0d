"""A real trace that is edited must count otherwise: the counts can fail."""

import lzma
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from mmuwitness.trace.observed import ChangePteCounts, count_change_pte
from mmuwitness.trace.open import open_trace
from tests.trace.real_traces import ARM64, DATA, EFFECTS, TDP, count

Edit = Callable[[list[str]], list[str]]


def count_edited(path: Path, name: str, edit: Edit) -> ChangePteCounts:
    with lzma.open(DATA / name, "rt", encoding="utf-8") as file:
        lines = [line for line in file if not line.startswith("#")]  # their count may change
    changed = edit(lines)
    assert changed != lines
    path.write_text("".join(changed), encoding="utf-8")
    return count_change_pte(open_trace(str(path)))


def first(lines: list[str], text: str, start: int = 0) -> int:
    return next(i for i, line in enumerate(lines) if i >= start and text in line)


def replaced(event: str, old: str, new: str) -> Edit:
    """Rewrites the first line that holds both the event and the old text."""

    def edit(lines: list[str]) -> list[str]:
        i = next(i for i, line in enumerate(lines) if event in line and old in line)
        return [*lines[:i], lines[i].replace(old, new), *lines[i + 1 :]]

    return edit


def moved(before: ChangePteCounts, after: ChangePteCounts) -> dict[str, int]:
    """Which counts differ, and by how much."""
    pairs = {name: (asdict(before)[name] or 0, n or 0) for name, n in asdict(after).items()}
    return {name: new - old for name, (old, new) in pairs.items() if new != old}


@pytest.mark.parametrize(
    ("name", "edit", "differs"),
    [
        (
            TDP,
            replaced("kvm_set_spte_gfn_ret:", "ret=0", "ret=1"),
            {"changed_present": 1, "did_nothing": -1, "flushed": 1},
        ),
        (
            ARM64,
            replaced("leafset2:", "77f ptep", "7ff ptep"),
            {"installed_read_only": -1, "installed_writable": 1},
        ),
        (
            ARM64,
            replaced("leaf:", "level=3 old=0x0 mc=0x0", "level=3 old=0x7ff mc=0x0"),
            {"installed_read_only": -1, "changed_present": 1},
        ),
        (
            ARM64,
            replaced("leafset2:", "new=0x40000041e8477f", "new=0x40000041e8477e"),
            {"installed_read_only": -1, "undecided": 1},
        ),
        (
            TDP,
            replaced("kvm_change_pte:", "active=1", "active=0"),
            {"active_min": -1, "warnings": 1},
        ),
        (
            TDP,
            replaced("page_fault_user:", "page_fault_user:", "console: [ 1.0] WARNING: CPU: 0"),
            {"warnings": 1},
        ),
    ],
)
def test_edited_traces_count_otherwise(
    tmp_path: Path, name: str, edit: Edit, differs: dict[str, int]
) -> None:
    assert moved(count(name), count_edited(tmp_path / "trace", name, edit)) == differs


@pytest.mark.parametrize(
    ("spte", "effect"),
    [
        ("kvm_tdp_mmu_spte_changed: as id 0 gfn 201 level 1 old_spte 1e0ce67 new_spte 0", 0),
        ("kvm_tdp_mmu_spte_changed: as id 0 gfn 201 level 1 old_spte 0 new_spte 1e0c865", 1),
        ("kvm_mmu_set_spte: gfn 201 spte 1e0ce67 (rwxu) level 1 at 18b71000", 2),
        ("kvm_tdp_mmu_spte_changed: as id 0 gfn 201 level 1 old_spte 0 new_spte 0", 3),
    ],
)
def test_an_spte_event_inside_the_handler_counts(tmp_path: Path, spte: str, effect: int) -> None:
    def inside(lines: list[str]) -> list[str]:
        i = first(lines, "kvm_set_spte_gfn_ret:")
        prefix = lines[i].partition(" kvm_set_spte_gfn_ret:")[0]
        return [*lines[:i], f"{prefix} {spte}\n", *lines[i:]]

    def after(lines: list[str]) -> list[str]:
        i = first(lines, "kvm_set_spte_gfn_ret:")
        return [*inside(lines)[:i], lines[i], inside(lines)[i], *lines[i + 1 :]]

    path = tmp_path / "trace"
    differs = {} if effect == 3 else {EFFECTS[effect]: 1, "did_nothing": -1}
    assert moved(count(TDP), count_edited(path, TDP, inside)) == differs
    assert moved(count(TDP), count_edited(path, TDP, after)) == {}


def test_a_call_whose_end_is_not_seen_is_undecided(tmp_path: Path) -> None:
    def cut(lines: list[str]) -> list[str]:
        return lines[: first(lines, "tdp_set_spte_gfn_ret:")]

    def lose(lines: list[str]) -> list[str]:
        i = first(lines, "tdp_set_spte_gfn_ret:")
        return [*lines[:i], "CPU:1 [LOST 3 EVENTS]\n", *lines[i:]]

    cut_off = count_edited(tmp_path / "trace", TDP, cut)
    assert (cut_off.handler_calls, cut_off.undecided, cut_off.did_nothing) == (1, 1, 0)
    lost = count_edited(tmp_path / "trace", TDP, lose)
    assert moved(count(TDP), lost) == {"lost_events": 3, "did_nothing": -1, "undecided": 1}


def test_a_call_that_finds_no_window_returns_early(tmp_path: Path) -> None:
    def early(lines: list[str]) -> list[str]:
        lines = replaced("kvm_change_pte:", "inprog=1", "inprog=0")(lines)
        i = first(lines, "kvm_set_spte_gfn:")
        return [*lines[:i], *lines[first(lines, "kvm_change_pte_ret:", i) :]]

    differs = {"early_returns": 1, "without_handler": 1, "handler_calls": -1, "did_nothing": -1}
    assert moved(count(TDP), count_edited(tmp_path / "trace", TDP, early)) == differs


def test_a_missing_probe_is_no_evidence(tmp_path: Path) -> None:
    def no_handler(lines: list[str]) -> list[str]:
        return [line for line in lines if "set_spte_gfn" not in line]

    def no_x86(lines: list[str]) -> list[str]:
        return [line for line in lines if "kvm_mmu_" not in line and "kvm_tdp_mmu_spte" not in line]

    def no_return(lines: list[str]) -> list[str]:
        return [line for line in lines if "kvm_set_spte_gfn_ret:" not in line]

    # Without kvmmmu events the arch is unknown, and a return of 0 may mean anything.
    for edit in (no_handler, no_x86, no_return):
        seen = count_edited(tmp_path / "trace", TDP, edit)
        assert (seen.kvm_calls, seen.undecided, seen.without_handler) == (71, 71, 0)


def test_a_function_with_two_probes_is_counted_once(tmp_path: Path) -> None:
    def doubled(lines: list[str]) -> list[str]:
        twice = re.compile(r" ((mn_start|kvm_change_pte|kvm_set_spte_gfn)(_ret)?): ")
        pairs = ((line, twice.sub(r" f_\1: ", line)) for line in lines)
        return [line for pair in pairs for line in dict.fromkeys(pair)]

    assert moved(count(TDP), count_edited(tmp_path / "trace", TDP, doubled)) == {}
