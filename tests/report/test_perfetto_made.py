"""Made traces as Perfetto shows them: slices that must nest, several VMs, what goes wrong."""

from collections import Counter
from pathlib import Path
from random import Random

import pytest

from mmuwitness.cli.export import export_trace
from mmuwitness.report import perfetto_lanes
from mmuwitness.report.perfetto import export_perfetto
from mmuwitness.trace.events import TraceError
from mmuwitness.trace.open import open_trace
from tests.report.perfetto_decoded import Decoded, decode
from tests.trace.audited import made_line
from tests.trace.test_audit import FIXED, GFN, HVA, RETRY, fault, install, zap
from tests.trace.test_windows import kvm_end, kvm_start, mn_end, mn_start, unmap

TASKS = ("vm-1", "ksmd-2", "vm-3")
HANDLER = "direct_page_fault"


def returns(code: int) -> str:
    return f"r: (kvm_tdp_page_fault+0x71/0x90 <- {HANDLER}) ret={code}"


def shown(text: str, directory: Path) -> Decoded:
    made, out = directory / "made.txt", directory / "made.pftrace"
    made.write_text("# tracer: nop\n" + "".join(map(made_line, text.splitlines())))
    export_perfetto(open_trace(str(made)), out)
    return decode(out)


def spans(decoded: Decoded) -> Counter:
    """Task, range and microseconds of each slice of a window."""
    return Counter(
        (
            decoded.track_name(each.track),
            each.details["hva start"],
            each.begin // 1000,
            (each.end or 0) // 1000,
        )
        for each in decoded.under("Windows")
    )


def test_windows_that_do_not_nest_are_on_two_tracks_of_one_name(tmp_path: Path) -> None:
    text = f"""
vm-1 100 {mn_start(0x1000, 0x2000)}
vm-1 200 {mn_start(0x3000, 0x4000)}
vm-1 300 {mn_end(0x1000, 0x2000)}
vm-1 400 {mn_end(0x3000, 0x4000)}
vm-1 500 {mn_start(0x5000, 0x9000)}
vm-1 600 {mn_start(0x6000, 0x7000)}
vm-1 700 {mn_end(0x6000, 0x7000)}
vm-1 800 {mn_end(0x5000, 0x9000)}
"""
    decoded = shown(text, tmp_path)
    first, second, third, inner = sorted(decoded.under("Windows"), key=lambda each: each.begin)
    assert [(each.begin, each.end) for each in (first, second)] == [
        (100_000, 300_000),
        (200_000, 400_000),
    ]
    assert first.track == third.track == inner.track != second.track
    assert inner.parent is third
    assert decoded.track_name(first.track) == decoded.track_name(second.track) == "vm 1"


def random_windows(random: Random) -> tuple[str, Counter]:
    """Lines of windows of a few tasks that begin and end in any order, and what they are. Several
    events have the same time, as they do where clocks are coarse."""
    lines, expected, begun, time = [], Counter(), [], 100
    for number in range(120):
        time += random.choice((0, 0, 1, 7))
        if begun and random.random() < 0.5:
            task, start, since = begun.pop(random.randrange(len(begun)))
            lines.append(f"{task} {time} {mn_end(start, start + 0x1000)}")
            expected[task.replace("-", " "), start, since, time] += 1
        else:
            task, start = random.choice(TASKS), number << 12
            begun.append((task, start, time))
            lines.append(f"{task} {time} {mn_start(start, start + 0x1000)}")
    for task, start, since in begun:
        time += 1
        lines.append(f"{task} {time} {mn_end(start, start + 0x1000)}")
        expected[task.replace("-", " "), start, since, time] += 1
    return "\n".join(lines), expected


@pytest.mark.parametrize("entries", [perfetto_lanes.ENTRIES_MAX, 1, 2, 5])
def test_random_windows_keep_their_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entries: int
) -> None:
    """However windows of a task overlap, and however early they have to be written."""
    monkeypatch.setattr(perfetto_lanes, "ENTRIES_MAX", entries)
    random = Random(7)
    for _ in range(8):
        text, expected = random_windows(random)
        assert spans(shown(text, tmp_path)) == expected


def test_a_window_whose_end_is_lost_is_an_instant(tmp_path: Path) -> None:
    text = f"""
vm-1 100 {mn_start(0x1000, 0x2000)}
vm-1 200 {mn_start(0x3000, 0x4000)}
vm-1 300 {mn_end(0x3000, 0x4000)}
"""
    decoded = shown(text, tmp_path)
    assert spans(decoded) == {("vm 1", 0x3000, 200, 300): 1}
    (cut,) = decoded.instants
    assert (cut.begin, cut.details["end"]) == (100_000, "not recorded")


def faulted(task: str, time: int, gfn: int, pfn: int) -> str:
    return f"""
{task} {time} {fault(gfn)}
{task} {time + 1} {install(gfn, pfn)}
{task} {time + 2} {returns(FIXED)}"""


def invalidated(task: str, time: int, vm: int, gfn: int, pfn: int) -> str:
    hva = HVA + vm * 0x10000000
    return f"""
{task} {time} {mn_start(hva, hva + 0x1000)}
{task} {time + 1} {kvm_start(hva, hva + 0x1000, vm)}
{task} {time + 2} {unmap(hva, hva + 0x1000)}
{task} {time + 3} {zap(gfn, pfn)}
{task} {time + 4} {kvm_end(hva, hva + 0x1000, vm)}
{task} {time + 5} {mn_end(hva, hva + 0x1000)}"""


def own_break(task: str, time: int, vm: int, gfn: int, pfn: int) -> str:
    """A fault whose own window tells whose vCPU it is, and the fault after it."""
    window = invalidated(task, time + 1, vm, gfn, pfn)
    return f"""
{task} {time} {fault(gfn)}{window}
{task} {time + 8} {returns(RETRY)}{faulted(task, time + 9, gfn, pfn + 1)}"""


def test_an_arrow_stays_within_its_vm(tmp_path: Path) -> None:
    """Two VMs, the same gfn: each refault is that of the zap in its own VM."""
    first, second = 0xFF01, 0xFF02
    text = own_break("vm-1", 100, first, GFN, 0x11) + own_break("vm-3", 200, second, GFN, 0x22)
    text += invalidated("ksmd-2", 300, first, GFN, 0x12)
    text += invalidated("ksmd-2", 400, second, GFN, 0x23)
    text += faulted("vm-3", 500, GFN, 0x24) + faulted("vm-1", 600, GFN, 0x13)
    decoded = shown(text, tmp_path)
    arrows = {
        (zap.begin // 1000, back.begin // 1000): (zap.details["VM"], decoded.group(back.track))
        for zap, back in decoded.arrows
    }
    assert arrows == {
        (104, 109): (0, "VM 0"),
        (204, 209): (1, "VM 1"),
        (303, 600): (0, "VM 0"),
        (403, 500): (1, "VM 1"),
    }
    (about,) = decoded.under("About this trace")
    assert about.details["VMs"] == [f"0: {first:#x}", f"1: {second:#x}"]


def test_an_arrow_into_a_fault_that_was_already_going_on(tmp_path: Path) -> None:
    """Perfetto drops an arrow that would end before it starts: this one ends at the fault's end.
    Zap and end have the same time: the arrow's start must be written first."""
    hva = HVA
    going_on = f"""{faulted("vm-1", 50, GFN, 0x11)}
vm-1 90 {fault(GFN)}
ksmd-2 100 {mn_start(hva, hva + 0x1000)}
ksmd-2 100 {zap(GFN, 0x11)}
vm-1 100 {install(GFN, 0x12)}
vm-1 100 {returns(FIXED)}
ksmd-2 900 {mn_end(hva, hva + 0x1000)}
"""
    decoded = shown(going_on, tmp_path)
    ((zapped, back),) = decoded.arrows
    assert (zapped.begin, back.begin, back.end) == (100_000, 90_000, 100_000)
    assert zapped.parent.end == 900_000


def test_an_arrow_to_a_prefetch(tmp_path: Path) -> None:
    """A page that comes back with another's fault: the arrow leads to where that was seen."""
    text = (
        invalidated("ksmd-2", 100, 0xFF01, GFN, 0x11)
        + f"""
vm-1 200 {fault(GFN + 1)}
vm-1 201 {install(GFN + 1, 0x22)}
vm-1 202 {install(GFN, 0x12)}
vm-1 203 {returns(FIXED)}
"""
    )
    ((zapped, back),) = shown(text, tmp_path).arrows
    assert (zapped.begin, back.begin, back.name) == (103_000, 202_000, "mapped again")
    assert back.details["by"] == "prefetch, or another fault"


def test_lost_events_are_shown_where_they_are_missing(tmp_path: Path) -> None:
    text = f"""
vm-1 100 {mn_start(0x1000, 0x2000)}
vm-1 200 {mn_end(0x1000, 0x2000)}
"""
    made, out = tmp_path / "made.txt", tmp_path / "made.pftrace"
    lines = [made_line(line) for line in text.splitlines()]
    made.write_text("# tracer: nop\n" + "CPU:0 [LOST 5 EVENTS]\n".join(filter(None, lines)))
    done = export_perfetto(open_trace(str(made)), out)
    decoded = decode(out)
    assert not done.complete
    assert not spans(decoded)  # its end may be that of a later window of this range
    (lost,) = [each for each in decoded.instants if decoded.group(each.track) == "Events lost"]
    assert (lost.begin, lost.name) == (200_000, "events lost: 5, CPU 0")
    (about,) = decoded.under("About this trace")
    assert about.details["complete"] is False
    assert about.details["events lost"] == 5


def test_faults_whose_ends_are_not_recorded_are_instants(tmp_path: Path) -> None:
    text = f"""
vm-1 100 {fault(GFN)}
vm-1 200 {fault(GFN + 1)}
vm-1 201 {install(GFN + 1, 0x12)}
vm-1 300 {fault(GFN + 2)}
vm-1 301 {install(GFN + 2, 0x13)}
vm-1 302 {returns(FIXED)}
"""
    decoded = shown(text, tmp_path)
    instants = [(each.begin // 1000, each.name) for each in decoded.instants]
    assert instants == [(100, "fault, unknown"), (200, "fault, mapped")]
    (whole,) = decoded.under("VM 0")
    assert (whole.begin, whole.end) == (300_000, 302_000)


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    bad, out = tmp_path / "bad.txt", tmp_path / "bad.pftrace"
    bad.write_bytes(b"\x7fELF" + bytes(100))
    with pytest.raises(TraceError, match="ELF"):
        export_trace(str(bad), out)
    assert not out.exists()
    made = tmp_path / "made.txt"
    made.write_text(made_line(f"vm-1 100 {mn_start(0, 0x1000)}"))
    with pytest.raises(ValueError, match="is the trace itself"):
        export_trace(str(made), made)
    assert "mmu_notifier" in made.read_text()
    with pytest.raises(ValueError, match="cannot be written"):
        export_trace(str(made), tmp_path / "no" / "such" / "directory")


def test_the_verb_says_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    made, out = tmp_path / "made.txt", tmp_path / "made.pftrace"
    text = invalidated("ksmd-2", 100, 0xFF01, GFN, 0x11) + faulted("vm-1", 200, GFN, 0x12)
    made.write_text("# tracer: nop\n" + "".join(map(made_line, text.splitlines())))
    out.write_text("an older file")
    export_trace(str(made), out)
    said = capsys.readouterr().out
    assert said.startswith(f"{out}: 1 windows, 1 faults, 1 arrows")
    assert "ui.perfetto.dev" in said
    assert len(decode(out).arrows) == 1
