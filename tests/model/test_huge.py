"""Huge pages: what splitting, collapsing and unsharing need, shown by leaving it out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mmuwitness.model.mm.huge_memory import (
    __split_huge_pmd_locked,
    pmdp_collapse_flush,
    set_pmd_huge,
)
from mmuwitness.model.mm.khugepaged import __collapse_huge_page_copy, __collapse_huge_page_isolate
from mmuwitness.model.mm.mm_types import (
    PMD_HUGE,
    PMD_NONE,
    PMD_TABLE,
    alloc_huge_page,
    get_page,
    nth_page,
    pmd_of,
    put_page,
)
from mmuwitness.model.mm.mmu_notifier import (
    mmu_notifier_invalidate_range_end,
    mmu_notifier_invalidate_range_start,
)
from mmuwitness.model.mm.rmap import page_add_new_anon_rmap
from mmuwitness.model.primitives import atomic, spin_lock, write_lock
from mmuwitness.model.scenarios import find_scenario
from tests.model.mutants import Outcome, model_function, outcome, outcome_of
from tests.model.story import Story

I1, I2, I3 = "coherent", "absent_in_window", "no_stale_tlb_entry"
I4, I6 = "freed_page_unmapped", "no_lost_write"
STALE = {I1, I3, I4, I6}


def split_without_window(mm, addr):
    with spin_lock(mm.ptl):
        if mm.pmd[pmd_of(addr)] == PMD_HUGE:
            __split_huge_pmd_locked(mm, addr)


def collapse_with_window(mm, addr, closes_first):
    """collapse_huge_page() that closes its window before it clears the PMD, or opens none."""
    first = alloc_huge_page(mm)
    if first is None:
        return
    second = nth_page(mm, first, 1)
    collapsed = False
    with write_lock(mm.mmap_lock):
        if mm.pmd[pmd_of(addr)] == PMD_TABLE:
            if closes_first:
                mmu_notifier_invalidate_range_start(mm, addr, addr + 2)
                mmu_notifier_invalidate_range_end(mm, addr, addr + 2)
            with spin_lock(mm.ptl):
                pmdp_collapse_flush(mm, addr)
                collapsed = __collapse_huge_page_isolate(mm, addr)
            if collapsed:
                __collapse_huge_page_copy(mm, addr, first)
                __collapse_huge_page_copy(mm, addr + 1, second)
            with spin_lock(mm.ptl):
                if collapsed:
                    page_add_new_anon_rmap(first, addr)
                    page_add_new_anon_rmap(second, addr + 1)
                    set_pmd_huge(mm, addr, first, second)
                else:
                    mm.pmd[pmd_of(addr)] = PMD_TABLE
    if not collapsed:
        put_page(first)
        put_page(second)


def collapse_after_window(mm, addr):
    collapse_with_window(mm, addr, True)


def collapse_without_window(mm, addr):
    collapse_with_window(mm, addr, False)


def fast_without_pmd(mm, addr, write):
    """What a table that khugepaged has detached says is believed."""
    with atomic("IRQs are off"):
        pte = mm.pte[addr]
        if pte.present and (pte.write or not write):
            get_page(pte.page)
            return pte.page
    return None


def fast_with_pmd_once(mm, addr, write):
    """The PMD is read first, and not again: what GUP-fast without IPIs did until commit
    70cbc3cc78a9 ("mm: gup: fix the fast GUP race against THP collapse") in v6.0."""
    if mm.pmd[pmd_of(addr)] == PMD_NONE:
        return None
    return fast_without_pmd(mm, addr, write)


def zap_nothing_huge_in_part(self, kvm, range):
    """x86, if it skipped what a range covers in part, as RISC-V does."""
    flush = False
    for gfn in kvm.gfns:
        if range.start <= gfn and gfn < range.end and kvm.spte[gfn].present:
            whole = range.start <= 0 and range.end >= 2
            if whole or not self.is_huge(kvm, gfn):
                self.zap_leaf(kvm, gfn)
                flush = True
    return flush


def flush_half(self, kvm, gfn):
    self.flush_gfn(kvm, gfn)


def keep_range(addr):
    return addr, addr + 1


MUTANTS: dict[str, tuple[str, Any]] = {
    "a split opens no window": ("mm.huge_memory.__split_huge_pmd", split_without_window),
    "khugepaged closes its window first": (
        "mm.khugepaged.collapse_huge_page",
        collapse_after_window,
    ),
    "khugepaged opens no window": ("mm.khugepaged.collapse_huge_page", collapse_without_window),
    "GUP-fast ignores the PMD": ("mm.gup.get_user_page_fast_only", fast_without_pmd),
    "GUP-fast reads the PMD once": ("mm.gup.get_user_page_fast_only", fast_with_pmd_once),
    "huge leaves are not zapped in part": (
        "arch.arch.Arch.kvm_unmap_gfn_range",
        zap_nothing_huge_in_part,
    ),
    "half of a huge leaf is flushed": ("arch.arch.Arch.flush_huge", flush_half),
    "unsharing is told for one page": (
        "mm.hugetlb.adjust_range_if_pmd_sharing_possible",
        keep_range,
    ),
}

BREAKS = [
    # since v5.12 a fault beside the window of who unmaps a part puts the huge leaf back
    ("a split opens no window", "thp", "v6.12", "x86-tdp", {*STALE, I2}),
    ("a split opens no window", "thp", "v7.3", "riscv", {*STALE, I2}),
    ("khugepaged closes its window first", "thp", "v6.12", "x86-tdp", STALE),
    ("khugepaged opens no window", "thp", "v6.12", "arm64", STALE),
    ("GUP-fast ignores the PMD", "thp", "v6.12", "x86-shadow", {*STALE, I2}),
    ("half of a huge leaf is flushed", "thp", "v6.12", "arm64", {I3, I4, I6}),
    ("unsharing is told for one page", "hugetlb_shared", "v6.12", "x86-tdp", {I1, I3}),
]

HARMLESS = [
    # arm64 retries while any window is open, and zaps a block that a range covers in part
    ("a split opens no window", "thp", "v6.12", "arm64"),
    # a fault takes its snapshot before it reads the PMD: the window of a collapse is after that
    ("GUP-fast reads the PMD once", "thp", "v6.12", "arm64"),
    ("GUP-fast reads the PMD once", "thp", "v6.12", "x86-tdp"),
    # the window of the split comes before anything changes
    ("huge leaves are not zapped in part", "thp", "v6.12", "x86-shadow"),
]


def mutated(what: str, scenario: str, era: str, arch: str) -> Outcome:
    name, function = MUTANTS[what]
    assert model_function(name) is not function
    made = replace(find_scenario(scenario), name=f"{scenario}, {what}", overrides={name: function})
    return outcome_of(made, era, arch)


@pytest.mark.slow
@pytest.mark.parametrize(("what", "scenario", "era", "arch", "broken"), BREAKS)
def test_a_mutant_breaks_what_it_should(
    what: str, scenario: str, era: str, arch: str, broken: set[str]
) -> None:
    assert outcome(scenario, era, arch).violated == set()
    found = mutated(what, scenario, era, arch)
    assert found.complete and found.violated == broken


@pytest.mark.slow
@pytest.mark.parametrize(("what", "scenario", "era", "arch"), HARMLESS)
def test_a_mutant_does_no_harm_there(what: str, scenario: str, era: str, arch: str) -> None:
    found = mutated(what, scenario, era, arch)
    assert found.complete and found.violated == set()
    assert found.states != outcome(scenario, era, arch).states


def test_every_mutant_is_used() -> None:
    assert {row[0] for row in (*BREAKS, *HARMLESS)} == set(MUTANTS)


# Stories

READ, READ_BESIDE, WRITE = 0, 1, 2


def test_a_huge_pmd_is_split_in_a_window_of_its_own() -> None:
    story = Story("thp", "v6.12", "x86-tdp")
    mm, kvm, vcpu = story.mm, story.kvm, story.vcpus[0]
    story.do("vcpu0", READ)
    assert kvm.huge[0] and kvm.spte[1].page is story.pages[1]
    story.do("vcpu0", READ)
    assert vcpu.tlb[0].present and vcpu.tlb[1].present  # one walk, one entry

    story.go("madvise", lambda: mm.open_windows[0] == 1)
    assert not kvm.huge[0] and not kvm.spte[1].present  # all of it, for the sake of a half
    assert not vcpu.tlb[1].present

    # The PMD is huge still, and a fault beside the window puts the leaf back, under the window.
    story.do("vcpu0", READ_BESIDE)
    assert kvm.huge[0] and kvm.spte[0].page is story.pages[0] and mm.open_windows[0] == 1
    story.go("madvise", lambda: mm.open_windows[1] == 1)
    assert not kvm.spte[0].present and mm.pmd[0] == PMD_HUGE
    story.go("madvise", lambda: mm.pmd[0] == PMD_TABLE)
    story.go("madvise", lambda: mm.open_windows[1] == 0)
    story.do("vcpu0", READ_BESIDE)
    assert not kvm.spte[1].present  # the sequence moved; and again
    story.go("madvise", lambda: mm.invalidating == 0)
    story.do("vcpu0", READ_BESIDE)
    assert not kvm.huge[0] and kvm.spte[1].page is story.pages[1] and not kvm.spte[0].present


def test_a_collapse_closes_its_window_before_it_copies() -> None:
    story = Story("thp", "v6.12", "arm64")
    mm, kvm = story.mm, story.kvm
    story.do("vcpu0", READ)
    story.go("madvise", lambda: mm.pmd[0] == PMD_TABLE)
    story.go("madvise", lambda: mm.invalidating == 0)
    story.go("madvise", lambda: mm.mmap_lock.readers == set())
    story.go("khugepaged", lambda: mm.pmd[0] == PMD_NONE)
    assert mm.open_windows[1] == 1 and not kvm.spte[1].present
    story.go("khugepaged", lambda: mm.invalidating == 0)
    assert mm.pmd[0] == PMD_NONE and mm.pte[1].present  # the table is khugepaged's now
    assert story.step("vcpu0", READ_BESIDE)
    story.blocks("vcpu0")  # GUP-fast finds no PMD, the slow path waits for mmap_lock
    story.go("khugepaged", lambda: mm.pmd[0] == PMD_HUGE)
    assert [mm.pte[a].page for a in mm.addresses] == story.pages[2:]
    story.go("khugepaged", lambda: mm.mmap_lock.owner is None)
    story.finish("vcpu0")
    assert kvm.huge[0] and kvm.spte[1].page is story.pages[3]


def test_riscv_leaves_a_huge_leaf_that_is_unmapped_in_part() -> None:
    story = Story("thp", "v7.3", "riscv")
    mm, kvm = story.mm, story.kvm
    story.do("vcpu0", READ)
    assert kvm.huge[0]
    story.go("madvise", lambda: mm.open_windows[0] == 1)
    assert kvm.huge[0] and kvm.spte[0].present
    story.go("madvise", lambda: mm.open_windows[0] == 2)  # that of the split
    assert not kvm.huge[0] and not kvm.spte[0].present


def test_who_shares_a_table_is_unshared_and_shares_again() -> None:
    story = Story("hugetlb_shared", "v6.12", "x86-tdp")
    mm, kvm, old = story.mm, story.kvm, story.pages[0]
    story.do("vcpu0", READ_BESIDE)
    assert kvm.spte[1].page is story.pages[1]
    guest_first = 0
    story.go("kcompactd", lambda: mm.open_windows[1] == 1, [guest_first])
    assert not kvm.spte[1].present  # the window is over all that the table maps
    story.go("kcompactd", lambda: not mm.pmd_shared)
    assert not mm.pte[1].present and mm.pte[3].page is story.pages[1]
    assert old.mapcount == 1
    story.go("kcompactd", lambda: old.refcount == 0)
    assert mm.pte[2].page is story.pages[2]
    story.finish("kcompactd")
    story.do("vcpu0", READ)
    assert mm.pmd_shared and kvm.spte[0].page is story.pages[2]
