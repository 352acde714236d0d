"""The survey of mutants: of a few of them it is known what becomes of them."""

from __future__ import annotations

import pytest

from mmuwitness.explore.mutants import judge, place
from mmuwitness.model.era import Era
from mmuwitness.model.scenarios import find_scenario
from tests.model.survey import Outcome, judged, list_of_changes, unexplained
from tests.model.survivors import groups, reasons


def test_changes_have_names_of_their_own() -> None:
    names = [change.name for change in list_of_changes()]
    assert len(set(names)) == len(names)


def test_every_reason_is_of_a_change() -> None:
    assert not reasons().keys() - {change.name for change in list_of_changes()}


def test_every_change_has_one_reason() -> None:
    named = [change for group in groups() for change in group.changes]
    assert len(set(named)) == len(named)
    assert all(group.because.endswith(".") and group.changes for group in groups())


def test_the_survey_wants_reasons_for_survivors_alone() -> None:
    numbers = {change.name: number for number, change in enumerate(list_of_changes())}
    known = next(iter(reasons()))
    other = next(name for name in numbers if name not in reasons())
    found = [Outcome(numbers[known], "caught"), Outcome(numbers[other], "survived")]
    assert unexplained(found) == [
        f"caught, but a reason is given: {known}",
        f"survives, and no reason is given: {other}",
    ]
    found = [Outcome(numbers[known], "survived"), Outcome(numbers[other], "caught")]
    assert not unexplained(found)


@pytest.mark.parametrize(
    ("name", "scenario", "by"),
    [
        ("write_protect_page: `page.mapcount + 1 != page.refcount` taken as False", "ksm_dma",
         "no_lost_write"),
        ("replace_page: without `ptep_clear_flush(mm, addr)`", "ksm_thread", "no_lost_write"),
        ("unmap_and_move: `page.mapcount == 0 and page.refcount == 1` taken as True",
         "migrate_dma", "no_lost_write"),
        ("is_merge_target: `page is kpage` in place of `page is not kpage`", "ksm",
         "happens no more: shared"),
        ("unmap_and_move: without `put_page(page)`", "migrate_once", "references_are_dropped"),
        ("lru_cache_add: without `page.lru = True`", "reclaim_once", "mapped_page_on_lru"),
        ("stable_tree_append: without `kpage.rmap[addr] = True`", "merge_first_once",
         "mapped_page_on_lru"),
        ("wp_page_copy: without `put_page(new)`", "cow_once", "references_are_dropped"),
        ("migrate_pages_batch: without `putback_lru_page(page)`", "lru_once",
         "references_are_dropped"),
        ("zap_page_range: without `put_page(page)`", "drop_once", "references_are_dropped"),
        ("unmap_mapping_pages: without `put_page(page)`", "drop_once", "references_are_dropped"),
        ("map_zero_page: `pte_none(mm.pte[addr])` taken as False", "zero_page_once",
         "fault_maps"),
        ("handle_mm_fault: `not vma_allows(mm, addr, write)` taken as True", "mprotect_once",
         "fault_maps"),
        ("try_to_unmap_one: `should_defer_flush(mm, entry)` taken as True", "migrate_thread",
         "no_lost_write"),
        ("kvm_vm_ioctl: without `kvm_set_memory_region(kvm, back)`", "memslot_delete",
         "happens no more: created again"),
        ("do_numa_page: `mm.pte[addr] == pte` taken as False", "numa_once", "fault_maps"),
    ],
)  # fmt: skip
def test_who_notices(name: str, scenario: str, by: str) -> None:
    (change,) = [each for each in list_of_changes() if each.name == name]
    where = place(find_scenario(scenario), Era("v7.3"), "x86-tdp")
    assert judge(change, where).by == by


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "caught"),
    [
        ("kvm_mmu_invalidate_end: without `kvm.mmu_invalidate_seq.bump()`", True),
        ("write_protect_page: `page.mapcount + 1 != page.refcount` taken as False", True),
        ("kvm_mmu_invalidate_begin: without `kvm.mmu_invalidate_in_progress += 1`", True),
        ("kvm_flush_remote_tlbs: without `kvm.arch.flush_remote_tlbs(kvm)`", True),
        # nobody reads the range while the count is 0
        ("kvm_mmu_invalidate_end: without `kvm.mmu_invalidate_range_start = 0`", False),
    ],
)
def test_what_becomes_of_a_change(name: str, caught: bool) -> None:
    (change,) = [each for each in list_of_changes() if each.name == name]
    assert judged(change).caught == caught
