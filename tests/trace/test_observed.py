"""What .change_pte() was seen to do: recounted, and held against other people's counts."""

import json
import lzma
from dataclasses import asdict, replace

import pytest

from mmuwitness.trace.observed import (
    OBSERVED_TOML,
    ChangePteCounts,
    Observed,
    load_observed,
    observed_for,
)
from tests.conftest import accepting
from tests.trace.real_traces import ARM64, DATA, EFFECTS, count


def to_toml(rows: list[Observed]) -> str:
    lines = ["# What real kernels did in .change_pte(). The counts are made by `make golden`."]
    for row in rows:
        values = asdict(row)
        counts = {name: n for name, n in values.pop("counts").items() if n is not None}
        lines += ["", f"# {row.sentence}", "[[observed]]"]
        lines += [f"{name} = {json.dumps(value, indent=4)}" for name, value in values.items()]
        lines += ["[observed.counts]", *(f"{name} = {n}" for name, n in counts.items())]
    return "\n".join(lines) + "\n"


@pytest.mark.golden
def test_shipped_counts_are_those_of_the_traces() -> None:
    rows = [
        replace(row, counts=sum(map(count, row.files), ChangePteCounts()))
        for row in load_observed()
    ]
    if accepting():
        OBSERVED_TOML.write_text(to_toml(rows), encoding="utf-8")
    assert load_observed() == rows, "if the new counts are right: make golden"
    assert OBSERVED_TOML.read_text(encoding="utf-8") == to_toml(rows), "to write it: make golden"


def test_arm64_stores_new_leaves() -> None:
    # The expected numbers are the totals of the summary that was made with this recording, by
    # another program: change_pte 1239, set_spte_gfn 1235, set_spte in_progress=1 1235, LEAF
    # INSTALLED by change_pte valid=1 RO old=0 1216, s2map[NULL] ret=-12 19, inv_start and
    # inv_end 1253. Nothing was lost and no WARN was in the kernel's log.
    assert count(ARM64) == ChangePteCounts(
        mm_calls=1239,
        kvm_calls=1239,
        without_handler=4,
        handler_calls=1235,
        installed_read_only=1216,
        did_nothing=19,
        no_memory=19,
        in_progress_min=1,
        active_min=1,
        windows_started=1253,
        windows_ended=1253,
        kvm_windows=1252,
    )
    # Total of that kernel's summary: inv_start 1255, and no change_pte in it.
    gone = count("arm64/scn6.12_a57.trace.xz")
    assert gone == ChangePteCounts(windows_started=1255, windows_ended=1255, kvm_windows=1254)


@pytest.mark.parametrize(
    ("name", "windows", "calls"),
    # mn_start and mn_change_pte of the recorder's own table of event counts (the same number of
    # k_change_pte and k_set_spte_gfn, and no set_spte_gfn with ret != 0).
    [
        ("6.1-tdp-ksm-merge", 78, 71),
        ("6.1-tdp-cow-break", 86, 79),
        ("6.1-tdp-host-write", 82, 75),
        ("6.1-tdp-madvise", 22, 5),
        ("6.1-tdp-stress-ksm", 259, 238),
        ("6.1-npt-legacy-cow-break", 86, 79),
        ("6.1-shadow-ksm-merge", 78, 71),
        ("6.1-shadow-cow-break", 86, 79),
        ("6.12-tdp-ksm-merge", 79, 0),
        ("6.12-tdp-cow-break", 87, 0),
        ("6.12-tdp-madvise", 24, 0),
    ],
)
def test_x86_does_nothing(name: str, windows: int, calls: int) -> None:
    assert count(f"x86/{name}.txt.xz") == ChangePteCounts(
        mm_calls=calls,
        kvm_calls=calls,
        early_returns=0 if calls else None,
        handler_calls=calls,
        did_nothing=calls,
        in_progress_min=1 if calls else None,
        active_min=1 if calls else None,
        windows_started=windows,
        windows_ended=windows,
        kvm_windows=windows - 1,  # exit_mmap() comes after KVM has left the list
    )


def test_stock_tracepoints_show_calls_but_no_effect() -> None:
    seen = count("x86/6.1-stock-ksm-merge.txt.xz")
    assert (seen.kvm_calls, seen.undecided, seen.kvm_windows) == (71, 71, 77)
    assert sum(getattr(seen, name) for name in EFFECTS) == 0


def test_the_event_is_gone_from_the_later_kernel() -> None:
    def formats(kernel: str) -> str:
        return lzma.open(DATA / f"x86/{kernel}-tdp-_formats.txt.xz", "rt").read()

    assert "name: kvm_set_spte_hva\n" in formats("6.1")
    assert "name: kvm_set_spte_hva\n" not in formats("6.12")
    assert "name: kvm_unmap_hva_range\n" in formats("6.12")


def test_rows_are_found_by_arch_and_kernel() -> None:
    def found(arch: str, era: str) -> list[tuple[str, str]]:
        return [(row.mmu, row.kernel) for row in observed_for(arch, era)]

    assert found("arm64", "v6.1") == found("arm64", "6.1.192") == [("stage-2", "6.1.192")]
    assert [mmu for mmu, _ in found("x86", "v6.1")] == ["tdp", "npt-legacy", "shadow"]
    assert found("x86", "v6.12") == [("tdp", "6.12.117")]
    assert found("x86", "v6.1.19") == found("riscv", "v6.1") == found("x86", "v5.10") == []


def test_each_row_says_what_was_seen() -> None:
    assert [row.sentence for row in load_observed()] == [
        "6.1.192 arm64 stage-2: 1216 of 1235 calls stored a new read-only leaf inside the window, "
        "19 did nothing (-ENOMEM)",
        "6.12.117 arm64 stage-2: no call in 1254 invalidations that reached KVM",
        "6.1.192 x86 tdp: not one of 539 calls changed an SPTE",
        "6.1.192 x86 npt-legacy: not one of 79 calls changed an SPTE",
        "6.1.192 x86 shadow: not one of 150 calls changed an SPTE",
        "6.12.117 x86 tdp: no call in 187 invalidations that reached KVM",
    ]
    early = ChangePteCounts(kvm_calls=2, early_returns=2, without_handler=2)
    assert replace(load_observed()[2], counts=early).sentence == (
        "6.1.192 x86 tdp: 2 of 2 calls did not reach the arch"
    )
    assert all(row.emulated and "durations are not" in row.note for row in load_observed())
    row, stock = load_observed()[2], count("x86/6.1-stock-ksm-merge.txt.xz")
    stock = replace(stock, lost_events=3)
    assert replace(row, counts=stock).sentence == (
        "6.1.192 x86 tdp (3 events lost): 71 of 71 calls left no evidence in the trace"
    )
