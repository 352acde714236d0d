"""Migrations: passes and pages counted by hand, and who takes mmu_lock for a write."""

import pytest

from tests.simulate.small_runs import EXITS, PAGES, WINDOWS, run

WIRE = {"guests": 1, "bandwidth": 160.0, "downtime": 0.03, "touches": 50_000, "hot": 0.01}
"""4,096 pages take 0.1 s; the downtime is that of 1,228."""

PASSES, SENT, CONVERGED = "migration passes", "migration pages sent", "migrations converged"


def test_a_guest_that_does_not_write_is_sent_once() -> None:
    """All pages, none, and the end; nobody exits, since reads are let as before."""
    made = run("live-migration", **WIRE, writes=0.0).counters
    assert (made[PASSES], made[SENT], made[CONVERGED]) == (3, PAGES, 1)
    assert made.get(EXITS, 0) == 0


@pytest.mark.parametrize("arch", ["x86-tdp", "x86-shadow", "arm64"])
def test_a_write_exits_once_for_each_time_that_its_page_was_protected(arch: str) -> None:
    """All pages when logging begins, and again those that the log had."""
    made = run("live-migration", arch=arch, **WIRE).counters
    assert made[CONVERGED] == 1
    again = made[SENT] - PAGES
    assert 300 < again < made[EXITS] <= PAGES + again
    assert made.get(WINDOWS, 0) == 0


def test_who_fixes_a_fault_without_mmu_lock() -> None:
    """Since v3.6, on x86; arm64 takes it, to read since v5.18."""
    fast, slow = (run("live-migration", name, **WIRE) for name in ("as-is", "no-fast-page-fault"))
    assert fast.counters["lock KVM.mmu_lock"] == fast.counters[PASSES] - 1
    assert slow.counters["lock KVM.mmu_lock"] == slow.counters[PASSES] - 1 + slow.counters[EXITS]


def test_a_guest_that_writes_faster_than_the_wire_is_given_up() -> None:
    """All 4,096 pages are written in each pass, which takes 2 s; three of them, and the end."""
    more = {"bandwidth": 8.0, "touches": 500_000, "max_passes": 3, "hours": 0.002}
    made = run("live-migration", **WIRE | more).counters
    assert (made[PASSES], made[CONVERGED]) == (4, 0)
    assert made[SENT] == pytest.approx(3 * PAGES, rel=0.05)


HUGE_LEAVES = PAGES // 512


@pytest.mark.parametrize("arch", ["x86-tdp", "arm64"])
def test_huge_leaves_are_split_when_logging_begins(arch: str) -> None:
    """And then all is as with small ones; once it has ended a fault on arm64 maps a block again."""
    made = run("live-migration", arch=arch, **WIRE, huge=1.0).counters
    assert made["mmuwitness.simulate.kernel.split.split_huge_leaf"] == HUGE_LEAVES
    small = run("live-migration", arch=arch, **WIRE).counters
    blocks = made.get("arch.arch.Arch.map_huge", 0)
    assert blocks == (HUGE_LEAVES if arch == "arm64" else 0)
    assert made[EXITS] < 0.2 * small[EXITS] if blocks else made[EXITS] > 0.95 * small[EXITS]
    assert made[CONVERGED] == 1


def test_or_each_by_the_first_write_to_it() -> None:
    """x86 keeps the other leaves; arm64 drops the block, with all 512 that it maps."""
    lazy = {"huge": 1.0, "eager_split": False}
    x86 = run("live-migration", **WIRE, **lazy).counters
    assert x86["mmuwitness.simulate.kernel.split.split_huge_leaf"] == HUGE_LEAVES
    assert x86.get("spte zapped", 0) == 0
    arm64 = run("live-migration", arch="arm64", **WIRE, **lazy).counters
    assert arm64["arch.arch.Arch.zap_and_flush"] == HUGE_LEAVES
    assert arm64["spte zapped"] >= PAGES
