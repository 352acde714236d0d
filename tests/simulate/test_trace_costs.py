"""Costs from traces: from times of hardware only, and by spans that can be counted by hand."""

from pathlib import Path

import pytest

from mmuwitness.simulate.cost import CostTable, load_costs
from mmuwitness.simulate.meters import EXITS, START
from mmuwitness.simulate.trace_costs import (
    CHANGE_PTE,
    END,
    FAULT,
    FLUSH,
    GUP,
    LOCK,
    TraceCosts,
    TraceTimesError,
    costs_from,
)
from mmuwitness.trace.open import open_trace
from tests.trace.audited import DATA
from tests.trace.printed import Printed, trace_cmd_line

EXIT = "reason EPT_VIOLATION rip 0xffffffff81000000 info 184 0"
HALT = "reason HLT rip 0xffffffff81000000 info 0 0"
FAULTED = "address 0x0000000000200000 error_code 0x184"
SPANS = 80


def story(gap_ns: int = 100) -> list[tuple[int, str, str]]:
    """(ns, event, payload): faults of 1,000 + n ns, starts that zap or do not, ends, halts."""
    told, now = [], 1_000_000
    function = "kvm_mmu_notifier_invalidate_range"
    for number in range(SPANS):
        told += [(now, "kvm_exit", EXIT), (now + gap_ns, "kvm_page_fault", FAULTED)]
        told.append((now + 1000 + number, "kvm_entry", "vcpu 0"))
        now += 10_000
        told += [(now, "kvm_exit", HALT), (now + 500, "kvm_entry", "vcpu 0")]
        now += 10_000
        zaps = number % 2
        told.append((now, "start", f"({function}_start+0x0/0x100)"))
        told.append((now + 100, "zap", f"(x+0x0/0x100 <- kvm_unmap_gfn_range) ret={zaps}"))
        told.append(
            (
                now + (3000 if zaps else 700),
                "start_ret",
                f"(x+0x0/0x100 <- {function}_start) ret=0x0",
            )
        )
        now += 10_000
        told.append((now, "end", f"({function}_end+0x0/0x100)"))
        told.append((now + 200 + number, "end_ret", f"(x+0x0/0x100 <- {function}_end)"))
        now += 10_000
    return told


def text(told: list[tuple[int, str, str]]) -> str:
    lines = (Printed("vcpu", 10, 0, ns, event, payload) for ns, event, payload in told)
    return "".join(trace_cmd_line(each) for each in lines)


def taken(tmp_path: Path, told: list[tuple[int, str, str]], table: CostTable) -> TraceCosts:
    path = tmp_path / "made.txt"
    path.write_text(text(told))
    return costs_from(open_trace(str(path)), table)


def test_spans_by_hand(tmp_path: Path) -> None:
    table = load_costs("x86")
    found = taken(tmp_path, story(), table)
    less = table.typical(LOCK)
    # Of 80 faults of 1,000 to 1,079 ns: the quantiles lie at 0.1, 0.5 and 0.9 of the 79 between.
    faults = [1000 + 7.9, 1000 + 39.5, 1000 + 71.1]
    assert found.costs[FAULT].ns == pytest.approx([n - less - table.typical(GUP) for n in faults])
    assert found.costs[END].ns == pytest.approx([n - 800 - less for n in faults])
    assert found.costs[START].ns == pytest.approx([700 - less] * 3)
    assert found.costs[FLUSH].ns == pytest.approx([2300] * 3)
    assert found.counts == {FAULT: 80, START: 40, END: 80, FLUSH: 40}
    assert found.exits == {"EPT_VIOLATION": (80, 1039.5), "HLT": (80, 500)}


def test_says_what_it_took_and_from_how_much(tmp_path: Path) -> None:
    found = taken(tmp_path, story(), load_costs("x86"))
    assert "of 80 guests' faults" in found.costs[FAULT].source
    assert "of 40 calls of start() that zapped nothing" in found.costs[START].source
    assert not found.costs[FAULT].assumed
    assert "not taken" in found.notes[-1]


def test_the_hardware_part_of_an_exit_stays_from_the_table(tmp_path: Path) -> None:
    table = load_costs("x86")
    merged = table.with_costs(taken(tmp_path, story(), table).costs, "made.txt")
    assert merged[EXITS] == table[EXITS]
    assert merged.origin == "costs.toml, made.txt"


def test_exits_to_user_space_are_no_spans(tmp_path: Path) -> None:
    told = story()
    for number in range(SPANS):
        now = told[-1][0] + 20_000
        told += [(now, "kvm_exit", EXIT), (now + 200, "kvm_page_fault", FAULTED)]
        told.append((now + 300, "kvm_userspace_exit", "reason KVM_EXIT_MMIO (6)"))
        told.append((now + 90_000 + number, "kvm_entry", "vcpu 0"))
    assert taken(tmp_path, told, load_costs("x86")).counts[FAULT] == SPANS


def test_lost_events_end_what_was_open(tmp_path: Path) -> None:
    lines = text(story()).splitlines(keepends=True)
    at = next(n for n, line in enumerate(lines) if "kvm_page_fault" in line)
    lines.insert(at, "CPU:0 [LOST 7 EVENTS]\n")
    path = tmp_path / "lost.txt"
    path.write_text("".join(lines))
    assert costs_from(open_trace(str(path)), load_costs("x86")).counts[FAULT] == SPANS - 1


def test_few_spans_leave_the_table(tmp_path: Path) -> None:
    told = story()
    first = told[-1][0] + 10_000
    name = "kvm_mmu_notifier_change_pte"
    told.append((first, "change", f"({name}+0x0/0x100)"))
    told.append((first + 300, "change_ret", f"(x+0x0/0x100 <- {name})"))
    found = taken(tmp_path, told, load_costs("x86"))
    assert CHANGE_PTE not in found.costs
    assert any(f"{CHANGE_PTE}: only 1 calls" in note for note in found.notes)


@pytest.mark.parametrize("name", ["x86/6.1-tdp-ksm-merge.txt.xz", "arm64/scn6.1_a57.trace.xz"])
def test_refuses_emulated_time(name: str) -> None:
    with pytest.raises(TraceTimesError, match="look emulated"):
        costs_from(open_trace(str(DATA / name)), load_costs("x86"))


def test_refuses_when_it_cannot_tell(tmp_path: Path) -> None:
    with pytest.raises(TraceTimesError, match="too few events"):
        taken(tmp_path, story()[:20], load_costs("x86"))
