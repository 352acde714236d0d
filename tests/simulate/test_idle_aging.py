"""Aging: who flushes, what is zapped, and who exits for it."""

import pytest

from mmuwitness.simulate.kernel.aging import YOUNG
from tests.simulate.small_runs import EXITS, FLUSHES, PAGES, WINDOWS, run

AGING = {"guests": 1, "period": 1.0}
"""3.6 times all pages."""

RANGE_FLUSH = "arch.arch.Arch.flush_gfn"


def test_a_page_that_was_young_is_a_flush() -> None:
    made = run("idle-aging", "aging-flushes", **AGING).counters
    asked = made["mm.rmap.folio_referenced_one"]
    assert asked == pytest.approx(3.6 * PAGES, rel=0.05)
    assert PAGES < made[f"mark {YOUNG}"] < asked
    assert made[FLUSHES] == made[f"mark {YOUNG}"]
    assert made.get(EXITS, 0) == made.get(WINDOWS, 0) == 0


def test_of_the_range_alone_or_none() -> None:
    """The guest and the scan are the same; only who is told differs."""
    ranged = run("idle-aging", "aging-flushes-range", **AGING).counters
    none = run("idle-aging", "aging-never-flushes", **AGING).counters
    assert ranged[RANGE_FLUSH] == ranged[f"mark {YOUNG}"] > PAGES
    assert ranged.get(FLUSHES, 0) == none.get(FLUSHES, 0) == none.get(RANGE_FLUSH, 0) == 0


@pytest.mark.parametrize("arch", ["x86-tdp", "arm64"])
def test_who_zaps_to_see_what_is_young_pays_in_exits(arch: str) -> None:
    made = run("idle-aging", "age-zaps", arch, **AGING).counters
    assert made["spte zapped"] == made[f"mark {YOUNG}"] > PAGES
    assert made["fault refault"] <= made["spte zapped"]
    assert made[EXITS] > 0.5 * PAGES


def test_without_accessed_bits_the_next_access_exits_and_is_fixed_without_mmu_lock() -> None:
    made = run("idle-aging", "aging-never-flushes", **AGING, no_accessed_bit=True).counters
    assert made["arch.x86.X86.fast_pf_fix_direct_spte"] > PAGES
    assert made.get("arch.x86.X86Tdp.direct_page_fault", 0) == 0


def test_the_idle_bitmap_never_flushes() -> None:
    made = run("idle-aging", "aging-flushes", **AGING, page_idle=True).counters
    assert made["mm.mmu_notifier.mmu_notifier_clear_young"] > 3 * PAGES
    assert made.get(FLUSHES, 0) == 0
