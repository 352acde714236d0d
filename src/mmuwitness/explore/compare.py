"""A variant beside the unchanged model: the same scenario, kernel and claims for both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from mmuwitness.explore.asking import Asking
from mmuwitness.explore.explorer import Exploration, Schedule
from mmuwitness.explore.programs import Folding, compiled_program
from mmuwitness.explore.variant import Variant
from mmuwitness.model.claims import Claim
from mmuwitness.model.scenarios.scenario import Scenario


@dataclass(frozen=True)
class Outcome:
    """What is kept of an exploration.  went_wrong: the place, if the model itself did.

    schedules: of what is violated or reached, by claim; "deadlock" and "error" beside them.
    marks, fields: what the program has, reached or not.  symmetric, no_lassos: as of the
    exploration."""

    digest: str
    states: int
    edges: int
    depth: int
    complete: bool
    stopped: str | None
    went_wrong: str
    verdicts: dict[str, str]
    schedules: dict[str, Schedule]
    marks: frozenset[str]
    fields: frozenset[str]
    symmetric: tuple[str, ...]
    no_lassos: str

    @property
    def decided(self) -> bool:
        return self.complete and not self.no_lassos

    @property
    def violated(self) -> list[str]:
        return [name for name, verdict in self.verdicts.items() if verdict == "violated"]

    @property
    def deadlock(self) -> bool:
        return "deadlock" in self.schedules


@dataclass(frozen=True)
class Comparison:
    """One scenario, with and without the change.  touched: what of the change it runs.

    own: it is the file's own, and `unchanged` is `changed`: there is nothing to compare with."""

    scenario: Scenario
    touched: frozenset[str]
    unchanged: Outcome
    changed: Outcome
    own: bool = False

    @property
    def same_program(self) -> bool:
        return not self.own and self.unchanged.digest == self.changed.digest

    @property
    def gone(self) -> set[str]:
        """Marks and fields of the model that the changed program has no more: what a claim says
        that asks for one is empty."""
        before, after = self.unchanged, self.changed
        return {f'"{mark}"' for mark in before.marks - after.marks} | before.fields - after.fields

    @property
    def differences(self) -> list[tuple[str, str, str]]:
        """(claim, unchanged, changed) where the two differ; deadlocks, too."""
        before, after = verdicts_and_deadlock(self.unchanged), verdicts_and_deadlock(self.changed)
        return [(name, before[name], after[name]) for name in before if before[name] != after[name]]


def verdicts_and_deadlock(outcome: Outcome) -> dict[str, str]:
    none = "none" if outcome.complete else "undecided"
    return {**outcome.verdicts, "deadlock": "reached" if outcome.deadlock else none}


def outcome_of(found: Exploration, claims: Sequence[Claim]) -> Outcome:
    verdicts = {claim.name: found.verdict_of(claim) for claim in claims}
    shown = [claim for claim in claims if verdicts[claim.name] in ("violated", "reached")]
    schedules = {claim.name: found.schedule_of(claim) for claim in shown}
    result = found.result
    if result.deadlock is not None:
        schedules["deadlock"] = found.schedule_to_state(result.deadlock)
    went_wrong = ""
    if result.error is not None:
        schedules["error"] = found.schedule_to_state(result.error.state)
        went_wrong = found.compiled.errors[result.error.site - 1]
    return Outcome(
        found.compiled.digest,
        result.states,
        result.edges,
        result.depth,
        result.complete,
        result.stopped,
        went_wrong,
        verdicts,
        schedules,
        frozenset(found.compiled.marks),
        frozenset(found.compiled.fields),
        tuple(found.symmetric),
        found.no_lassos,
    )


@dataclass(frozen=True)
class Comparer:
    """What two explorations of a scenario have in common."""

    variant: Variant
    how: Asking

    @cached_property
    def claims(self) -> list[Claim]:
        return self.how.claims_of_all()

    def touched(self, scenario: Scenario) -> frozenset[str]:
        """What is run does not depend on what is reduced or asked for, and takes less time so."""
        folding = Folding(every=self.how.every)
        unchanged, _ = compiled_program(scenario, self.how.era, self.how.arch, folding)
        return frozenset(self.variant.touched(unchanged, self.how.era, self.how.arch))

    def compare(self, scenario: Scenario) -> tuple[Comparison, Exploration]:
        """Both outcomes, and the changed one at length."""
        if scenario.name in self.variant.scenarios:
            return self.explore_own(scenario)
        unchanged = outcome_of(self.how.explore(scenario), self.claims)
        found = self.explore_changed(scenario)
        touched = self.touched(scenario)
        return Comparison(scenario, touched, unchanged, outcome_of(found, self.claims)), found

    def explore_changed(self, scenario: Scenario) -> Exploration:
        return self.how.explore(self.variant.scenario(scenario, self.how.arch), scenario)

    def explore_own(self, scenario: Scenario) -> tuple[Comparison, Exploration]:
        """A scenario of the file, on the changed model."""
        found = self.explore_changed(scenario)
        outcome = outcome_of(found, self.claims)
        touched = frozenset(self.variant.run_by(found.compiled, self.how.arch))
        return Comparison(scenario, touched, outcome, outcome, own=True), found
