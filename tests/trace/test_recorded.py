"""What `record --probes full` itself recorded on two Debian kernels, under emulation.

A guest writes 8 pages, the VMM drops them, the guest writes them again, the VMM fills them with the
same bytes, KSM merges them, and the guest writes them a third time. The kernel's own tracepoints
and the probes say the same things by different ways, so they check each other: offsets that are
wrong would show.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from mmuwitness.trace.open import open_trace

DATA = Path(__file__).parent.parent / "data" / "x86"
RELEASES = ["6.1", "6.12"]


def tables(release: str) -> dict[str, pl.DataFrame]:
    """The fields of each kind of event, with its task, in order."""
    trace = open_trace(str(DATA / f"{release}-recorded.txt.xz"))
    batches = list(trace.batches())
    assert trace.complete
    assert len(batches) == 1
    events = batches[0].events.select("row", pl.col("task").cast(pl.String))
    return {name: table.join(events, on="row") for name, table in batches[0].tables.items()}


@pytest.mark.parametrize("release", RELEASES)
def test_probed_ranges_are_those_of_the_tracepoint(release: str) -> None:
    found = tables(release)
    probe, tracepoint = found["kvm_start"], found["kvm_unmap_hva_range"]
    assert probe.height > 20
    assert probe.select("start", "end").equals(tracepoint.select("start", "end"))
    # KVM's notifier is released before the last range of an mm, which is everything.
    assert found["mn_start"].height == probe.height + 1
    assert found["mn_start"].select("start", "end").row(-1) == (0, 2**64 - 1)


@pytest.mark.parametrize("release", RELEASES)
def test_probed_gfns_and_pfns_are_those_of_the_tracepoint(release: str) -> None:
    found = tables(release)
    probe, tracepoint = found["tdp_map"], found["kvm_mmu_spte_requested"]
    assert probe.height == 25  # 8 pages three times, and the one with the code
    assert probe.select("gfn", "pfn").equals(tracepoint.select("gfn", "pfn"))
    assert set(probe["gfn"]) == {1, *range(2, 10)}


@pytest.mark.parametrize("release", RELEASES)
def test_every_window_that_began_ended_and_the_counts_are_the_kernels(release: str) -> None:
    found = tables(release)
    starts, ends = found["kvm_start"], found["kvm_end"]
    assert starts.select("start", "end").equals(ends.select("start", "end"))
    assert set(starts["inprog"]) == {0}
    assert found["mn_start_ret"].height == found["mn_start"].height
    # A window that reached a memslot is counted until its end, which bumps the sequence.
    for seq, active, in_progress in ends.select("seq", "active", "inprog").iter_rows():
        assert active == 1
        assert in_progress in (0, 1)
        assert seq <= ends.height
    assert ends["seq"].is_sorted()


def test_ksm_calls_change_pte_for_each_page_and_again_for_all_but_the_first() -> None:
    old, new = tables("6.1"), tables("6.12")
    of_ksm = pl.col("task") == "ksmd"
    assert old["wrprot_page"].height == new["wrprot_page"].height == 8
    assert old["kvm_change_pte"].filter(of_ksm).height == 8 + 7
    assert old["kvm_start"].filter(of_ksm).height == 8 + 7
    assert new["kvm_start"].filter(of_ksm).height == 8 + 7
    assert "kvm_change_pte" not in new
    # On x86, it never finds an SPTE.
    assert set(old["kvm_set_spte_gfn_ret"]["ret"]) == {0}
    assert set(old["kvm_unmap_gfn_ret"]["ret"]) == {0, 1}
