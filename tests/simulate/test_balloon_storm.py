"""Ranges that are dropped: windows counted by hand, and who retries for them."""

import pytest

from tests.simulate.small_runs import EXITS, PAGES, WINDOWS, run

STORM = {"ranges": 1000, "range_pages": 32}


def test_a_window_for_each_range_and_a_fault_for_each_page_that_is_wanted_again() -> None:
    made = run("balloon-storm", **STORM).counters
    assert made[WINDOWS] == pytest.approx(2 * 1000 * 3.6, rel=0.05)
    assert made["fault first"] == 0
    assert made["spte zapped"] > made["fault refault"] > 1000
    dropped, mapped = made["mm.rmap.page_remove_rmap"], made["mm.rmap.page_add_new_anon_rmap"]
    assert made["memory saved pages"] == dropped - mapped


def test_without_a_balloon_nobody_exits() -> None:
    made = run("balloon-storm", "nothing", **STORM).counters
    assert made["guest touches"] > 0
    assert made.get(EXITS, 0) == made.get(WINDOWS, 0) == 0


@pytest.mark.parametrize("arch", ["x86-tdp", "arm64"])
def test_who_asks_for_his_own_gfn_retries_less(arch: str) -> None:
    """A window is over 32 pages of 4,096: of the faults that come while one is open nearly all are
    elsewhere.  What is left are those during which one closes, of which nobody knows where."""
    retries = {
        design: run("balloon-storm", design, arch, **STORM, vcpus=2).counters["fault retry"]
        for design in ("global-retry", "ranged-retry", "precise-ranges")
    }
    assert retries["ranged-retry"] < 0.8 * retries["global-retry"]
    assert retries["precise-ranges"] <= 1.05 * retries["ranged-retry"]


def test_consecutive_ranges_pass_over_all_memory() -> None:
    """128 ranges are one pass, so 3.6 s at 256 a second drop every page at least six times; with
    hardly a touch all memory is away."""
    made = run("balloon-storm", ranges=256, range_pages=32, random=False, touches=10).counters
    assert made["memory saved pages"] > 0.98 * 2 * PAGES
