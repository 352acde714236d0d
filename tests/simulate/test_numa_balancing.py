"""The NUMA scanner: what its windows zap, with pages that it may not take and others."""

import pytest

from tests.simulate.small_runs import EXITS, PAGES, WINDOWS, run

SCAN = {"scan_period": 0.1, "scan_size": 4.0, "migrates": 0.0}
"""1,024 pages, ten times a second."""


def test_a_window_for_each_scan_and_a_hinting_fault_for_each_page_that_is_used() -> None:
    made = run("numa-balancing", **SCAN).counters
    assert made[WINDOWS] == pytest.approx(2 * 36, abs=2)
    assert made["mm.mprotect.change_pte_range"] == 1024 * made[WINDOWS]
    assert 0 < made["mm.memory.do_numa_page"] <= made["fault refault"] <= made["spte zapped"]


def test_a_page_that_moves_has_a_window_of_its_own() -> None:
    made = run("numa-balancing", **SCAN | {"migrates": 1.0}).counters
    moved = made["mmuwitness.simulate.kernel.numa.unmap_and_move"]
    assert made[WINDOWS] == made["mmuwitness.simulate.kernel.numa.task_numa_work"] + moved
    assert moved > 1000
    assert made["window empty"] >= 0.99 * moved, "the scan's window has zapped it before"


@pytest.mark.parametrize("arch", ["x86-tdp", "arm64"])
def test_windows_zap_what_is_pinned_though_the_scanner_skips_it(arch: str) -> None:
    """Nothing becomes PROT_NONE, and yet all that is scanned and used again is an exit."""
    made = run("numa-balancing", "as-is", arch, **SCAN, pinned=1.0).counters
    assert made.get("mm.memory.do_numa_page", 0) == 0
    assert made["spte zapped"] > PAGES
    assert made[EXITS] > 1000


def test_a_kernel_that_is_told_which_pages_they_are_zaps_none_of_those() -> None:
    made = run("numa-balancing", "numa-told", **SCAN, pinned=1.0).counters
    assert made["mm.mprotect.numa_skips"] > PAGES
    assert made.get("spte zapped", 0) == made.get(EXITS, 0) == 0


def test_older_kernels_took_pinned_pages_too() -> None:
    made = run("numa-balancing", era="v5.16", **SCAN, pinned=1.0).counters
    assert made["mm.memory.do_numa_page"] > 1000
