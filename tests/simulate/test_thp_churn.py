"""Huge pages: a split is a window over 512 pages, and one fault maps them all once collapsed."""

import pytest

from tests.simulate.small_runs import EXITS, PAGES, WINDOWS, run

CHURN = {"drops": 50.0, "scan_sleep_millisecs": 100.0}
SPLIT = "mm.huge_memory.__split_huge_pmd"
COLLAPSED = "mmuwitness.simulate.kernel.huge.copy_to_huge_page"


@pytest.mark.parametrize("arch", ["x86-tdp", "arm64"])
def test_windows_are_those_of_drops_splits_and_collapses(arch: str) -> None:
    made = run("thp-churn", arch=arch, **CHURN).counters
    drops = made["mm.memory.zap_page_range_single"]
    assert drops == pytest.approx(2 * 50 * 3.6, rel=0.05)
    tried = made["mmuwitness.simulate.kernel.huge.collapse_huge_page"]
    assert made[WINDOWS] == drops + made[SPLIT] + tried
    assert 0 < made[COLLAPSED] <= tried
    assert made["arch.arch.Arch.map_huge"] > 0


def test_huge_pmds_are_those_that_were_collapsed_and_not_split_since() -> None:
    made = run("thp-churn", **CHURN).counters
    assert made["huge pmds"] == 2 * PAGES // 512 - made[SPLIT] + made[COLLAPSED]


def test_a_huge_leaf_is_one_exit_for_512_pages() -> None:
    """Small pages never huge, without khugepaged's passes, exit one by one for what is dropped;
    with it each collapse has a huge leaf mapped again by the first exit, if not by one that was
    faster."""
    made = run("thp-churn", drops=1e-3, huge=0.0, scan_sleep_millisecs=100.0).counters
    assert made[COLLAPSED] == 2 * PAGES // 512 == made["huge pmds"]
    assert made["spte zapped"] == pytest.approx(2 * PAGES, abs=2)
    assert made["arch.arch.Arch.map_huge"] == 2 * PAGES // 512
    assert made[EXITS] <= 2 * PAGES // 512 + 600, "faults while a PMD is none or is being copied"
