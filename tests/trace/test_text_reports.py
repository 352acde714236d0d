"""One run, printed by the kernel and by trace-cmd in three ways: all give the same rows."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from mmuwitness.trace.open import open_trace
from tests.trace.printed import rows

DATA = Path(__file__).parents[1] / "data/x86"
RUN = "6.12-stock-cow-break"


@cache
def read_run(name: str) -> tuple[str, list[dict[str, Any]]]:
    trace = open_trace(str(DATA / f"{RUN}{name}.txt.xz"))
    found = rows(trace)
    assert (trace.lost, trace.complete) == (0, True)
    return trace.format, found


def who(found: list[dict[str, Any]], task_chars: int = 16) -> list[tuple[object, ...]]:
    return [(row["cpu"], row["task"][:task_chars], row["pid"], row["event"]) for row in found]


@pytest.mark.parametrize(("name", "task_chars"), [(".report", 16), (".report-latency", 8)])
def test_reports_hold_what_the_kernel_printed(name: str, task_chars: int) -> None:
    (kind, kernel), (other, report) = read_run(""), read_run(name)
    assert (kind, other) == ("ftrace text", "trace-cmd report")
    assert who(kernel, task_chars) == who(report)
    assert [row["stack"] for row in kernel] == [row["stack"] for row in report]
    for ours, theirs in zip(kernel, report, strict=True):
        assert abs(ours["time"] - theirs["time"]) <= 1000  # one cuts, the other rounds
        if "text" not in theirs["fields"]:  # trace-cmd's own way to print it
            common = ours["fields"].keys() & theirs["fields"].keys() - {"exit_reason"}
            assert {key: ours["fields"][key] for key in common} == {
                key: theirs["fields"][key] for key in common
            }
    compared = sum(bool(row["fields"]) and "text" not in row["fields"] for row in report)
    assert compared > 700


def test_raw_reports_hold_the_same_numbers() -> None:
    """Stack traces cannot be read from them: they print some of their bytes."""
    _, kernel = read_run("")
    _, raw = read_run(".report-raw")
    stacks = [row for row in raw if row["event"] == "kernel_stack"]
    assert len(stacks) == sum(row["stack"] is not None for row in kernel) == 87
    events = [row for row in raw if row["event"] != "kernel_stack"]
    assert who(kernel) == who(events)
    for event, named in {
        "kvm_page_fault": 94,
        "kvm_tdp_mmu_spte_changed": 164,
        "kvm_mmu_set_spte": 78,
        "kvm_unmap_hva_range": 87,
        "sys_exit_madvise": 3,
    }.items():
        pairs = [(a, b) for a, b in zip(kernel, events, strict=True) if a["event"] == event]
        assert len(pairs) == named
        assert all(a["fields"].items() <= b["fields"].items() for a, b in pairs)
