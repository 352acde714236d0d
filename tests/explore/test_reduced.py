"""Exploring up to symmetry finds what exploring every state finds: the violated claims, the marks
that are reached, and deadlocks, in every pinned program and with every bug of the corpus."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mmuwitness.explore.explorer import Exploration, Schedule, explore
from mmuwitness.explore.programs import REDUCTIONS, Folding, fold_scenario, reductions_of
from mmuwitness.explore.replay import Replay
from mmuwitness.explore.schedule_id import format_schedule, parse_schedule
from mmuwitness.model.bugs.bug import corpus, find_bug
from mmuwitness.model.claims import CLAIMS
from mmuwitness.model.era import Era, UnknownName
from mmuwitness.model.host import find_arch
from mmuwitness.model.scenarios import LARGE, SCENARIOS, find_scenario
from tests.explore.test_pinned import entries, numbers

ALL = Folding(reduce=REDUCTIONS)
LARGE_STATES = {
    "dontneed_3vcpus": 450_727,
    "dontneed_2vcpus": 1_327_538,
    "dontneed_3gfns": 68_900,
    "ksm_2vcpus": 1_192_482,
    "ksm_cow_zap": 1_174_466,
}
"""Of those that take seconds; the others take minutes, and gigabytes."""

QUICK = ("ksm_first", "reclaim_one")


SOME = 30
"""Of the pinned programs and of the bugs every so many-th is put to the test each time, the others
by `make exhaustive`: what is alike in a program takes seconds to show."""


def pinned_programs() -> list[Any]:
    return [
        pytest.param(
            *(scenario, arch, eras.split()[0], entry),
            marks=marks_of(number, scenario in QUICK),
            id=f"{scenario}-{arch}-{eras.split()[0]}",
        )
        for number, (scenario, arch, eras, entry) in enumerate(entries())
    ]


def marks_of(number: int, quick: bool = False) -> list[Any]:
    if number % SOME == 0:
        return [] if quick else [pytest.mark.slow]
    return [pytest.mark.slow, pytest.mark.exhaustive]


def findings(found: Exploration) -> tuple[set[str], set[str], bool]:
    """What must not depend on how a program was explored."""
    assert found.complete
    return set(found.violated()), set(found.reached_marks()), found.result.deadlock is not None


@pytest.mark.parametrize(("scenario", "arch", "era", "entry"), pinned_programs())
def test_pinned_programs_up_to_symmetry(
    scenario: str, arch: str, era: str, entry: dict[str, Any]
) -> None:
    found = explore(SCENARIOS[scenario], Era(era), arch, folding=ALL)
    violated, _, deadlock = findings(found)
    reached = [c.name for c in CLAIMS.values() if c.kind == "sometimes" and found.reached(c.mark)]
    assert numbers(list(violated)) == entry.get("violated", "")
    assert " ".join(reached) == entry.get("reached", "")
    assert not deadlock
    # Any free page may be handed out, where the other program hands out the lowest: that can be a
    # state or two more where there is little to exchange (exit_reclaim: 107 and 106).
    assert found.result.states <= 1.02 * entry["states"]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=marks_of(n)) for n, name in enumerate(corpus())]
)
def test_bugs_up_to_symmetry(name: str) -> None:
    """With the bug and with its fix; and the schedules are of the model, not of what was kept."""
    bug = find_bug(name)
    for scenario, era in (
        (bug.broken_scenario, bug.broken_era),
        (bug.fixed_scenario, bug.fixed_era),
    ):
        every, reduced = (explore(scenario, era, bug.arch, folding=f) for f in (Folding(), ALL))
        assert findings(reduced) == findings(every)
    broken = explore(bug.broken_scenario, bug.broken_era, bug.arch, folding=ALL)
    violated = bug.violates.function
    assert violated is not None
    assert not violated(replayed(broken, broken.schedule_of(bug.violates)).host)


def replayed(found: Exploration, schedule: Schedule) -> Replay:
    """In CPython, from the ID as it is printed, to its end."""
    schedule = parse_schedule(format_schedule(schedule))
    how, arch = schedule.folding, find_arch(found.arch)
    replay = Replay(
        fold_scenario(found.scenario, found.era, found.arch, how),
        lambda: found.scenario.host(found.era, arch, how.claims, how.any_page_first),
    )
    for pid, choice in schedule.steps:
        assert replay.step(pid, choice)
    return replay


def test_each_reduction_can_be_asked_for_alone() -> None:
    scenario, era = find_scenario("dontneed_smp"), Era("v5.10")
    states = {}
    for names in ("none", "vcpus", "pages", "all"):
        how = Folding(reduce=reductions_of(scenario, names))
        found = explore(scenario, era, "x86-tdp", folding=how)
        states[names] = found.result.states
        assert findings(found) == findings(explore(scenario, era, "x86-tdp"))
        assert found.symmetric == list(how.reduce)
    assert states["all"] < states["pages"] < states["vcpus"] < states["none"]


def test_a_mark_is_reached_by_a_schedule_of_the_model() -> None:
    found = explore(SCENARIOS["memslot_delete"], Era("v6.1"), "arm64", folding=ALL)
    assert len(found.reached_marks()) > 1
    for mark in found.reached_marks():
        assert mark in replayed(found, found.schedule_to_mark(mark)).covered


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize(("name", "states"), LARGE_STATES.items())
def test_large_scenarios_are_complete(name: str, states: int) -> None:
    """On one kernel: they are not pinned for all."""
    found = explore(LARGE[name], Era("v5.10"), "x86-tdp", folding=ALL)
    assert findings(found) == (set(), set(), False)
    assert found.result.states == states


def test_large_scenarios_are_reduced_unless_told_otherwise() -> None:
    assert reductions_of(LARGE["ksm_3vcpus"], "auto") == REDUCTIONS
    assert reductions_of(SCENARIOS["ksm"], "auto") == ()
    assert reductions_of(LARGE["ksm_3vcpus"], "none") == ()
    assert reductions_of(SCENARIOS["ksm"], "pages,vcpus") == REDUCTIONS
    with pytest.raises(UnknownName, match="unknown reduction 'page': did you mean pages"):
        reductions_of(SCENARIOS["ksm"], "page")


def test_a_scenario_that_prefers_one_of_two_is_not_symmetric() -> None:
    """The neighbour's SPTE is mapped at the start: that breaks nothing, since it is a state like
    others.  A claim about one vCPU alone does."""
    from mmuwitness.model.claims.claim import always

    scenario = replace(find_scenario("dontneed_smp"), name="one-sided")
    assert explore(scenario, Era("v5.10"), "x86-tdp", folding=ALL).symmetric == list(REDUCTIONS)

    @always("")
    def first_vcpu_has_no_tlb(host: Any) -> Any:
        """Made for this test."""
        return not host.kvm.vcpus[0].tlb[0].write

    try:
        found = explore(scenario, Era("v5.10"), "x86-tdp", folding=ALL)
    finally:
        del CLAIMS["first_vcpu_has_no_tlb"]
    assert found.symmetric == ["pages"]
    assert "first_vcpu_has_no_tlb" in found.violated()
