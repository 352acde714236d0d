"""Forks: one window each, and a copy for each page that a guest writes to while a child lives."""

import pytest

from tests.simulate.small_runs import PAGES, WINDOWS, run

FORKS = {"interval": 1.0, "lifetime": 0.4}
COPY = "mm.memory.wp_page_copy"
CHANGE_PTE = "mm.mmu_notifier.mmu_notifier_change_pte"


def test_a_window_for_each_fork_and_each_copy() -> None:
    """3.6 s: the first guest's forks begin at 0.25, 1.25, 2.25 and 3.25 s, the second's at 0.5 and
    so on."""
    made = run("cow-fork-snapshot", **FORKS).counters
    forks = made["mm.fork.dup_mmap"]
    assert forks == 8
    assert made["mm.memory.copy_present_pte"] == forks * PAGES
    assert made[WINDOWS] == forks + made[COPY]
    assert made["window empty"] < made[WINDOWS]
    assert 1000 < made[COPY] <= forks * PAGES


def test_nobody_copies_what_only_the_parent_has() -> None:
    """After a child has exited the page is the parent's alone: a write fault reuses it."""
    made = run("cow-fork-snapshot", **FORKS | {"lifetime": 1e-3}).counters
    assert made["mm.memory.wp_page_reuse"] > 10 * made[COPY]


def test_what_a_child_had_for_itself_is_freed() -> None:
    """At 3.4 s children of 0.5, 1.5 and 2.5 s have exited: pages are those of the guest again."""
    made = run("cow-fork-snapshot", **FORKS, guests=1, hours=3.4 / 3600).counters
    assert made["mm.mmap.exit_mmap"] == 3
    assert made[COPY] > 1000
    assert made["memory used pages"] == PAGES


@pytest.mark.parametrize("design", ["wrapped", "removed"])
def test_copies_change_ptes_where_there_is_that(design: str) -> None:
    made = run("cow-fork-snapshot", design, era="v6.1", **FORKS).counters
    calls = made.get(CHANGE_PTE, 0)
    assert calls == (0 if design == "removed" else pytest.approx(made[COPY], abs=2))
