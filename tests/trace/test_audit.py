"""What windows zapped, who faulted it back, who had to retry and why, and when."""

import lzma
from collections.abc import Iterator
from pathlib import Path
from random import Random

import polars as pl
import pytest

from mmuwitness.report.audit_json import audit_json
from mmuwitness.trace.audit.auditor import audit_trace
from mmuwitness.trace.audit.faults import Outcome
from mmuwitness.trace.audit.series import SAMPLES_MAX, SLOTS_MAX, Distribution, Timeline, storms
from mmuwitness.trace.causes import Cause
from mmuwitness.trace.events import Batch
from mmuwitness.trace.open import open_trace
from mmuwitness.trace.tracepoints import Kind
from tests.trace.audited import DATA, audit_of, audited
from tests.trace.test_windows import kvm_end, kvm_start, mn_end, mn_start, unmap

RETRY, FIXED = 1, 4
HVA, GFN = 0x7F0000000000, 0x200


def zap(gfn: int, pfn: int) -> str:
    return (
        f"kvm_tdp_mmu_spte_changed: as id 0 gfn {gfn:x} level 1 old_spte {pfn << 12 | 0x865:x} "
        "new_spte 0"
    )


def install(gfn: int, pfn: int) -> str:
    return f"kvm_mmu_set_spte: gfn {gfn:x} spte {pfn << 12 | 0x865:x} (rwxu) level 1 at 18adb008"


def fault(gfn: int) -> str:
    return f"kvm_page_fault: vcpu 0 rip 0x8041 address {gfn << 12:#018x} error_code 0x6"


def returned(code: int) -> str:
    return f"t: (kvm_mmu_page_fault+0x113/0x980 [kvm] <- kvm_tdp_page_fault) ret={code}"


ENTRY = "kvm_entry: vcpu 0, rip 0x8041"
MERGE = f"""
ksmd-2 100 {mn_start(HVA, HVA + 0x1000)}
ksmd-2 101 {kvm_start(HVA, HVA + 0x1000, 0xA0)}
ksmd-2 102 a: (kvm_unmap_gfn_range+0x0/0x120 [kvm]) kvm=0x1 slot=1 start={GFN:#x} end={GFN + 1:#x}
ksmd-2 103 {zap(GFN, 0x77)}
"""
MERGED = f"""
ksmd-2 500 {mn_end(HVA, HVA + 0x1000)}
ksmd-2 501 {kvm_end(HVA, HVA + 0x1000, 0xA0)}
"""


@pytest.mark.parametrize(("pfn", "same", "other"), [(0x77, 1, 0), (0x78, 0, 1)])
def test_a_refault_is_of_the_same_page_frame_or_another(
    pfn: int, same: int, other: int, tmp_path: Path
) -> None:
    back = f"""
vm-5 900 {fault(GFN)}
vm-5 910 {install(GFN, pfn)}
vm-5 920 {returned(FIXED)}
vm-5 930 {fault(GFN + 1)}
vm-5 940 {install(GFN + 1, pfn)}
vm-5 950 {returned(FIXED)}
"""
    totals = audit_of(MERGE + MERGED + back, tmp_path).totals.causes[Cause.KSM]
    assert (totals.zapped, totals.refaults) == (1, 1)
    assert (totals.refaults_same, totals.refaults_other) == (same, other)
    assert totals.refault_after.max == (910 - 103) * 1000
    assert totals.exits == 1


def test_who_else_faults_in_a_window_retries_because_of_it(tmp_path: Path) -> None:
    during = f"""
vm-5 200 {fault(GFN)}
vm-5 210 {returned(RETRY)}
vm-5 220 {fault(GFN)}
vm-5 230 {returned(RETRY)}
"""
    audit = audit_of(MERGE + during + MERGED, tmp_path)
    totals = audit.totals.causes[Cause.KSM]
    assert (totals.retries_own, totals.retries_other, totals.exits) == (0, 2, 2)
    assert audit.totals.faults == {Outcome.RETRY: 2}
    assert {vcpu.pid: vcpu.caused for vcpu in audit.totals.vcpus.values()} == {5: 2}


def test_a_window_that_ended_during_a_fault_makes_it_retry_too(tmp_path: Path) -> None:
    """Its end moved mmu_invalidate_seq."""
    text = f"{MERGE}vm-5 200 {fault(0x999)}{MERGED}vm-5 600 {returned(RETRY)}\n"
    text += f"vm-5 700 {fault(0x999)}\nvm-5 800 {returned(RETRY)}\n"
    totals = audit_of(text, tmp_path).totals
    assert totals.causes[Cause.KSM].retries_other == 1
    # Nothing in the trace explains the second one, and nobody is blamed for it.
    assert totals.causes[Cause.UNKNOWN].retries_other == 1


def test_a_fault_whose_own_task_opened_a_window_retries_because_of_that(tmp_path: Path) -> None:
    text = f"""
vm-5 200 {fault(GFN)}
vm-5 210 {mn_start(HVA, HVA + 0x1000)}
vm-5 211 {kvm_start(HVA, HVA + 0x1000, 0xA0)}
vm-5 215 r: (wp_page_copy+0x55e/0x700 <- __mmu_notifier_invalidate_range_start) ret=0
vm-5 220 {mn_end(HVA, HVA + 0x1000)}
vm-5 230 {returned(RETRY)}
"""
    totals = audit_of(MERGE + text + MERGED, tmp_path).totals.causes
    assert totals[Cause.COW_GUEST].retries_own == 1
    assert totals[Cause.KSM].retries_other == 0


@pytest.mark.parametrize(("again", "outcome"), [(GFN, Outcome.RETRY), (GFN + 9, Outcome.UNKNOWN)])
def test_without_return_codes_coming_back_tells_a_retry(
    again: int, outcome: Outcome, tmp_path: Path
) -> None:
    text = f"""
vm-5 200 {fault(GFN)}
vm-5 210 {ENTRY}
vm-5 300 {fault(again)}
vm-5 310 {install(again, 0x78)}
vm-5 320 {ENTRY}
"""
    audit = audit_of(text, tmp_path)
    assert audit.totals.faults == {outcome: 1, Outcome.FIXED: 1}
    assert audit.totals.faults_inferred == (outcome is Outcome.RETRY)


def test_a_fault_that_ends_in_user_space_is_no_retry(tmp_path: Path) -> None:
    text = f"""
vm-5 200 {fault(GFN)}
vm-5 210 tracing_mark_write: E:7 rc=-14
vm-5 290 {ENTRY}
vm-5 300 {fault(GFN)}
vm-5 310 {install(GFN, 0x78)}
vm-5 320 {ENTRY}
"""
    assert audit_of(text, tmp_path).totals.faults == {Outcome.OTHER: 1, Outcome.FIXED: 1}


def test_what_is_zapped_outside_of_windows_is_nobodys(tmp_path: Path) -> None:
    text = f"{MERGE}{MERGED}vm-5 900 {zap(GFN + 1, 0x79)}\n"
    audit = audit_of(text, tmp_path)
    assert audit.totals.zapped_elsewhere == 1
    assert audit.totals.causes[Cause.KSM].zapped == 1


def test_same_gfn_of_two_vms_are_two_pages(tmp_path: Path) -> None:
    """VM 1's page is zapped; VM 0's vCPU mapping its own page of that gfn is no refault."""
    text = f"""
vm-5 10 {fault(1)}
vm-5 11 {kvm_start(HVA, HVA + 0x1000, 0xA0)}
vm-5 12 {kvm_end(HVA, HVA + 0x1000, 0xA0)}
vm-5 13 {returned(RETRY)}
vn-6 20 {fault(1)}
vn-6 21 {kvm_start(HVA, HVA + 0x1000, 0xB0)}
vn-6 22 {kvm_end(HVA, HVA + 0x1000, 0xB0)}
vn-6 23 {returned(RETRY)}
ksmd-2 100 {kvm_start(HVA, HVA + 0x1000, 0xB0)}
ksmd-2 110 {zap(GFN, 0x77)}
ksmd-2 120 {kvm_end(HVA, HVA + 0x1000, 0xB0)}
vm-5 200 {fault(GFN)}
vm-5 210 {install(GFN, 0x78)}
vm-5 220 {returned(FIXED)}
"""
    of_the_other = f"""
vn-6 300 {fault(GFN)}
vn-6 310 {install(GFN, 0x78)}
vn-6 320 {returned(FIXED)}
"""
    assert audit_of(text, tmp_path).totals.causes[Cause.KSM].refaults == 0
    assert audit_of(text + of_the_other, tmp_path).totals.causes[Cause.KSM].refaults == 1


def test_without_spte_events_the_handlers_return_tells(tmp_path: Path) -> None:
    lines = MERGE.replace(zap(GFN, 0x77), "z: (f+0x1/0x2 [kvm] <- kvm_unmap_gfn_range) ret={}")
    for ret in (0, 1):
        totals = audit_of(lines.format(ret) + MERGED, tmp_path).totals.causes[Cause.KSM]
        assert (totals.zapped, totals.empty) == (ret, 1 - ret)
        assert totals.zapped_at_least == bool(ret)


def test_nothing_recorded_is_unknown_not_none(tmp_path: Path) -> None:
    audit = audit_of(f"vm-1 100 {unmap(0x1000, 0x2000)}\n", tmp_path)
    totals = audit.totals.causes[Cause.UNKNOWN]
    assert (totals.slot_unknown, totals.zapped_unknown, totals.empty) == (1, 1, 0)
    assert audit.emulated is None


# The real traces.


@pytest.mark.parametrize(
    "name",
    [
        "6.1-tdp-cow-break.txt",
        "6.1-shadow-cow-break.txt",
        "6.1-npt-legacy-cow-break.txt",
        "6.12-tdp-cow-break.txt",
        "6.1-stock-cow-break.dat",
        "6.12-stock-cow-break.dat",
    ],
)
def test_breaking_a_merged_page_costs_two_exits_and_one_window(name: str) -> None:
    """The first exit is a retry by the fault's own window, the second one maps the page."""
    audit = audited(f"x86/{name}.xz")
    steps = [step for step in audit.totals.steps if step.text.startswith("S:")]
    writes = [step for step in steps if "op=guest_write " in step.text]
    assert len(writes) == 16
    for step in writes:
        assert step.windows == {Cause.COW_GUEST: 1}
        assert step.faults == {Outcome.RETRY: 1, Outcome.FIXED: 1}
    totals = audit.totals.causes[Cause.COW_GUEST]
    # 8 of the 16 pages had been read again after they were merged, so their SPTEs were there.
    assert (totals.windows, totals.retries_own, totals.retries_other) == (16, 16, 0)
    assert (totals.zapped, totals.empty, totals.refaults_other) == (8, 8, 8)


@pytest.mark.parametrize(
    "name", ["6.1-tdp-ksm-merge", "6.1-shadow-ksm-merge", "6.12-tdp-ksm-merge"]
)
def test_reading_a_merged_page_costs_an_exit_on_x86(name: str) -> None:
    reads = [
        step.faults.total()
        for step in audited(f"x86/{name}.txt.xz").totals.steps
        if "op=guest_read " in step.text and "gfn=0x200 n=32" in step.text
    ]
    assert reads == [32, 0]  # the second time, all are mapped


@pytest.mark.parametrize(("name", "exits"), [("scn6.1_a57", 0), ("scn6.12_a57", 400)])
def test_reading_a_merged_page_on_arm64(name: str, exits: int) -> None:
    """6.1's change_pte() has mapped it; 6.12 has none."""
    (step,) = (s for s in audited(f"arm64/{name}.trace.xz").totals.steps if "F2 guest" in s.text)
    assert step.faults.total() == exits


def test_overlapping_windows_of_the_stress_run_make_others_retry() -> None:
    audit = audited("x86/6.1-tdp-stress-ksm.txt.xz")
    totals = audit.totals
    whole = totals.causes.values()
    own, other = sum(e.retries_own for e in whole), sum(e.retries_other for e in whole)
    assert own + other == totals.faults[Outcome.RETRY] == 4508
    # A vCPU that breaks a page's sharing makes itself retry once: 56 windows.
    assert own == totals.causes[Cause.COW_GUEST].windows == 56
    ksm = [each for cause, each in totals.causes.items() if cause.group == "KSM"]
    assert sum(each.retries_other for each in ksm) > 0.95 * other
    assert audit.storms


@pytest.mark.parametrize("name", ["x86/6.1-tdp-ksm-merge.txt.xz", "arm64/scn6.12_a57.trace.xz"])
def test_traces_of_emulated_cpus_look_emulated(name: str) -> None:
    assert audited(name).emulated is True


def test_a_trace_of_a_real_cpu_does_not(tmp_path: Path) -> None:
    lines = (f"vm-1 {100 + i} kvm_entry: vcpu 0, rip 0x{i:x}" for i in range(300))
    assert audit_of("\n".join(lines), tmp_path).emulated is False


def test_distribution_is_exact_until_it_is_sampled() -> None:
    values = Distribution()
    for value in range(1, 101):
        values.add(value)
    values.add(None)
    assert values.summary() == {"count": 100, "p50": 51, "p99": 100, "max": 100}
    for value in range(SAMPLES_MAX):
        values.add(value)
    median, most = values.at(0.5), values.max
    assert median is not None
    assert abs(median - SAMPLES_MAX / 2) < SAMPLES_MAX / 100
    assert (values.count, most) == (SAMPLES_MAX + 100, SAMPLES_MAX - 1)


def test_timeline_coarsens_and_loses_nothing() -> None:
    timeline = Timeline()
    for slot in range(SLOTS_MAX * 3):
        timeline.add(slot * 1_000_000, "window", "KSM")
    assert len(timeline.slots) <= SLOTS_MAX
    assert sum(counts.total() for counts in timeline.slots.values()) == SLOTS_MAX * 3


def test_a_burst_is_a_storm_and_a_steady_rate_is_none() -> None:
    timeline = Timeline()
    second = 1_000_000_000
    for index in range(100):
        timeline.add(index * second, "window", "munmap")
    assert storms(timeline, 0, 100 * second) == []
    for index in range(60):
        timeline.add(50 * second + index, "retry", "KSM write-protect")
    (storm,) = storms(timeline, 0, 100 * second)
    assert storm.start <= 50 * second < storm.end
    assert (storm.retries, next(iter(storm.causes))) == (60, "KSM write-protect")


class InPieces:
    """A trace whose batches are cut into pieces of so many events."""

    def __init__(self, name: str, events: int) -> None:
        self.trace, self.piece = open_trace(str(DATA / name)), events
        self.path, self.format, self.lost = name, self.trace.format, 0
        self.release = self.clock = None
        self.notes, self.losses, self.complete = [], [], True

    def batches(self) -> Iterator[Batch]:
        for batch in self.trace.batches():
            first = batch.events["row"][0]
            for begin in range(0, batch.events.height, self.piece):
                rows = pl.col("row").is_between(first + begin, first + begin + self.piece - 1)
                tables = {name: table.filter(rows) for name, table in batch.tables.items()}
                filled = {name: table for name, table in tables.items() if table.height}
                yield Batch(batch.events.filter(rows), filled)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x86/6.1-tdp-cow-break.txt.xz", "x86/6.1-stock-madvise.txt.xz"])
@pytest.mark.parametrize("events", [7, 100])
def test_batches_change_nothing(name: str, events: int) -> None:
    whole, pieces = audit_json(audited(name)), audit_json(audit_trace(InPieces(name, events)))
    for key in ("trace", "notes"):
        whole.pop(key, None)
        pieces.pop(key, None)
    assert pieces == whole


def test_what_a_memslot_change_zapped_and_the_guest_wants_back_has_a_cause(tmp_path: Path) -> None:
    text = f"""
vm-1 100 {zap(GFN, 0x77)}
vm-5 200 {fault(GFN)}
vm-5 210 {install(GFN, 0x77)}
vm-5 220 {returned(FIXED)}
"""
    totals = audit_of(MERGE + MERGED + text.replace("100", "600"), tmp_path).totals
    assert totals.causes[Cause.MEMSLOT].exits == totals.causes[Cause.MEMSLOT].zapped == 1
    assert totals.causes[Cause.KSM].exits == 0


@pytest.mark.parametrize("name", ["x86/6.1-tdp-cow-break.txt.xz", "arm64/scn6.12_a57.trace.xz"])
@pytest.mark.parametrize("seed", range(4))
def test_lines_missing_at_random_are_survived(name: str, seed: int, tmp_path: Path) -> None:
    """Nothing is certain about such a trace, but windows are never more than starts."""
    random = Random(seed)
    with lzma.open(DATA / name, "rt") as file:
        kept = [line for line in file if not line.startswith("# entries") and random.random() < 0.8]
    path = tmp_path / "holes.txt"
    path.write_text("".join(kept))
    audit = audit_trace(open_trace(str(path)))
    starts = max(audit.counts[kind] for kind in (Kind.MN_START, Kind.KVM_START, Kind.UNMAP_HVA))
    assert 0 < audit.windows <= audit.counts[Kind.MN_START] + audit.counts[Kind.UNMAP_HVA]
    assert audit.unmatched_starts + audit.unmatched_ends > 0
    assert audit.windows < 2 * starts


def test_all_faults_of_the_numa_run_are_refaults() -> None:
    """KVM's statistics of that step: 414 mapped. 64 pages had been moved, the rest was scanned."""
    audit = audited("x86/6.1-tdp-numa.txt.xz")
    (step,) = (each for each in audit.totals.steps if each.text.startswith("S:3 op=guest_spin"))
    causes = audit.totals.causes
    assert step.faults[Outcome.FIXED] == 414
    assert causes[Cause.MIGRATION].refaults == causes[Cause.MIGRATION].refaults_other == 64
    assert causes[Cause.NUMA_SCAN].refaults == 414 - 64
    # All that moved back is found in another page frame, and all else in the same.
    assert causes[Cause.NUMA_SCAN].refaults_other == 64
    assert causes[Cause.NUMA_MIGRATION].retries_own == step.faults[Outcome.RETRY] == 64


@pytest.mark.parametrize(("name", "free"), [("scn6.1_a57", 1216), ("scn6.12_a57", 0)])
def test_what_change_pte_installs_comes_back_without_an_exit(name: str, free: int) -> None:
    causes = audited(f"arm64/{name}.trace.xz").totals.causes.values()
    assert sum(each.refaults_free for each in causes) == free
