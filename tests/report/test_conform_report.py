"""What `conform` prints, and how it ends, on real traces and on edited copies of them."""

from __future__ import annotations

import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

from mmuwitness.cli import main

DATA = Path(__file__).parents[1] / "data"
TDP = "x86/6.1-tdp-cow-break.txt.xz"
Conform = Callable[..., tuple[int, str, str]]
Edit = Callable[[list[str]], list[str]]


@pytest.fixture
def conform(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Conform:
    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["mmuwitness", "conform", *arguments])
        with pytest.raises(SystemExit) as done:
            main()
        code = done.value.code
        assert isinstance(code, int)
        return code, *capsys.readouterr()

    return run


def lines_of(name: str) -> list[str]:
    """The text of a trace without the line that promises how many events there are."""
    text = lzma.decompress((DATA / name).read_bytes()).decode()
    return [line for line in text.splitlines(keepends=True) if "entries-in-buffer" not in line]


def index(lines: list[str], *texts: str, start: int = 0) -> int:
    return next(
        i for i, line in enumerate(lines) if i >= start and all(text in line for text in texts)
    )


def write(path: Path, lines: list[str]) -> str:
    path.write_text("".join(lines), encoding="utf-8")
    return str(path)


def answer(out: str) -> str:
    """The first paragraph, on one line."""
    return " ".join(out.partition("\n\n")[0].split())


def test_a_trace_that_obeys(conform: Conform) -> None:
    code, out, err = conform(str(DATA / TDP))
    assert (code, err) == (0, "")
    said = "conforms: 18 of 18 rules checked on 3,753 events, and every task is a path of the model"
    assert said in answer(out)
    assert "not modelled yet" not in out
    assert max(map(len, out.splitlines())) <= 100


def end_removed(lines: list[str]) -> tuple[list[str], int, str]:
    i = index(lines, " kvm_end:", start=1500)
    return [*lines[:i], *lines[i + 1 :]], i + 1, "calls_return"


def pfn_altered(lines: list[str]) -> tuple[list[str], int, str]:
    i = index(lines, " kvm_mmu_spte_requested:", start=500)
    head, _, tail = lines[i].partition(" pfn ")
    changed = f"{head} pfn 1{tail}"
    return [*lines[:i], changed, *lines[i + 1 :]], i + 1, "pfn_looked_up"


def zap_dropped(lines: list[str]) -> tuple[list[str], int, str]:
    i = index(lines, " kvm_tdp_mmu_spte_changed:", "new_spte 0\n", start=1500)
    return [*lines[:i], *lines[i + 1 :]], i + 1, "unmap_tells"


def change_pte_moved(lines: list[str]) -> tuple[list[str], int, str]:
    first = index(lines, " mn_change_pte:", start=1500)
    last = index(lines, " mn_change_pte_ret:", start=first)
    behind = index(lines, " mn_end_ret:", start=last)
    moved = lines[first : last + 1]
    rest = [*lines[:first], *lines[last + 1 : behind + 1], *moved, *lines[behind + 1 :]]
    return rest, first + behind - last + 1, "change_pte_in_window"


@pytest.mark.slow
@pytest.mark.parametrize("edit", [end_removed, pfn_altered, zap_dropped, change_pte_moved])
def test_an_edited_copy_is_rejected_at_its_line(
    conform: Conform, tmp_path: Path, edit: Callable[[list[str]], tuple[list[str], int, str]]
) -> None:
    edited, line, rule = edit(lines_of(TDP))
    path = write(tmp_path / "trace.txt", edited)
    code, out, _ = conform(path)
    place, _, said = answer(out).removeprefix(f"{path}:").partition(": ")
    assert code == 1 and f"departs from the rule {rule}" in said
    assert abs(int(place) - line) <= 3
    marked = next(shown for shown in out.splitlines() if shown.startswith("> "))
    assert f"{int(place):,}" in marked
    assert max(map(len, out.replace(str(path), "trace.txt").splitlines())) <= 100

    code, out, _ = conform(path, "--json")
    told = json.loads(out)
    assert (code, told["exit"], told["departures"][0]["rule"]) == (1, 1, rule)
    at = next(each for each in told["around"] if each["place"] == int(place))
    assert told["departures"][0]["event"] == at["row"] + 1


def lose(lines: list[str]) -> list[str]:
    """The recorder dropped a whole window's end."""
    i = index(lines, " mn_end:", start=1500)
    last = index(lines, " mn_end_ret:", start=i)
    return [*lines[:i], "CPU:0 [LOST 6 EVENTS]\n", *lines[last + 1 :]]


def cut(lines: list[str]) -> list[str]:
    return [*lines[:2000], lines[2000][:40]]


@pytest.mark.parametrize("edit", [lose, cut])
def test_an_incomplete_trace_is_not_called_conforming(
    conform: Conform, tmp_path: Path, edit: Edit
) -> None:
    code, out, err = conform(write(tmp_path / "trace.txt", edit(lines_of(TDP))))
    assert (code, err) == (3, "")
    assert "incomplete" in out and "cannot be called conforming" in out
    assert "no departure in what is there" in " ".join(out.split())


def test_a_departure_in_an_incomplete_trace_is_one(conform: Conform, tmp_path: Path) -> None:
    edited, _, rule = pfn_altered(lines_of(TDP))
    code, out, _ = conform(write(tmp_path / "trace.txt", cut(edited)))
    assert code == 1 and rule in answer(out)


def test_a_trace_that_tells_nothing_is_inconclusive(conform: Conform, tmp_path: Path) -> None:
    line = "   ksmd-33  [000] .....     8.500529: sched_switch: prev_comm=ksmd\n"
    code, out, _ = conform(write(tmp_path / "trace.txt", [line]))
    assert code == 3 and "nothing that a rule speaks of was recorded" in answer(out)


def test_bad_input_is_a_message(conform: Conform, tmp_path: Path) -> None:
    for path in (str(tmp_path / "absent"), write(tmp_path / "text", ["no trace\n"] * 200)):
        code, out, err = conform(path)
        assert (code, out) == (2, "") and err.startswith("mmuwitness: ")
        assert "Traceback" not in err


def test_what_to_record_is_said(conform: Conform) -> None:
    code, out, _ = conform(str(DATA / "x86/6.1-stock-ksm-merge.txt.xz"))
    assert code == 0 and "a probe on __mmu_notifier_invalidate_range_end" in out
    code, out, _ = conform(str(DATA / "arm64/scn6.1_a57.trace.xz"))
    assert code == 0 and "kvmmmu" not in out
    assert "every task is a path of the model" in answer(out)
    assert "access outside of every memslot (MMIO)" in out and "not modelled yet" not in out
