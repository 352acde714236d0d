"""Tasks of real traces are paths of the model's processes: which, how often, and what is not.

Expected numbers are those of the lab's tables of counts (mn_start, k_start, k_page_fault,
try_merge_one), counted there by other means, and of what each scenario did: 32 pages merged and
then 4, 16 merged pages written by the guest, 12 by the VMM.
"""

import lzma
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

from mmuwitness.model.era import Era
from mmuwitness.model.host import Host
from mmuwitness.model.mm.mm_types import Pte, copy_page, put_page
from mmuwitness.model.mm.mmu_notifier import (
    mmu_notifier_invalidate_range_end,
    mmu_notifier_invalidate_range_start,
    ptep_clear_flush,
    set_pte_at_notify,
)
from mmuwitness.model.primitives import spin_lock
from mmuwitness.trace.open import open_trace
from mmuwitness.trace.paths import kernel as paths_kernel
from mmuwitness.trace.paths.check import PathsResult, check_paths
from mmuwitness.trace.paths.graph import ALONE, conform_host
from mmuwitness.trace.paths.observe import EMULATED

DATA = Path(__file__).parents[1] / "data"

RECORDED = sorted(
    str(path.relative_to(DATA)) for path in DATA.glob("*/*.xz") if "_formats" not in path.name
)

# merges; windows of KSM, of COW breaks by guests, by the VMM; others; faults of guests
TRACES = {
    "6.1-tdp-ksm-merge": (36, 71, 0, 0, 7, 78),
    "6.1-tdp-single-ksm-merge": (36, 71, 0, 0, 7, 78),
    "6.1-shadow-ksm-merge": (36, 71, 0, 0, 7, 73),
    "6.12-tdp-ksm-merge": (36, 71, 0, 0, 8, 78),
    "6.1-tdp-cow-break": (32, 63, 16, 0, 7, 94),
    "6.1-npt-legacy-cow-break": (32, 63, 16, 0, 7, 93),
    "6.1-shadow-cow-break": (32, 63, 16, 0, 7, 89),
    "6.12-tdp-cow-break": (32, 63, 16, 0, 8, 94),
    "6.1-tdp-host-write": (32, 63, 0, 12, 7, 58),
    "6.1-stock-ksm-merge": (36, 71, 0, 0, 6, 78),
    "6.1-stock-cow-break": (32, 63, 16, 0, 6, 94),
    "6.12-stock-cow-break": (32, 63, 16, 0, 8, 94),
}
QUICK = ("6.1-tdp-ksm-merge", "6.12-tdp-cow-break", "6.1-tdp-host-write", "6.1-stock-cow-break")


def slow(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


ALL = [n if n in QUICK else slow(n) for n in TRACES]


@cache
def result_of(name: str) -> PathsResult:
    return check_paths(open_trace(str(DATA / name)))


def activities(result: PathsResult, name: str) -> int:
    return result.accepted[name].activities if name in result.accepted else 0


def windows(result: PathsResult, name: str) -> int:
    return result.accepted[name].windows if name in result.accepted else 0


@pytest.mark.parametrize("name", ALL)
def test_accepts(name: str) -> None:
    merges, by_ksm, by_guest, by_host, others, faults = TRACES[name]
    result = result_of(f"x86/{name}.txt.xz")
    assert result.departure is None
    assert result.accepts
    assert activities(result, "ksm-merge") == merges
    assert windows(result, "ksm-merge") == by_ksm
    assert windows(result, "cow-break") == activities(result, "cow-break") == by_guest
    assert windows(result, "host-write") == activities(result, "host-write") == by_host
    assert activities(result, "guest fault") + activities(result, "cow-break") == faults
    assert windows(result, "guest fault") == 0
    assert windows(result, "munmap") + windows(result, "exit") + windows(result, "THP split") == (
        others
    )
    assert not result.not_modelled
    assert not result.open_at_end
    assert not result.begun_before


@pytest.mark.parametrize("name", [*ALL, "6.1-tdp-madvise"])
def test_every_event_is_of_one_thing(name: str) -> None:
    path = str(DATA / "x86" / f"{name}.txt.xz")
    result = result_of(f"x86/{name}.txt.xz")
    told = sum(each.events for each in result.accepted.values())
    told += sum(each.events for each in result.not_modelled.values())
    told += sum(result.elsewhere.values())
    assert told == sum(batch.events.height for batch in open_trace(path).batches())


@pytest.mark.slow
@pytest.mark.parametrize("name", RECORDED)
def test_every_recorded_trace_is_followed(name: str) -> None:
    result = result_of(name)
    assert result.departure is None
    assert result.accepts
    assert not result.not_modelled
    assert not result.open_at_end
    assert not result.begun_before


def test_calls_of_madvise() -> None:
    result = result_of("x86/6.1-tdp-madvise.txt.xz")
    # of the 22 windows 11 are of event 0 (UNMAP), 4 mprotect (2); 5 pages were written by the guest
    assert result.departure is None
    assert not result.not_modelled
    counts = {name: each.windows for name, each in result.accepted.items() if each.windows}
    assert counts == {
        "MADV_FREE": 1,
        "munmap": 9,
        "exit": 1,
        "mremap": 1,
        "mprotect, or NUMA balancing": 4,
        "madvise, zapping": 1,
        "cow-break": 5,
    }


@pytest.mark.parametrize("name", ["6.12-tdp-madvise", "6.1-stock-madvise"])
def test_madv_free_where_its_caller_is_inlined_or_on_a_stack(name: str) -> None:
    result = result_of(f"x86/{name}.txt.xz")
    assert result.departure is None
    assert not result.not_modelled
    assert activities(result, "MADV_FREE") == windows(result, "MADV_FREE") == 1


def test_khugepaged() -> None:
    """It collapsed memory of a process without KVM while the VMM was being recorded."""
    result = result_of("x86/6.1-recorded.txt.xz")
    assert result.departure is None
    assert not result.not_modelled
    # collapse_huge_page(), mm_collapse_huge_page
    collapsed = result.accepted["THP collapse" + ALONE]
    assert (collapsed.activities, collapsed.windows, collapsed.events) == (1, 0, 2)


# migrations, passes of mprotect or NUMA balancing with their windows, splits of huge PMDs
NUMA = {
    "6.1-tdp-numa": (129, 37, 35, 0),
    "6.12-tdp-numa": (145, 28, 26, 2),
    "6.1-stock-numa": (141, 56, 56, 0),
}


@pytest.mark.parametrize("name", ["6.1-tdp-numa", *(slow(n) for n in list(NUMA)[1:])])
def test_numa_balancing_and_migration(name: str) -> None:
    """Migrations are as many as the events of try_to_migrate_one() or, in the stock trace, stacks
    with it; some are in faults that KVM makes, which look their page up meanwhile."""
    migrations, passes, windows_of_passes, splits = NUMA[name]
    result = result_of(f"x86/{name}.txt.xz")
    assert result.departure is None
    assert not result.not_modelled
    assert not result.open_at_end
    assert activities(result, "page migration") == migrations
    assert windows(result, "page migration") == migrations
    assert activities(result, "mprotect, or NUMA balancing") == passes
    assert windows(result, "mprotect, or NUMA balancing") == windows_of_passes
    assert windows(result, "THP split") == splits


@pytest.mark.slow
def test_stress_with_two_vcpus() -> None:
    result = result_of("x86/6.1-tdp-stress-ksm.txt.xz")
    assert result.departure is None
    assert activities(result, "guest fault") + activities(result, "cow-break") == 4692
    assert not result.not_modelled
    assert activities(result, "ksm-merge") == 97
    assert activities(result, "madvise, zapping") == 4
    assert windows(result, "madvise, zapping") == 5  # one splits a huge PMD in its window
    everywhere = [*result.accepted.values(), *result.not_modelled.values()]
    assert sum(each.windows for each in everywhere) == 259


@pytest.mark.slow
@pytest.mark.parametrize("name", ["6.1-tdp-ksm-merge", "6.1-stock-cow-break"])
def test_trace_dat_gives_the_same(name: str) -> None:
    text = "6.1-tdp-single-ksm-merge" if "tdp" in name else name
    binary, lines = result_of(f"x86/{name}.dat.xz"), result_of(f"x86/{text}.txt.xz")
    assert binary.accepted == lines.accepted
    assert {n: e.windows for n, e in binary.not_modelled.items()} == {
        n: e.windows for n, e in lines.not_modelled.items()
    }


@pytest.mark.parametrize(("name", "faults"), [("scn6.1_a57", 1242), slow("scn6.12_a57", 1651)])
def test_arm64(name: str, faults: int) -> None:
    """The lab counted the faults of guests there, and 401 writes of guests that break COW."""
    result = result_of(f"arm64/{name}.trace.xz")
    assert result.departure is None
    assert activities(result, "guest fault") + activities(result, "cow-break") == faults
    assert windows(result, "cow-break") == activities(result, "cow-break") == 401
    assert (activities(result, "ksm-merge"), windows(result, "ksm-merge")) == (418, 831)
    assert windows(result, "fork") == 8
    assert windows(result, "THP split") == windows(result, "page migration") == 1
    # exits to the VMM, of which only the return is recorded: those that return 0
    assert activities(result, EMULATED) == result.accepted[EMULATED].events == 5064
    assert not result.not_modelled
    assert not result.open_at_end


@pytest.mark.parametrize("name", ALL)
def test_kernel_is_recognised(name: str) -> None:
    kernel = result_of(f"x86/{name}.txt.xz").kernel
    release, mmu, *_ = name.split("-")
    assert kernel.era == Era(f"v{release}")
    assert kernel.mmu == {"npt": "rmap", "stock": "tdp"}.get(mmu, mmu)


@pytest.mark.parametrize(
    ("name", "era", "event"),
    [
        # without the brackets of v3.7 no window opens where KSM write-protects
        ("6.1-tdp-ksm-merge", Era("v6.1").with_change("-change_pte_bracketed"), "range_start"),
        # v6.12 has no change_pte
        ("6.1-tdp-ksm-merge", Era("v6.12"), "__mmu_notifier_change_pte"),
        ("6.1-stock-cow-break", Era("v6.12"), "kvm_set_spte_hva"),
        # v6.1 calls it wherever KSM and COW set a PTE
        ("6.1-tdp-host-write", Era("v6.1").with_change("-set_pte_at_notify"), "change_pte"),
    ],
)
def test_another_model_rejects(name: str, era: Era, event: str) -> None:
    result = check_paths(open_trace(str(DATA / "x86" / f"{name}.txt.xz")), era)
    assert result.departure is not None
    assert event in result.departure.seen.name
    assert result.departure.process in ("ksm-merge", "")


def test_a_model_without_brackets_accepts_a_trace_without_them(tmp_path: Path) -> None:
    """The automaton is the model's text: what v6.1 rejects is a path of a kernel as before v3.7."""
    with lzma.open(DATA / "x86" / "6.1-tdp-ksm-merge.txt.xz", "rt") as file:
        lines = file.readlines()
    kept, inside = [], False
    for line in lines:
        inside = inside or ("ksmd-" in line and ("mn_start:" in line or "mn_end:" in line))
        if not inside and "entries-in-buffer" not in line:
            kept.append(line)
        inside = inside and not ("mn_start_ret:" in line or "mn_end_ret:" in line)
    path = tmp_path / "trace.txt"
    path.write_text("".join(kept))
    # change_pte returned early only where a window had to be open around it
    before = Era("v6.1").with_change("-change_pte_bracketed", "-change_pte_returns_early")
    result = check_paths(open_trace(str(path)), before)
    assert result.departure is None
    assert activities(result, "ksm-merge") == 36
    assert windows(result, "ksm-merge") == 0
    rejected = check_paths(open_trace(str(path))).departure
    assert rejected is not None
    assert rejected.process == "ksm-merge"
    assert rejected.seen.name == "ptep_clear_flush"


@pytest.mark.parametrize(
    ("event", "said", "instead"),
    [
        ("kvm_end_ret", "range_end)", "range_start)"),
        # without a probe of its own: one line does not make it one that others lack
        ("kvm_end_ret", "kvm_mmu_notifier_invalidate_range_end)", "replace_page)"),
        ("mn_end", "_range_end+", "_arch_invalidate+"),
    ],
)
def test_the_place_is_the_line(tmp_path: Path, event: str, said: str, instead: str) -> None:
    with lzma.open(DATA / "x86" / "6.1-tdp-ksm-merge.txt.xz", "rt") as file:
        lines = file.readlines()
    at = next(n for n, line in enumerate(lines, 1) if f" {event}:" in line and n > 900)
    lines[at - 1] = lines[at - 1].replace(said, instead)
    path = tmp_path / "trace.txt"
    path.write_text("".join(lines))
    departure = check_paths(open_trace(str(path))).departure
    assert departure is not None
    if event == "kvm_end_ret":
        assert departure.seen.place == at
        assert departure.allowed == ("return from kvm_mmu_notifier_invalidate_range_end()",)
    else:
        # a function that no process has may be called anywhere; but the end did not come
        assert lines[departure.seen.place - 1].split()[4] == "kvm_end:"
        assert departure.seen.place == at + 2
    assert departure.process == "ksm-merge"
    assert str(departure).startswith(f"{departure.seen.place}: ksmd-37: ")


def wp_page_copy(mm: Any, addr: Any, orig_pte: Any, unshare: Any) -> None:
    """The model's with two lines swapped: KVM is told before the PTE is cleared."""
    old = orig_pte.page
    new = copy_page(old, mm)
    if new is None:
        put_page(old)
        return
    mmu_notifier_invalidate_range_start(mm, addr, addr + 1)
    with spin_lock(mm.ptl):
        if mm.pte[addr] == orig_pte:
            set_pte_at_notify(mm, addr, Pte(present=True, write=True, dirty=True, page=new))
            ptep_clear_flush(mm, addr)
    mmu_notifier_invalidate_range_end(mm, addr, addr + 1)
    put_page(old)


def test_the_automaton_is_the_text_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variant of one function makes the same trace depart where the two differ."""

    def variant(*arguments: Any, **sizes: Any) -> Host:
        host = conform_host(*arguments, **sizes)
        assert isinstance(wp_page_copy, FunctionType)
        host.overrides["mm.memory.wp_page_copy"] = wp_page_copy
        return host

    monkeypatch.setattr(paths_kernel, "conform_host", variant)
    monkeypatch.setattr(paths_kernel, "graph_of", paths_kernel.graph_of.__wrapped__)
    result = check_paths(open_trace(str(DATA / "x86" / "6.1-tdp-host-write.txt.xz")))
    assert result.departure is not None
    assert result.departure.process == "host-write"
    assert result.departure.seen.name == "ptep_clear_flush"
    assert any("__mmu_notifier_change_pte" in label for label in result.departure.allowed)
    assert activities(result, "ksm-merge") == 32
