"""The kill rate: every bug of the corpus is found, and with its fix the same scenario passes."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import pytest

from mmuwitness.explore.bugs import Hunt, hunt
from mmuwitness.explore.explorer import explore
from mmuwitness.explore.programs import (
    Folding,
    compiled_program,
    fold_scenario,
    folded_host,
    is_shipped,
)
from mmuwitness.explore.replay import Replay
from mmuwitness.explore.schedule_id import format_schedule, parse_schedule
from mmuwitness.model import bugs
from mmuwitness.model.bugs.bug import FIXED, Bug, corpus, find_bug, scenario_of_schedule
from mmuwitness.model.claims import find_claims
from mmuwitness.model.era import UnknownName
from mmuwitness.model.host import find_arch
from mmuwitness.model.scenarios import SCENARIOS
from mmuwitness.report.bugs_table import bugs_json, bugs_text
from tests.model.mutants import model_function

VIOLATES = {
    "H1": {"I6"},
    "H2": {"I11"},
    "H3": {"I3"},
    "H4": {"I4"},
    "H5": {"I8"},
    "H6": {"I8"},
    "H7": {"I1", "I4"},
    "H8": {"I4"},
    "H9": {"obsolete_root_unmapped"},
    "H10": {"I3", "I4"},
    "H11": {"obsolete_root_unmapped"},
    "H12": {"I10"},
    "H13": {"windows_close"},
    "H14": {"I1", "I4"},
    "H15": {"I12"},
    "H16": {"I4"},
    "H17": {"I4"},
    "H18": {"I1", "I4"},
    "H19": {"I1", "I4", "I6"},
    "H20": {"I6"},
    "H21": {"I5"},
    "H22": {"I5"},
    "H23": {"I3"},
    "H24": {"I7"},
    "H25": {"I4r"},
    "H26": {"I4"},
    "H27": {"I6c"},
    "H28": {"I12"},
    "H29": {"walks_freed"},
    "H30": {"I4"},
    "H31": {"tracked_page_read_only"},
    "H32": {"mmio_not_retried"},
    "H34": {"I1", "I4"},  # as H14
    "H35": {"I1", "I4"},
    "H36": {"I4", "I11"},
    "H37": {"D11"},  # of the interval tree: the list has none for it
    "H38": {"I6"},
    "H39": {"I6"},
    "H40": {"I4h"},
    "H41": {"I3h"},
    "H42": {"I6"},
    "H43": {"tracked_page_read_only"},
    "H44": {"I7"},
    "H45": {"I7"},
    "H46": {"I6", "I6f"},
    "H51": {"unlinked_twice"},
    "H52": {"walks_freed"},
    "H53": {"walks_freed"},
    "L1": {"other_windows_pass"},
    "P1": {"I1", "I4"},  # no retry check: a fault maps what it looked up before the window
    "P2": {"I1", "I4"},
    "P3": {"I11"},
    "P4": {"I5"},  # what a guest writes to a KSM page others read
    "R1": {"I1", "I4"},
    "R2": {"I1", "I4"},
}
STATES_MAX = 2_000_000
SMALL_STATES = 6_000

QUICK = ("H2", "H5", "H8", "H12", "H14", "H37", "L1", "P1", "R1")

each_bug = pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in corpus()],
)


def number_or_name(claim: str) -> str:
    (found,) = find_claims([claim])
    return found.number or claim


@cache
def hunted(name: str) -> Hunt:
    return hunt(find_bug(name))


# The kill rate


@each_bug
def test_the_bug_is_found(name: str) -> None:
    assert hunted(name).found
    assert VIOLATES[name] <= {number_or_name(claim) for claim in hunted(name).broken.violated()}
    assert number_or_name(find_bug(name).claim) in VIOLATES[name]


@each_bug
def test_with_the_fix_every_claim_holds(name: str) -> None:
    fixed = hunted(name).fixed
    assert hunted(name).fix_holds and hunted(name).decided
    assert fixed.complete and fixed.result.error is None and not fixed.compiled.unguarded
    assert fixed.scenario.setup is hunted(name).broken.scenario.setup


@each_bug
def test_both_are_explored_to_the_end(name: str) -> None:
    for found in (hunted(name).broken, hunted(name).fixed):
        assert found.complete and found.result.error is None
        assert found.result.states <= STATES_MAX


@each_bug
def test_a_bug_is_the_fix_undone_and_nothing_else(name: str) -> None:
    """The features are read and the functions called: else both programs would be one."""
    bug, broken, fixed = find_bug(name), hunted(name).broken, hunted(name).fixed
    assert broken.compiled.digest != fixed.compiled.digest
    assert set(bug.without) <= set(fixed.compiled.features)
    for feature in bug.without:
        assert bug.fixed_era.has(feature, bug.kernel_arch)
        assert not bug.broken_era.has(feature, bug.kernel_arch)
    for scenario, era, functions in (
        (bug.broken_scenario, bug.broken_era, bug.broken),
        (bug.fixed_scenario, bug.fixed_era, bug.mended),
    ):
        called = fold_scenario(scenario, era, bug.arch).functions
        assert set(functions) <= set(called)
        assert all(model_function(each) is not own for each, own in functions.items())


@each_bug
def test_replay_goes_the_way_of_the_schedule(name: str) -> None:
    """In CPython, from the ID as it is printed, to the very state that violates the claim."""
    found, bug = hunted(name).broken, find_bug(name)
    schedule = parse_schedule(format_schedule(found.schedule_of(bug.violates)))
    what = (scenario_of_schedule(schedule.scenario), bug.broken_era, bug.arch, schedule.folding)
    replay = Replay(fold_scenario(*what), lambda: folded_host(*what))
    assert len(schedule.steps) == hunted(name).steps > 0
    for pid, choice in schedule.steps:
        assert replay.step(pid, choice)
    if bug.violates.mark:
        assert bug.violates.mark in replay.covered
        return
    assert replay.words() == found.result.path(found.violated()[bug.claim])[-1]
    assert bug.violates.function is not None
    assert not bug.violates.function(replay.host)


@pytest.mark.slow
@each_bug
def test_no_merged_step_hides_or_makes_a_bug(name: str) -> None:
    bug = find_bug(name)
    if hunted(name).broken.result.states <= SMALL_STATES:
        folding = replace(hunted(name).broken.folding, every=True)
        how = partial(explore, arch=bug.arch, folding=folding, fair_locks=bug.fair_locks)
        every = how(bug.broken_scenario, bug.broken_era)
        assert set(every.violated()) == set(hunted(name).broken.violated())
        assert not how(bug.fixed_scenario, bug.fixed_era).violated()


def test_a_bug_that_is_not_there_is_not_found() -> None:
    """The kill rate can fail."""
    harmless = hunt(replace(find_bug("P1"), without=()))
    assert not harmless.found and harmless.fix_holds and harmless.decided
    assert "0 of 1 bugs are found" in bugs_text([harmless])
    assert "NOT FOUND" in bugs_text([harmless])
    assert bugs_json([harmless])["bugs"][0]["schedule"] is None


def test_a_fix_that_mends_nothing_is_seen() -> None:
    bug = replace(find_bug("P1"), era="v3.12")
    unmended = hunt(bug)
    assert unmended.found and not unmended.fix_holds and unmended.decided
    assert "VIOLATES" in bugs_text([unmended])


# The corpus


def test_the_corpus_is_complete_and_in_order() -> None:
    assert list(corpus()) == list(VIOLATES)
    files = {p.stem.partition("_")[0] for p in Path(bugs.__path__[0]).glob("[hlmpr][0-9]*.py")}
    assert files == {f"{name[0].lower()}{int(name[1:]):02}" for name in corpus()}


@each_bug
def test_a_bug_says_what_it_is(name: str) -> None:
    bug = find_bug(name)
    assert bug.id == name and len(bug.commit) >= 12
    assert bug.text.endswith(".") and bug.reference.endswith(".")
    own = bug.mended or (bug.broken and not bug.without)
    assert bool(bug.without) != bool(own), "a feature row, or a function of its own"
    assert bug.unfixed == name.startswith("R")
    of_row = {row.commit for row in rows(bug)}
    assert not bug.without or bug.commit in of_row, "the row is of another commit"


def rows(bug: Bug):
    from mmuwitness.model.era import rows_of

    return [row for name in bug.without for row in rows_of(name)]


@each_bug
def test_bounds_are_those_of_the_host(name: str) -> None:
    bug = find_bug(name)
    host = bug.broken_scenario.host(bug.broken_era, find_arch(bug.arch))
    if host.vcpus:
        assert f"{len(host.vcpus)} vCPU" in bug.scenario.bounds
        assert f"{len(host.kvm.gfns)} gfn" in bug.scenario.bounds
    else:
        assert "no VM" in bug.scenario.bounds
    assert f"{len(host.pages)} page" in bug.scenario.bounds
    assert ("host thread" in bug.scenario.bounds) == host.mm.host_thread


def test_bugs_are_found_by_name() -> None:
    assert find_bug("h7") is find_bug("H7")
    with pytest.raises(UnknownName, match="unknown bug 'H77': did you mean H7"):
        find_bug("H77")


def test_scenarios_of_bugs_have_names_of_their_own() -> None:
    assert not {*corpus()} & {*SCENARIOS}
    for bug in corpus().values():
        assert scenario_of_schedule(bug.id) == bug.broken_scenario
        assert scenario_of_schedule(bug.id + FIXED) == bug.fixed_scenario
    assert scenario_of_schedule("ksm") is SCENARIOS["ksm"]
    with pytest.raises(UnknownName, match="unknown scenario 'H77'"):
        scenario_of_schedule("H77")


def test_a_cached_program_is_that_of_its_functions() -> None:
    """R2 and its fix differ in functions only, on one kernel: the cache must not take one for the
    other."""
    bug, how = find_bug("R2"), Folding()
    broken, fixed = bug.broken_scenario, bug.fixed_scenario
    assert is_shipped(broken) and is_shipped(fixed)
    assert not is_shipped(replace(broken, overrides=bug.mended))
    assert not is_shipped(replace(SCENARIOS["cow_migrate"], overrides=bug.broken))
    for _ in range(2):
        digests = {
            compiled_program(each, bug.fixed_era, bug.arch, how)[0].digest
            for each in (broken, fixed, bug.scenario)
        }
        assert len(digests) == 3


# What is printed


def test_the_table_has_a_row_for_each_bug() -> None:
    text = bugs_text([hunted(name) for name in corpus()])
    lines = text.splitlines()
    assert lines[0].startswith(f"{len(VIOLATES)} of {len(VIOLATES)} bugs are found.")
    assert [line.split()[0] for line in lines if " found " in f"{line[:10]} "] == list(corpus())
    assert all(len(line) <= 92 for line in lines)
    for name in corpus():
        assert find_bug(name).commit in text


def test_what_nobody_has_verified_is_said() -> None:
    text = bugs_text([hunted("H3"), hunted("P1")])
    assert "Unverified, from memory: the commits of H3." in text
    assert "v3.4, unverified" in " ".join(text.split())
    assert "Unverified" not in bugs_text([hunted("P1")])


def test_json_says_the_same() -> None:
    made = bugs_json([hunted("H5")])
    (row,) = made["bugs"]
    assert (made["schema"], made["found"], made["fixes_hold"]) == (1, 1, 1)
    assert row["id"] == "H5" and row["violated"] == ["windows_balanced"] and row["complete"]
    assert row["kernel"] == "v5.12 -nonblock_start_paired"
    assert row["fix"]["kernel"] == "v5.12" and row["fix"]["violated"] == []
    assert parse_schedule(row["schedule"]).scenario == "H5"
