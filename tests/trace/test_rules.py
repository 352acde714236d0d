"""Each rule: what it rejects, by traces made by hand, and that it accepts every real one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mmuwitness.trace.conform import RULES, RuleChecker, RulesResult, check_rules
from mmuwitness.trace.facts import Fact
from mmuwitness.trace.kernel import Dialect
from mmuwitness.trace.open import open_trace
from mmuwitness.trace.tracepoints import Kind
from tests.trace.stories import (
    FIXED,
    GFN,
    HVA,
    KSMD,
    KVM,
    MM,
    RETRY,
    VCPU,
    change_pte,
    departures,
    end,
    fact,
    fault,
    merge,
    nth,
    retried_fault,
    spte,
    start,
    story,
    with_fields,
    without,
)

DATA = Path(__file__).parents[1] / "data"
TRACES = sorted(
    str(path.relative_to(DATA))
    for path in DATA.rglob("*.xz")
    if path.name.endswith((".txt.xz", ".trace.xz", ".dat.xz")) and "_formats" not in path.name
)
STOCK = [name for name in TRACES if "-stock-" in name]


def check(name: str) -> RulesResult:
    return check_rules(open_trace(str(DATA / name)))


@pytest.mark.parametrize("name", TRACES)
def test_every_real_trace_obeys_the_rules(name: str) -> None:
    result = check(name)
    assert result.departures == () and result.complete
    assert not any("mmu_invalidate_seq rose" in note for note in result.notes)
    assert sum(rule.checked for rule in result.rules) > result.events / 10


def test_all_rules_are_checked_where_all_is_recorded() -> None:
    result = check("x86/6.1-tdp-cow-break.txt.xz")
    # Per lab: 86 windows of mm's, 85 of KVM's, each with an end; 79 change_pte, 16 retries.
    checked = {rule.name: rule.checked for rule in result.rules}
    assert checked["windows_balance"] == 86 + 85
    assert checked["change_pte_alone"] == 79
    assert checked["retry_has_reason"] == 2 * 16  # direct_page_fault() and its caller return it
    assert all(checked.values()) and not any(rule.record for rule in result.rules)


@pytest.mark.parametrize("name", STOCK)
def test_what_stock_events_do_not_tell_is_not_checked(name: str) -> None:
    rules = {rule.name: rule for rule in check(name).rules}
    assert rules["windows_balance"].checked == 0
    assert rules["windows_balance"].applies
    assert "__mmu_notifier_invalidate_range_end" in " ".join(rules["windows_balance"].record)
    assert rules["pfn_looked_up"].checked and rules["zapped_stays_zapped"].checked


def test_change_pte_after_v6_9_is_not_checked() -> None:
    rules = {rule.name: rule for rule in check("x86/6.12-tdp-ksm-merge.txt.xz").rules}
    for name, rule in rules.items():
        assert bool(rule.record) == name.startswith("change_pte")


def test_the_stories_are_accepted() -> None:
    assert departures(story()) == []
    assert departures([*merge(zapped=None), *fault(0x52, 1)]) == []
    during = [*fault(0x51, 0), *start(0x51, 0), *retried_fault(0x51), *end(0), *fault(0x52, 1)]
    assert departures(during) == []


Edit = Callable[[list[Fact]], int]
REJECTED: list[tuple[str, Edit]] = [
    ("kvm_inside_mm", without(Kind.MN_START)),
    ("kvm_inside_mm", with_fields(Kind.KVM_START, start=HVA + 4096, end=HVA + 8192)),
    ("calls_return", without(Kind.KVM_END)),
    ("calls_return", without(Kind.MN_CHANGE_PTE_RET)),
    ("pfn_looked_up", with_fields(Kind.MAP, pfn=0x99)),
    ("pfn_looked_up", with_fields(Kind.SPTE_REQUESTED, pfn=0x99)),
    ("pfn_looked_up", with_fields(Kind.SPTE_CHANGED, new=spte(0x99))),
    ("pfn_looked_up", with_fields(Kind.SET_SPTE, new=spte(0x99))),
    ("pfn_looked_up", with_fields(Kind.MAP, gfn=GFN + 1)),
    ("install_is_asked", without(Kind.SPTE_REQUESTED)),
    ("install_is_asked", without(Kind.SET_SPTE)),
    ("install_is_asked", with_fields(Kind.FAULT_RET, ret=RETRY)),
    ("zapped_stays_zapped", with_fields(Kind.SPTE_CHANGED, old=spte(0x52))),
    ("zapped_stays_zapped", without(Kind.SPTE_CHANGED, 2)),  # an install
    ("zapped_stays_zapped", without(Kind.SPTE_CHANGED, 3)),  # a zap
    ("unmap_tells", with_fields(Kind.SPTE_CHANGED, 3, gfn=GFN + 1)),
    ("count_moves", with_fields(Kind.KVM_END, in_progress=0)),
    ("count_moves", with_fields(Kind.KVM_END, active=2)),
    ("seq_moves", with_fields(Kind.MAP, seq=1)),
    ("seq_moves", with_fields(Kind.KVM_CHANGE_PTE, seq=2)),
    ("range_covers", with_fields(Kind.KVM_END, range_start=HVA - 4096)),
    ("change_pte_in_window", with_fields(Kind.MN_CHANGE_PTE, address=HVA + 4096)),
    ("change_pte_counted", with_fields(Kind.KVM_CHANGE_PTE, active=0)),
    ("change_pte_hands_down", with_fields(Kind.KVM_CHANGE_PTE, new=0x99025)),
    ("change_pte_hands_down", with_fields(Kind.SET_SPTE_GFN, gfn=GFN + 1)),
]


@pytest.mark.parametrize(("rule", "edit"), REJECTED)
def test_a_story_that_is_edited_is_rejected(rule: str, edit: Edit) -> None:
    facts = story()
    place = edit(facts)
    found = departures(facts)
    near = [each for each in found if abs(each.fact.row - place) <= 8]
    assert rule in {each.rule for each in near}, found
    assert found[0] in near


def expect(rule: str, facts: list[Fact], row: int) -> None:
    found = departures(facts)
    assert (found[0].rule, found[0].fact.row) == (rule, row), found


def test_no_install_in_an_open_window() -> None:
    facts = [*fault(0x51, 0), *start(0x51, 0), *fault(0x51, 0), *end(0)]
    expect("no_install_in_window", facts, nth(facts, Kind.MAP))


def test_the_window_of_a_page_is_known_by_its_hva_too() -> None:
    """Without a probe on kvm_unmap_gfn_range: gfn and hva go together in the fault's lookup."""
    facts = [*fault(0x51, 0), *start(0x51, 0), *fault(0x51, 0), *end(0)]
    untold = (Kind.UNMAP_GFN, Kind.UNMAP_GFN_RET, Kind.SPTE_CHANGED)
    facts = [each for each in facts if each.kind not in untold]
    expect("no_install_in_window", facts, nth(facts, Kind.MAP))
    other = [*fault(0x51, 0), *start(0x51, 0), *fault(0x61, 0, page=3), *end(0)]
    assert departures([each for each in other if each.kind not in untold]) == []


def test_a_window_of_another_page_stops_no_install() -> None:
    facts = [*fault(0x51, 0), *start(0x51, 0), *fault(0x61, 0, page=3), *end(0)]
    assert departures(facts) == []


def test_an_install_may_come_before_start_has_taken_mmu_lock() -> None:
    opened = start(0x51, 0)
    facts = [*opened[:3], *fault(0x51, 0), *opened[3:], *end(0)]
    assert departures(facts) == []


def test_nothing_looked_up_before_a_window_is_mapped_behind_it() -> None:
    read = fault(0x51, 1)
    facts = [*fault(0x51, 0), *read[:4], *merge(), *read[4:]]
    expect("maps_after_window", facts, nth(facts, Kind.MAP))


def test_nothing_is_mapped_that_the_primary_mmu_has_dropped() -> None:
    read = fault(0x51, 1)
    drop = fact(Kind.CALL, KSMD, function="ptep_clear_flush", mm=MM, address=HVA)
    before = [*fault(0x61, 0, page=1), *merge(page=1, zapped=0x61)]
    facts = [*before, *read[:4], drop, *read[4:]]
    expect("maps_after_window", facts, nth(facts, Kind.MAP))


def test_a_retry_needs_a_reason() -> None:
    facts = [*story(), *retried_fault(0x53)]
    expect("retry_has_reason", facts, len(facts) - 2)


def test_windows_that_their_task_leaves_open() -> None:
    left = [*story(), *start(0x53, 2), fact(Kind.HOST_FAULT, KSMD, address=HVA), *end(2)]
    expect("windows_balance", left, nth(left, Kind.HOST_FAULT))
    # The trace may end in a window.
    assert departures([*story(), *start(0x53, 2)]) == []


def test_an_end_without_a_start() -> None:
    facts = [*story(), *end(2)]
    expect("windows_balance", facts, nth(facts, Kind.MN_END))


def test_mm_windows_reach_kvm() -> None:
    facts = story()
    first, last = nth(facts, Kind.KVM_START, 0), nth(facts, Kind.KVM_START_RET, 0)
    silent = [*merge(page=1, zapped=None), *facts[:first], *facts[last + 1 :]]
    assert departures(silent)[0].rule in ("kvm_inside_mm", "seq_moves")
    assert "kvm_inside_mm" in {each.rule for each in departures(silent)}


def test_change_pte_outside_of_its_window() -> None:
    facts = [*story(), *start(0x53, 2), *end(2), *change_pte(0x54, 3)]
    expect("change_pte_in_window", facts, nth(facts, Kind.MN_CHANGE_PTE))


def test_change_pte_reaches_the_arch_only_when_counted() -> None:
    facts = story()
    place = with_fields(Kind.KVM_CHANGE_PTE, in_progress=0)(facts)
    found = {(each.rule, each.fact.row) for each in departures(facts)}
    assert ("change_pte_counted", nth(facts, Kind.SET_SPTE_GFN)) in found
    assert ("count_moves", place) in found


@pytest.mark.parametrize(("open_windows", "rule"), [(1, None), (2, "change_pte_alone")])
def test_change_pte_makes_a_leaf_only_alone(open_windows: int, rule: str | None) -> None:
    """arm64: the store of a leaf in change_pte while another page is being invalidated."""
    leaf = 0x54 << 12 | 0x77D
    stored = [
        fact(Kind.STAGE2_MAP, KSMD, gfn=GFN, pfn=0x54, size=4096, memcache=0),
        fact(Kind.SPTE_STORE, KSMD, gfn=GFN, old=0, new=leaf),
        fact(Kind.STAGE2_MAP_RET, KSMD, ret=0),
    ]
    other = 30
    calls = change_pte(0x54, 0)
    handler = nth(calls, Kind.SET_SPTE_GFN)
    calls = [
        each._replace(in_progress=open_windows, active=open_windows)
        if each.kind == Kind.KVM_CHANGE_PTE
        else each
        for each in calls
    ]
    hull = (HVA, HVA + (4 << 12))
    calls = [
        each._replace(range_end=hull[1]) if open_windows == 2 and each.range_end else each
        for each in calls
    ]
    facts = [*start(None, 0, page=3, pid=other)] if open_windows == 2 else []
    range_ = (HVA + (3 << 12), HVA + (4 << 12)) if facts else (0, 0)
    facts += start(None, 0, others=open_windows - 1, hull=range_)
    facts += [*calls[: handler + 1], *stored, *calls[handler + 1 :]]
    facts += end(0, open_windows=open_windows, hull=hull if open_windows == 2 else None)
    found = departures(facts, "arm64", "stage2")
    assert [each.rule for each in found] == ([rule] if rule else [])


def test_change_pte_raises_seq_until_v5_12() -> None:
    read = [*fault(0x51, 0), *start(0x51, 0), *change_pte(0x52, 0)]
    old, new = [*read, *end(1), *fault(0x52, 2)], [*read, *end(0), *fault(0x52, 1)]
    assert departures(old, era="v5.10") == [] == departures(new, era="v6.1")
    found = departures(new, era="v5.10")
    assert (found[0].rule, found[0].fact.kind) == ("seq_moves", Kind.KVM_END)


def test_change_pte_has_no_window_before_v3_7() -> None:
    facts = [*fault(0x51, 0), *merge(), *change_pte(0x54, 3)]
    assert "change_pte_in_window" in {each.rule for each in departures(facts)}
    old = departures(facts, era="v3.4")
    assert "change_pte_in_window" not in {each.rule for each in old}


def test_a_start_that_fails_needs_no_end() -> None:
    """The OOM reaper's start must not sleep: it gives up with -EAGAIN."""
    gave_up = [
        each._replace(ret=-11) if each.kind == Kind.MN_START_RET else each
        for each in start(None, 1, page=1)
    ]
    facts = [*fault(0x51, 0), *merge(), *gave_up, fact(Kind.HOST_FAULT, KSMD, address=HVA)]
    assert departures(facts) == []
    kept = [each._replace(ret=0) if each.kind == Kind.MN_START_RET else each for each in facts]
    expect("windows_balance", kept, len(kept) - 1)


def test_what_was_lost_is_not_held_against_a_trace() -> None:
    """Half of a window is missing: what follows the loss begins anew."""
    facts = [each._replace(row=row) for row, each in enumerate(story())]
    cut = nth(facts, Kind.MN_CHANGE_PTE)
    lost = nth(facts, Kind.KVM_END)
    assert departures([*facts[:cut], *facts[lost + 1 :]]) != []
    checker = RuleChecker(Dialect("x86", "tdp"))
    checker.feed(facts[:cut])
    checker.finish(whole=False)
    checker.feed(facts[lost + 1 :])
    checker.finish()
    assert checker.departures == []


def test_mmu_lock_is_held_alone() -> None:
    opened, read = start(0x51, 0), fault(0x61, 0, page=1)
    facts = [*fault(0x51, 0), *opened[:4], *read, *opened[4:], *end(0)]
    expect("mmu_lock", facts, len(fault(0x51, 0)) + 4 + nth(read, Kind.MAP))


def test_nothing_is_zapped_where_nothing_is() -> None:
    facts = [*fault(0x51, 0), *merge(), *merge(zapped=None, seq=1)]
    assert departures(facts) == []
    place = with_fields(Kind.UNMAP_GFN_RET, ret=1)(facts)
    expect("unmap_tells", facts, place)


def test_an_spte_that_start_did_not_zap() -> None:
    facts = [*fault(0x51, 0), *start(None, 0), *end(0)]
    expect("zapped_stays_zapped", facts, nth(facts, Kind.UNMAP_GFN_RET))


def test_two_vms_are_told_apart_or_not_judged() -> None:
    """Both have this gfn; one is zapped, the other's SPTE stays."""
    other_vcpu = 11
    first = fault(0x51, 0)
    second = [
        each._replace(vcpu=0 if each.vcpu == 0 else None) for each in fault(0x71, 0, pid=other_vcpu)
    ]
    # Both are in their guests at once, on vCPU 0: two VMs.
    begin = [fact(Kind.ENTRY, VCPU, vcpu=0), fact(Kind.ENTRY, other_vcpu, vcpu=0)]
    facts = [*begin, *first, *second, *start(0x51, 0), *end(0)]
    assert departures(facts) == []
    assert departures([*first, *second]) != []  # one VM: the second install finds an SPTE


def test_every_rule_is_tested_and_says_what_it_is() -> None:
    named = {rule for rule, _ in REJECTED} | {
        *("no_install_in_window", "maps_after_window", "retry_has_reason", "windows_balance"),
        *("change_pte_alone", "mmu_lock"),
    }
    assert {rule.name for rule in RULES} == named
    assert all(rule.text.endswith(".") and len(rule.text) > 60 for rule in RULES)
    assert FIXED != RETRY and KVM != MM
