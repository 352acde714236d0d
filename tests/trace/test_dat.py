"""Real recordings: trace.dat says what the kernel's own text of the same run says."""

import lzma

import polars as pl
import pytest

from mmuwitness.trace.dat.reader import DatTrace
from mmuwitness.trace.events import Trace
from mmuwitness.trace.open import open_trace
from tests.trace.real_traces import DATA

PAIRS = [
    ("x86/6.1-tdp-ksm-merge.dat.xz", "x86/6.1-tdp-single-ksm-merge.txt.xz"),
    ("x86/6.1-stock-cow-break.dat.xz", "x86/6.1-stock-cow-break.txt.xz"),
    ("x86/6.12-stock-cow-break.dat.xz", "x86/6.12-stock-cow-break.txt.xz"),
]
SHARED = ["row", "time", "cpu", "task", "pid", "event", "stack"]
# In the record, and printed as a part of something else, or not at all.
RECORDED_ONLY = {
    "kvm_mmu_get_page": {"role", "unsync", "created"},
    "kvm_mmu_prepare_zap_page": {"role", "unsync"},
    "kvm_mmu_set_spte": {"r", "x", "u"},
    "kvm_entry": {"immediate_exit"},
    "kvm_exit": {"isa"},
    "fast_page_fault": {"ret"},
    "ksm_merge_with_ksm_page": {"ksm_page"},
}


def read(trace: Trace) -> tuple[pl.DataFrame, dict[str, pl.DataFrame]]:
    """All events, and all tables."""
    batches = list(trace.batches())
    names = {name for batch in batches for name in batch.tables}
    tables = {
        name: pl.concat([batch.tables[name] for batch in batches if name in batch.tables])
        for name in names
    }
    return pl.concat([batch.events for batch in batches]), tables


@pytest.mark.parametrize(("binary", "text"), PAIRS)
def test_equals_the_text_of_the_same_run(binary: str, text: str) -> None:
    events, tables = read(open_trace(str(DATA / binary)))
    printed, printed_tables = read(open_trace(str(DATA / text)))
    # Text has microseconds, rounded.
    events = events.with_columns(time=(pl.col("time") + 500) // 1000 * 1000)
    assert events.schema == printed.schema
    for column in SHARED:
        assert events[column].to_list() == printed[column].to_list(), column
    assert tables.keys() == printed_tables.keys()
    for name, table in printed_tables.items():
        assert set(tables[name].columns) - set(table.columns) == RECORDED_ONLY.get(name, set())
        for column in table.columns:
            assert tables[name][column].to_list() == table[column].to_list(), (name, column)


# From the table "Event counts" of the lab's notes on these runs, and from their text by grep.
KSM_MERGE = {"mn_start": 78, "kvm_start": 77, "mn_change_pte": 71, "kvm_unmap_gfn": 71}
KSM_MERGE |= {"kvm_page_fault": 78, "kvm_tdp_mmu_spte_changed": 164, "kvm_mmu_set_spte": 78}


def test_counts_of_the_lab() -> None:
    trace = open_trace(str(DATA / PAIRS[0][0]))
    events, tables = read(trace)
    counts = dict(events["event"].value_counts().iter_rows())
    assert {name: counts[name] for name in KSM_MERGE} == KSM_MERGE
    zapped = tables["kvm_unmap_gfn_ret"]["ret"].to_list()
    assert (zapped.count(1), zapped.count(0)) == (32, 39)
    assert (trace.format, trace.clock, trace.release) == (
        "trace.dat v7",
        "mono",
        "6.1.0-56-cloud-amd64",
    )
    assert (trace.complete, trace.lost, trace.notes) == (True, 0, [])


def test_batches_can_be_small_and_are_the_same_again(monkeypatch: pytest.MonkeyPatch) -> None:
    data = lzma.decompress((DATA / PAIRS[1][0]).read_bytes())
    trace = DatTrace("trace.dat", data)
    whole, tables = read(trace)
    monkeypatch.setattr("mmuwitness.trace.dat.reader.BATCH_EVENTS", 1)
    monkeypatch.setattr("mmuwitness.trace.dat.reader.BLOCK_BYTES", 1)
    assert len(list(trace.batches())) > 1
    again, again_tables = read(trace)
    assert again.equals(whole)
    assert all(again_tables[name].equals(table) for name, table in tables.items())


def test_places_are_offsets_in_the_file() -> None:
    data = lzma.decompress((DATA / PAIRS[0][0]).read_bytes())
    seen: list[tuple[int, int | None]] = []
    trace = DatTrace("trace.dat", data, lambda done, size: seen.append((done, size)))
    events, _ = read(trace)
    # `trace-cmd dump --flyrecord` of this file: CPU 0 is at 966656, CPU 1 at 978944.
    first = events.group_by("cpu", maintain_order=True).first().sort("cpu")["place"].to_list()
    assert [place // 4096 * 4096 for place in first] == [966656, 978944]
    assert seen[-1] == (9024 + 11858, 9024 + 11858)
