"""What has to happen in the end, on each kernel: pinned, with the reason where it does not."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from functools import cache, partial

import pytest

from mmuwitness import check
from mmuwitness.explore import lasso
from mmuwitness.explore.explorer import Exploration, explore
from mmuwitness.explore.programs import Folding, fold_scenario, folded_host
from mmuwitness.explore.replay import Replay
from mmuwitness.explore.schedule_id import BadSchedule, format_schedule, parse_schedule
from mmuwitness.model.bugs.bug import find_bug
from mmuwitness.model.claims import CLAIMS, EVENTUALLY
from mmuwitness.model.host import find_arch
from mmuwitness.model.kvm.vcpu import vcpu_access_once
from mmuwitness.model.scenarios import SCENARIOS, find_scenario
from mmuwitness.model.scenarios.liveness import LIVENESS
from mmuwitness.model.scenarios.scenario import Scenario
from mmuwitness.report.check_report import check_text, exit_code
from mmuwitness.report.witness import steps_of, timeline_text
from tests.model.mutants import MUTANTS, kernel

LIVE = Folding(liveness=True)
MAPS, PASS, CLOSE = "fault_maps", "other_windows_pass", "windows_close"
UPDATE, CACHE = "memslot_update_ends", "cache_refreshes"

HOLD: set[str] = set()
VERDICTS = [
    # Windows are finitely many: everything ends, also where faults loop in the host.
    ("fault_once", "x86-shadow", "v2.6.32", HOLD),
    ("fault_once", "x86-tdp", "v6.1", HOLD),
    ("fault_once", "x86-tdp", "v7.3", HOLD),
    ("fault_once", "arm64", "v6.1", HOLD),
    ("fault_once", "riscv", "v7.3", HOLD),
    ("fault_once", "mips", "v5.10", HOLD),
    ("fault_once", "loongarch", "v7.3", HOLD),
    ("fault_once", "powerpc-hv", "v6.1", HOLD),
    ("fault_once", "powerpc-hpt", "v6.1", HOLD),
    ("fault_once_smp", "x86-tdp", "v6.1", HOLD),
    ("fault_once_smp", "mips", "v5.10", HOLD),
    ("memslot_fault", "x86-shadow", "v2.6.32", HOLD),
    ("memslot_fault", "x86-tdp", "v6.1", HOLD),
    ("memslot_fault", "loongarch", "v7.3", HOLD),
    # Pages are merged, reclaimed, moved, asked for: guests get them, and nobody keeps them.
    ("merge_once", "x86-tdp", "v7.3", HOLD),
    ("merge_once", "arm64", "v6.9", HOLD),
    ("merge_once", "x86-shadow", "v3.6", HOLD),
    ("unmerge_once", "x86-tdp", "v7.3", HOLD),
    ("unmerge_once", "x86-shadow", "v3.6", HOLD),
    ("reclaim_once", "x86-tdp", "v7.3", HOLD),
    ("reclaim_once", "arm64", "v6.9", HOLD),
    ("migrate_once", "x86-tdp", "v7.3", HOLD),
    ("migrate_once", "x86-shadow", "v3.6", HOLD),
    ("permission_once", "arm64", "v6.9", HOLD),
    ("permission_once", "x86-tdp", "v7.3", HOLD),
    ("log_once", "arm64", "v6.9", HOLD),
    ("log_once", "x86-tdp", "v7.3", HOLD),
    ("merge_first_once", "x86-tdp", "v7.3", HOLD),
    ("cow_once", "x86-tdp", "v7.3", HOLD),
    ("cow_once", "x86-shadow", "v3.6", HOLD),
    ("lru_once", "x86-tdp", "v7.3", HOLD),
    ("drop_once", "x86-tdp", "v7.3", HOLD),
    ("drop_once", "arm64", "v6.9", HOLD),
    ("zero_page_once", "x86-tdp", "v7.3", HOLD),
    # H25: references to the zero page are kept, until no more can be taken
    ("zero_page_once", "x86-shadow", "v5.5", {MAPS, PASS}),
    ("mprotect_once", "x86-tdp", "v7.3", HOLD),
    ("mprotect_once", "arm64", "v6.9", HOLD),
    ("numa_once", "x86-tdp", "v7.3", HOLD),
    ("numa_once", "arm64", "v6.9", HOLD),
    # One window elsewhere stays open: those who ask for their own gfn pass it.
    ("fault_beside_window", "x86-shadow", "v5.11", {PASS, CLOSE}),
    ("fault_beside_window", "x86-shadow", "v5.12", HOLD),
    ("fault_beside_window", "x86-tdp", "v7.3", HOLD),
    ("fault_beside_window", "arm64", "v7.3", {PASS, CLOSE}),
    ("fault_beside_window", "mips", "v7.3", {PASS, CLOSE}),
    ("fault_beside_window", "loongarch", "v7.3", HOLD),
    # Windows elsewhere come again and again: each end() bumps the one sequence.
    ("fault_in_storm", "x86-tdp", "v7.3", {PASS}),
    ("fault_in_storm", "arm64", "v7.3", {PASS}),
    # An update waits until no window is open (since v5.15), and until no reader is in kvm->srcu.
    ("memslot_in_storm", "x86-shadow", "v5.10", {CLOSE}),
    ("memslot_in_storm", "x86-tdp", "v5.15", {CLOSE, UPDATE}),
    ("memslot_in_storm", "x86-tdp", "v7.3", {CLOSE, UPDATE}),
    ("memslot_beside_storm", "x86-shadow", "v5.10", {PASS}),
    ("memslot_beside_storm", "mips", "v5.10", {PASS, UPDATE}),  # a fault loops inside kvm->srcu
    ("memslot_beside_storm", "x86-tdp", "v7.3", {PASS, UPDATE}),
    # H33: since v5.19 the refresh of a cache waits for every window, over whatever pages.
    ("cache_once", "x86-tdp", "v6.1", HOLD),
    ("cache_once", "x86-tdp", "v7.3", HOLD),
    ("cache_beside_window", "x86-tdp", "v5.18", HOLD),
    ("cache_beside_window", "x86-tdp", "v5.19", {CACHE, CLOSE}),
    ("cache_beside_window", "x86-tdp", "v7.3", {CACHE, CLOSE}),
    ("cache_in_storm", "x86-tdp", "v7.3", {CACHE}),
]


@cache
def live(scenario: str, arch: str, era: str, *, every: bool = False) -> Exploration:
    how = replace(LIVE, every=every)
    return explore(find_scenario(scenario), kernel(era), arch, folding=how)


@pytest.mark.parametrize(("scenario", "arch", "era", "violated"), VERDICTS)
def test_what_ends(scenario: str, arch: str, era: str, violated: set[str]) -> None:
    found = live(scenario, arch, era)
    assert found.complete and found.result.deadlock is None
    assert set(found.lassos) == violated


def test_every_scenario_and_claim_is_there() -> None:
    assert {row[0] for row in VERDICTS} == {each.name for each in LIVENESS}
    asked: dict[str, set[tuple[str, bool]]] = {name: set() for name in EVENTUALLY}
    for scenario, *_, violated in VERDICTS:
        for name in EVENTUALLY:
            asked[name].add((scenario, name in violated))
    # fault_maps is broken by bugs only: see below; the last two by mutants: see test_survey.py
    others = (MAPS, "references_are_dropped", "mapped_page_on_lru")
    assert all(any(broken for _, broken in asked[n]) for n in EVENTUALLY if n not in others)
    assert not set(EVENTUALLY) & set(CLAIMS)


SMALL = [row for row in VERDICTS if row[0].startswith("fault_beside") or row[0] == "fault_in_storm"]


@pytest.mark.parametrize(("scenario", "arch", "era", "violated"), SMALL)
def test_merged_steps_hide_and_make_no_lasso(
    scenario: str, arch: str, era: str, violated: set[str]
) -> None:
    assert set(live(scenario, arch, era, every=True).lassos) == violated


@pytest.mark.parametrize(("scenario", "arch", "era", "violated"), VERDICTS)
def test_a_lasso_is_a_run(scenario: str, arch: str, era: str, violated: set[str]) -> None:
    """In CPython, from the ID: the loop leads back, and the claim is pending all the way."""
    found = live(scenario, arch, era)
    for name in violated:
        claim = EVENTUALLY[name]
        schedule = parse_schedule(format_schedule(found.schedule_of(claim)))
        assert schedule.loop > 0 and claim.function is not None
        what = (find_scenario(scenario), kernel(era), arch, schedule.folding)
        replay = Replay(fold_scenario(*what), partial(folded_host, *what))
        for position, (pid, choice) in enumerate(schedule.steps):
            if position >= len(schedule.steps) - schedule.loop:
                assert not claim.function(replay.host)
            if position == len(schedule.steps) - schedule.loop:
                start = replay.words()
            assert replay.step(pid, choice)
        assert replay.words() == start


# What breaks each claim


def with_guest(scenario: Scenario) -> Scenario:
    return replace(scenario, name=f"{scenario.name}_once", guest=vcpu_access_once)


def test_h5_keeps_windows_open_and_faults_away() -> None:
    bug = find_bug("H5")
    scenario = with_guest(bug.scenario)
    found = explore(scenario, bug.broken_era, bug.arch, folding=LIVE)
    assert set(found.lassos) == {MAPS, CLOSE, PASS}
    assert explore(scenario, bug.fixed_era, bug.arch, folding=LIVE).lassos == {}


@pytest.mark.parametrize(
    ("mutant", "violated"),
    [("end() keeps the count up", {MAPS, CLOSE, PASS}), ("end() lowers the count first", HOLD)],
)
def test_a_mutant_breaks_what_it_should(mutant: str, violated: set[str]) -> None:
    scenario = replace(find_scenario("fault_once"), overrides=MUTANTS[mutant])
    found = explore(scenario, kernel("v6.1"), "x86-tdp", folding=LIVE)
    assert found.complete and set(found.lassos) == violated


@pytest.mark.parametrize("fair_locks", [True, False])
def test_h13_takes_locks_that_overtake(fair_locks: bool) -> None:
    bug = find_bug("H13")
    found = explore(
        bug.broken_scenario, bug.broken_era, bug.arch, folding=LIVE, fair_locks=fair_locks
    )
    assert (CLOSE in found.lassos) == (not fair_locks)


# What is said


def test_the_loop_is_drawn_and_a_storm_is_called_one() -> None:
    found = live("fault_in_storm", "x86-tdp", "v7.3")
    text = timeline_text(found.schedule_of(EVENTUALLY[PASS]))
    head, rule = text.split("\n\n")[0], "--- from here on, again and again"
    assert "that are repeated for ever" in head and "a storm" in head
    assert text.count(rule) == 1 and all(len(line) <= 100 for line in text.splitlines()[:-1])
    calm = live("fault_beside_window", "arm64", "v7.3")
    assert "storm" not in timeline_text(calm.schedule_of(EVENTUALLY[PASS]))


def test_check_says_what_is_fair() -> None:
    claims = [*CLAIMS.values(), *EVENTUALLY.values()]
    text = check_text(live("fault_once", "x86-tdp", "v6.1"), claims)
    assert "Liveness: in every fair run." in text and "holds         I10 fault_maps" in text
    plain = explore(find_scenario("fault_once"), kernel("v6.1"), "x86-tdp")
    assert "Liveness" not in check_text(plain, list(CLAIMS.values()))
    assert plain.verdict_of(EVENTUALLY[MAPS]) == "undecided"  # nobody looked


def test_what_does_not_fit_in_memory_is_undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lasso, "STATE_BYTES", 1 << 40)
    found = explore(find_scenario("fault_once"), kernel("v6.1"), "x86-tdp", folding=LIVE)
    claims = list(EVENTUALLY.values())
    assert {found.verdict_of(claim) for claim in claims} == {"undecided"}
    assert exit_code(found, claims) == 3
    assert "Liveness was not decided: to look for them takes" in check_text(found, claims)


def test_a_loop_that_does_not_lead_back_is_no_schedule() -> None:
    found = live("fault_in_storm", "x86-tdp", "v7.3")
    schedule = found.schedule_of(EVENTUALLY[PASS])
    with pytest.raises(BadSchedule, match="does not lead back"):
        steps_of(replace(schedule, loop=schedule.loop - 1))


def test_liveness_scenarios_are_shipped_and_small() -> None:
    for scenario, arch in itertools.product(LIVENESS, ("x86-tdp",)):
        assert SCENARIOS[scenario.name] is scenario
        assert find_arch(arch).applies(kernel("v7.3"))
        assert live(scenario.name, arch, "v7.3").result.states < 300_000


# The verbs and the API


def test_an_eventually_claim_is_asked_for() -> None:
    result = check("fault_in_storm", claims=PASS)
    assert result.verdicts == {PASS: "violated"} and result.exit_code == 1
    schedule = result.violated[PASS]
    assert schedule.loop > 0 and "again and again" in result.timeline(PASS)
    data = json.loads(result.to_json())
    assert data["fairness"] == "weak, and locks are fair"
    assert parse_schedule(data["witnesses"][PASS]) == schedule
    assert "again and again" in result.junit() and "again and again" in result._repr_html_()
    assert EVENTUALLY.keys().isdisjoint(check("fault_in_storm").verdicts)
    assert json.loads(check("fault_in_storm").to_json())["fairness"] is None


def test_liveness_adds_every_eventually_claim() -> None:
    asked, plain = check("fault_in_storm", liveness=True), check("fault_in_storm")
    assert set(EVENTUALLY) < set(asked.verdicts) and MAPS not in plain.verdicts
    alone = check("fault_in_storm", claims=MAPS, liveness=True, fair_locks=False)
    assert list(alone.verdicts) == [MAPS, *(name for name in EVENTUALLY if name != MAPS)]
    assert "may be overtaken for ever" in alone.text()
    assert json.loads(alone.to_json())["fairness"] == "weak"


@pytest.mark.parametrize("name", ["cache_beside_window", "cache_in_storm", "fault_in_storm"])
def test_what_is_violated_is_drawn(name: str) -> None:
    """Also where a process has nothing to do, and ends at its first step."""
    text = check(name, liveness=True).text()
    assert "from here on, again and again" in text
    assert " ~" not in text and "mmuwitness replay" in text
