"""Starts and ends are paired per task and range; what is not recorded stays unknown."""

from pathlib import Path

import pytest

from mmuwitness.trace.audit.auditor import audit_trace
from mmuwitness.trace.causes import Cause, Confidence
from mmuwitness.trace.open import open_trace
from tests.trace.audited import audit_of, made_line, windows_of

MN = "__mmu_notifier_invalidate_range"
KVM = "kvm_mmu_notifier_invalidate_range"


def mn_start(start: int, end: int) -> str:
    return f"a: ({MN}_start+0x0/0x190) mm=0x1 start={start:#x} end={end:#x} event=1"


def mn_end(start: int, end: int) -> str:
    return f"b: ({MN}_end+0x0/0xd0) mm=0x1 start={start:#x} end={end:#x} event=1"


def kvm_start(start: int, end: int, vm: int) -> str:
    return f"c: ({KVM}_start+0x0/0x360 [kvm]) mn={vm:#x} start={start:#x} end={end:#x}"


def kvm_end(start: int, end: int, vm: int) -> str:
    return f"d: ({KVM}_end+0x0/0x180 [kvm]) mn={vm:#x} start={start:#x} end={end:#x}"


def unmap(start: int, end: int) -> str:
    return f"kvm_unmap_hva_range: mmu notifier unmap range: {start:#018x} -- {end:#018x}"


def returns(caller: str) -> str:
    return f"e: ({caller}+0x169/0x180 <- {MN}_start) ret=0"


def durations(audit) -> dict:
    return {cause: totals.duration.summary() for cause, totals in audit.totals.causes.items()}


def test_nested_windows_end_innermost_first(tmp_path: Path) -> None:
    text = f"""
vm-1 100 {mn_start(0x1000, 0x9000)}
vm-1 110 {returns("unmap_vmas")}
vm-1 200 {mn_start(0x2000, 0x3000)}
vm-1 210 {returns("__split_huge_pmd")}
vm-1 300 {mn_end(0x2000, 0x3000)}
vm-1 500 {mn_end(0x1000, 0x9000)}
"""
    found = durations(audit_of(text, tmp_path))
    assert found[Cause.THP_SPLIT]["max"] == 100_000
    assert found[Cause.MUNMAP]["max"] == 400_000


def test_overlapping_windows_of_tasks_and_of_ranges(tmp_path: Path) -> None:
    """Two tasks, the same range; then one task whose windows do not nest."""
    text = f"""
ksmd-2 100 {mn_start(0x1000, 0x2000)}
vm-1 150 {mn_start(0x1000, 0x2000)}
ksmd-2 180 {mn_end(0x1000, 0x2000)}
vm-1 400 {mn_end(0x1000, 0x2000)}
vm-1 500 {mn_start(0x3000, 0x4000)}
vm-1 510 {mn_start(0x5000, 0x6000)}
vm-1 540 {mn_end(0x3000, 0x4000)}
vm-1 600 {mn_end(0x5000, 0x6000)}
"""
    audit = audit_of(text, tmp_path)
    found = durations(audit)
    assert found[Cause.KSM] == {"count": 1, "p50": 80_000, "p99": 80_000, "max": 80_000}
    assert found[Cause.UNKNOWN] == {"count": 3, "p50": 90_000, "p99": 250_000, "max": 250_000}
    assert audit.totals.causes[Cause.UNKNOWN].overlapped == 2
    assert audit.totals.causes[Cause.KSM].overlapped == 0
    assert (audit.unmatched_starts, audit.unmatched_ends) == (0, 0)


def test_layers_are_one_window_and_two_vms_are_both_in_it(tmp_path: Path) -> None:
    both = "\n".join(
        f"vm-1 {time} {line}"
        for time, line in enumerate(
            (
                mn_start(0x1000, 0x2000),
                kvm_start(0x1000, 0x2000, 0xA0),
                unmap(0x1000, 0x2000),
                kvm_start(0x1000, 0x2000, 0xB0),
                unmap(0x1000, 0x2000),
                mn_end(0x1000, 0x2000),
                kvm_end(0x1000, 0x2000, 0xA0),
                kvm_end(0x1000, 0x2000, 0xB0),
            ),
            100,
        )
    )
    audit = audit_of(both, tmp_path)
    assert audit.windows == 1
    assert audit.vms == {0: 0xA0, 1: 0xB0}
    assert (audit.unmatched_starts, audit.unmatched_ends) == (0, 0)


def test_without_probes_in_mm_each_vm_has_its_window(tmp_path: Path) -> None:
    text = f"""
vm-1 100 {kvm_start(0x1000, 0x2000, 0xA0)}
vm-1 101 {unmap(0x1000, 0x2000)}
vm-1 110 {kvm_start(0x1000, 0x2000, 0xB0)}
vm-1 111 {unmap(0x1000, 0x2000)}
vm-1 140 {kvm_end(0x1000, 0x2000, 0xA0)}
vm-1 150 {kvm_end(0x1000, 0x2000, 0xB0)}
"""
    audit = audit_of(text, tmp_path)
    assert (audit.windows, audit.unmatched_ends) == (2, 0)
    assert [count.total() for count in audit.totals.vms.values()] == [1, 1]


def test_windows_of_other_processes_are_not_the_guests(tmp_path: Path) -> None:
    text = f"""
vm-1 100 {mn_start(0x1000, 0x2000)}
vm-1 110 {kvm_start(0x1000, 0x2000, 0xA0)}
vm-1 120 {mn_end(0x1000, 0x2000)}
vm-1 130 {kvm_end(0x1000, 0x2000, 0xA0)}
sh-3 200 {mn_start(0x7000, 0x8000)}
sh-3 210 {mn_end(0x7000, 0x8000)}
"""
    audit = audit_of(text, tmp_path)
    assert (audit.windows, audit.totals.elsewhere) == (1, 1)


@pytest.mark.parametrize("end", [mn_end(0x1000, 0x3000), mn_end(0x9000, 0xA000)])
def test_an_end_of_another_range_ends_nothing(end: str, tmp_path: Path) -> None:
    audit = audit_of(f"vm-1 100 {mn_start(0x1000, 0x2000)}\nvm-1 200 {end}", tmp_path)
    assert (audit.windows, audit.unmatched_starts, audit.unmatched_ends) == (1, 1, 1)
    assert durations(audit)[Cause.UNKNOWN]["count"] == 0


def test_an_end_of_another_task_ends_nothing(tmp_path: Path) -> None:
    text = f"vm-1 100 {mn_start(0x1000, 0x2000)}\nvm-2 200 {mn_end(0x1000, 0x2000)}"
    audit = audit_of(text, tmp_path)
    assert (audit.unmatched_starts, audit.unmatched_ends) == (1, 1)


def test_only_starts_have_no_duration_and_their_own_zaps(tmp_path: Path) -> None:
    zap = "kvm_tdp_mmu_spte_changed: as id 0 gfn {:x} level 1 old_spte {:x} new_spte 0"
    text = f"""
ksmd-2 100 {unmap(0x1000, 0x2000)}
vm-1 105 {zap.format(0x99, 0x99865)}
ksmd-2 110 {zap.format(0x10, 0x10865)}
ksmd-2 200 {unmap(0x2000, 0x3000)}
ksmd-2 210 {zap.format(0x11, 0x11865)}
ksmd-2 220 {zap.format(0x12, 0x12865)}
"""
    audit = audit_of(text, tmp_path)
    totals = audit.totals.causes[Cause.KSM]
    assert (totals.windows, totals.zapped, totals.duration.count) == (2, 2, 0)
    # Another task's, and one more than the window has pages.
    assert audit.totals.zapped_elsewhere == 2
    assert totals.confidence == {Confidence.LIKELY: 2}


def test_a_stack_trace_belongs_to_its_window(tmp_path: Path) -> None:
    text = f"""
ksmd-2 100 {unmap(0x1000, 0x2000)}
ksmd-2 101 <stack trace>
 => kvm_mmu_notifier_invalidate_range_start
 => __mmu_notifier_invalidate_range_start
 => write_protect_page
 => try_to_merge_one_page
vm-1 200 {unmap(0x5000, 0x6000)}
vm-1 201 <stack trace>
 => __mmu_notifier_invalidate_range_start
 => frobnicate_pages
"""
    audit = audit_of(text, tmp_path)
    assert windows_of(audit) == {Cause.KSM_WRITE_PROTECT: 1, Cause.UNKNOWN: 1}
    why = audit.totals.causes[Cause.UNKNOWN].why
    assert list(why) == ["frobnicate_pages() is in no rule"]


def test_what_a_task_does_around_a_window_tells_its_cause(tmp_path: Path) -> None:
    """Probed functions that are open, a system call, a migration: all of the window's own task."""
    start, end = mn_start(0x1000, 0x2000), mn_end(0x1000, 0x2000)
    text = f"""
a-1 100 f: (wp_page_copy+0x0/0x700) mm=0x1 addr=0x1000
a-1 110 {start}
a-1 120 {end}
a-1 130 g: (do_wp_page+0x10/0x20 <- wp_page_copy) ret=0x8
a-1 140 {start}
a-1 150 {end}
b-2 200 sys_munmap(addr: 1000, len: 1000)
b-2 210 {start}
b-2 220 {end}
b-2 230 sys_munmap -> 0x0
b-2 240 {start}
b-2 250 {end}
c-3 300 mm_migrate_pages_start: mode=MIGRATE_ASYNC reason=compaction
c-3 310 {start}
c-3 320 {end}
"""
    assert windows_of(audit_of(text, tmp_path)) == {
        Cause.COW: 1,
        Cause.UNKNOWN: 2,
        Cause.MUNMAP: 1,
        Cause.COMPACTION: 1,
    }


def test_probes_without_arguments_nest_too(tmp_path: Path) -> None:
    """Their ranges are not known; the tracepoint inside tells the window's."""
    text = f"""
vm-1 100 a: ({MN}_start+0x0/0x190)
vm-1 105 {unmap(0x1000, 0x3000)}
vm-1 200 a: ({MN}_start+0x0/0x190)
vm-1 300 b: ({MN}_end+0x0/0xd0)
vm-1 500 b: ({MN}_end+0x0/0xd0)
"""
    audit = audit_of(text, tmp_path)
    assert (audit.windows, audit.totals.elsewhere, audit.unmatched_ends) == (1, 1, 0)
    totals = audit.totals.causes[Cause.UNKNOWN]
    assert (totals.duration.max, totals.pages) == (400_000, 2)


def test_what_is_open_where_events_are_lost_is_not_taken_to_go_on(tmp_path: Path) -> None:
    """The end of ksmd's window was lost: a retry later is not because of it."""
    before = made_line(f"ksmd-2 100 {mn_start(0x1000, 0x2000)}")
    after = "".join(
        made_line(line)
        for line in (
            f"ksmd-2 50000 {mn_start(0x5000, 0x6000)}",
            f"ksmd-2 50100 {mn_end(0x5000, 0x6000)}",
            "vm-5 60000 kvm_page_fault: vcpu 0 rip 0x80 address 0x1000 error_code 0x6",
            "vm-5 60010 t: (kvm_mmu_page_fault+0x1/0x9 [kvm] <- kvm_tdp_page_fault) ret=1",
        )
    )
    path = tmp_path / "lost.txt"
    path.write_text(f"# tracer: nop\n{before}CPU:0 [LOST 3 EVENTS]\n{after}")
    audit = audit_trace(open_trace(str(path)))
    assert (audit.complete, audit.unmatched_starts) == (False, 1)
    assert audit.totals.causes[Cause.KSM].retries_other == 0
    assert audit.totals.causes[Cause.KSM].overlapped == 0


def test_a_page_that_was_zapped_before_tells_its_memslot(tmp_path: Path) -> None:
    """Only the tracepoint: KSM's second window of a page finds nothing, in a known memslot."""
    zap = "kvm_tdp_mmu_spte_changed: as id 0 gfn 10 level 1 old_spte 77865 new_spte 0"
    text = f"""
ksmd-2 100 {unmap(0x50000, 0x51000)}
ksmd-2 110 {zap}
ksmd-2 200 {unmap(0x50000, 0x51000)}
ksmd-2 300 {unmap(0x90000, 0x91000)}
"""
    totals = audit_of(text, tmp_path).totals.causes[Cause.KSM]
    assert (totals.in_slot, totals.slot_unknown, totals.empty) == (2, 1, 2)
