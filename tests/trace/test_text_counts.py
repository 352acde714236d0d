"""Real traces of two kernels and two archs: as many events as their recorders counted.

The numbers are those of the recorders' own table, made by another program from the same runs:
events by name, returns by value, event types of the windows.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path

import polars as pl
import pytest

from mmuwitness.trace.open import open_trace

DATA = Path(__file__).parents[1] / "data"
EVENTS = (
    "mn_start",
    "mn_change_pte",
    "kvm_start",
    "kvm_change_pte",
    "kvm_set_spte_gfn",
    "kvm_unmap_gfn",
    "kvm_page_fault",
    "kvm_tdp_mmu_spte_changed",
    "kvm_mmu_set_spte",
    "fast_page_fault",
    "do_wp_page",
    "try_merge_one",
)
RET_PF_RETRY = 1


@cache
def tables(name: str) -> tuple[Counter[str], dict[str, pl.DataFrame]]:
    """How often each event is there, and the fields of all of them."""
    counts, parts = Counter[str](), dict[str, list[pl.DataFrame]]()
    trace = open_trace(str(DATA / name))
    for batch in trace.batches():
        counts.update(dict(batch.events["event"].value_counts().iter_rows()))
        for event, table in batch.tables.items():
            parts.setdefault(event, []).append(table)
    assert (trace.lost, trace.complete, trace.notes) == (0, True, [])
    return counts, {event: pl.concat(each) for event, each in parts.items()}


@pytest.mark.parametrize(
    ("name", "counts", "unmapped", "retries", "kinds"),
    [
        (
            "6.1-tdp-ksm-merge",
            (78, 71, 77, 71, 71, 71, 78, 164, 78, 0, 3, 36),
            (32, 39),
            0,
            (7, 71),
        ),
        (
            "6.1-tdp-cow-break",
            (86, 79, 85, 79, 79, 79, 94, 164, 78, 8, 19, 32),
            (40, 39),
            16,
            (7, 79),
        ),
        (
            "6.1-tdp-host-write",
            (82, 75, 81, 75, 75, 75, 58, 124, 58, 0, 15, 32),
            (40, 35),
            0,
            (7, 75),
        ),
        ("6.1-tdp-madvise", (22, 5, 21, 5, 5, 15, 64, 118, 55, 6, 8, 0), (12, 3), 5, (11, 7, 4)),
        (
            "6.1-tdp-stress-ksm",
            (259, 238, 258, 238, 238, 246, 4692, 357, 184, 46, 60, 97),
            (140, 106),
            4508,
            (7, 252),
        ),
        (
            "6.1-npt-legacy-cow-break",
            (86, 79, 85, 79, 79, 79, 93, 0, 78, 8, 19, 32),
            (40, 39),
            16,
            (7, 79),
        ),
        (
            "6.1-shadow-ksm-merge",
            (78, 71, 77, 71, 71, 71, 73, 0, 73, 0, 3, 36),
            (32, 39),
            0,
            (7, 71),
        ),
        (
            "6.1-shadow-cow-break",
            (86, 79, 85, 79, 79, 79, 89, 0, 73, 0, 19, 32),
            (40, 39),
            16,
            (7, 79),
        ),
        ("6.12-tdp-ksm-merge", (79, 0, 78, 0, 0, 71, 78, 164, 78, 0, 3, 36), (32, 39), 0, (7, 72)),
        (
            "6.12-tdp-cow-break",
            (87, 0, 86, 0, 0, 79, 94, 164, 78, 8, 19, 32),
            (40, 39),
            16,
            (7, 80),
        ),
        ("6.12-tdp-madvise", (24, 0, 23, 0, 0, 15, 64, 118, 55, 6, 8, 0), (12, 3), 5, (11, 9, 4)),
    ],
)
def test_x86(
    name: str,
    counts: tuple[int, ...],
    unmapped: tuple[int, int],
    retries: int,
    kinds: tuple[int, ...],
) -> None:
    found, fields = tables(f"x86/{name}.txt.xz")
    assert tuple(found[event] for event in EVENTS) == counts
    for event in EVENTS[:6]:
        assert found[event] == fields.get(event, pl.DataFrame()).height
    returned = fields["kvm_unmap_gfn_ret"]["ret"].to_list()
    assert (returned.count(1), returned.count(0)) == unmapped
    handler = fields["p64pf_ret" if "shadow" in name else "tdpf_ret"]
    assert handler["ret"].to_list().count(RET_PF_RETRY) == retries
    starts = Counter(fields["mn_start"]["event"].to_list())
    assert tuple(starts[kind] for kind in range(len(kinds))) == kinds
    assert starts.total() == counts[0]


def test_probes_have_their_functions() -> None:
    _, fields = tables("x86/6.12-tdp-cow-break.txt.xz")
    start = fields["mn_start"]
    assert set(start["function"]) == {"__mmu_notifier_invalidate_range_start"}
    assert set(start["offset"]) == {4}  # behind ENDBR64
    assert set(fields["kvm_start_ret"]["function"]) == {"kvm_mmu_notifier_invalidate_range_start"}
    callers = {caller.partition("+")[0] for caller in fields["kvm_start_ret"]["caller"]}
    assert callers == {"__mmu_notifier_invalidate_range_start"}


@pytest.mark.parametrize(
    ("name", "entries", "counts"),
    # Of the recorder's summaries of the two runs: TOTAL, and the tracepoints by name.
    [
        (
            "scn6.1_a57",
            31691,
            {"kvm_guest_fault": 1242, "chg": 1239, "setspte": 1235, "istart": 1253},
        ),
        ("scn6.12_a57", 20936, {"kvm_guest_fault": 1651, "chg": 0, "setspte": 0, "istart": 1255}),
    ],
)
def test_arm64(name: str, entries: int, counts: dict[str, int]) -> None:
    found, fields = tables(f"arm64/{name}.trace.xz")
    assert found.total() == entries
    assert {event: found[event] for event in counts} == counts
    assert fields["kvm_guest_fault"].columns == ["row", "ipa", "hsr", "hxfar", "vcpu_pc"]


@pytest.mark.parametrize(
    ("name", "stacked"),
    # The trigger was on these two events.
    [
        ("6.1-stock-ksm-merge", {"kvm_unmap_hva_range": 77, "kvm_set_spte_hva": 71}),
        ("6.1-stock-cow-break", {"kvm_unmap_hva_range": 85, "kvm_set_spte_hva": 79}),
        ("6.12-stock-cow-break", {"kvm_unmap_hva_range": 87}),
    ],
)
def test_stacks_are_on_the_events_that_have_the_trigger(name: str, stacked: dict[str, int]) -> None:
    found = Counter[str]()
    for batch in open_trace(str(DATA / f"x86/{name}.txt.xz")).batches():
        for event, stack in batch.events.select("event", "stack").iter_rows():
            if stack is not None:
                found[event] += 1
                # What the trigger itself is called from, and who tells KVM.
                assert stack[0] == f"trace_event_raw_event_{event}"
                assert "__mmu_notifier_invalidate_range_start" in stack or (
                    "__mmu_notifier_change_pte" in stack
                )
    assert found == stacked


def test_nothing_is_left_as_text_but_what_people_wrote() -> None:
    for path in sorted(DATA.glob("*/*.xz")):
        if "_formats" in path.name or not path.name.endswith(("6.txt.xz", "e.txt.xz", "k.txt.xz")):
            continue
        _, fields = tables(str(path.relative_to(DATA)))
        assert {event for event, table in fields.items() if "text" in table.columns} == {
            "tracing_mark_write"
        }, path.name
