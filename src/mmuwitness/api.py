"""What the verbs `check` and `verdict` do, from Python: `from mmuwitness import check, verdict`.

The verbs call these functions and print what their results say.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypedDict, Unpack, overload

from mmuwitness.explore.asking import asking
from mmuwitness.explore.compare import Comparer, Comparison
from mmuwitness.explore.explorer import Exploration, Schedule
from mmuwitness.explore.questions import Answer, ask, of_feature, of_lines, of_mark, of_need
from mmuwitness.explore.search import Progress
from mmuwitness.explore.variant import load_variant
from mmuwitness.explore.verdict import Cell, verdict_change_pte
from mmuwitness.model.claims import CLAIMS, Claim, find_claims
from mmuwitness.model.era import ROWS, Era, UnknownName
from mmuwitness.model.scenarios import SCENARIOS, find_scenario
from mmuwitness.model.scenarios.scenario import Scenario
from mmuwitness.process.marks import marks
from mmuwitness.report.check_report import (
    HOLDS,
    INCONCLUSIVE,
    check_json,
    check_text,
    exit_code,
    headline,
)
from mmuwitness.report.html import check_html, verdict_html
from mmuwitness.report.junit import check_junit
from mmuwitness.report.questions_table import (
    Wording,
    answers_headline,
    feature_wording,
    lines_wording,
    mark_wording,
    need_wording,
    questions_json,
    questions_text,
)
from mmuwitness.report.variant_table import exit_code as compared_exit_code
from mmuwitness.report.variant_table import headline as variant_headline
from mmuwitness.report.variant_table import one_text, variant_json, variant_text
from mmuwitness.report.verdict_table import answer, verdict_json, verdict_text, witness_blocks
from mmuwitness.report.witness import timeline_text

__all__ = [
    "CheckResult",
    "QuestionResult",
    "Scenario",
    "VariantResult",
    "VerdictResult",
    "check",
    "check_variant",
    "dead_lines",
    "needed",
    "verdict",
]

QUESTIONS = "ask change_pte, a claim of kind sometimes or never, a mark or a feature (see `list`)"

Names = str | Iterable[str]
"""One name, or several."""


def listed(names: Names) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


@dataclass(frozen=True, eq=False, repr=False)
class CheckResult:
    """A scenario explored on one kernel.  It keeps every state; drop it to have the memory back.

    claims: those that were asked for.  Schedules are shortest ones.
    """

    exploration: Exploration
    claims: Sequence[Claim]

    @property
    def exit_code(self) -> int:
        """What the verb exits with: 0 holds, 1 violated, 3 not complete."""
        return exit_code(self.exploration, self.claims)

    @property
    def holds(self) -> bool:
        """Every claim holds, nothing waits for ever, and all states were explored."""
        return self.exit_code == HOLDS

    @property
    def complete(self) -> bool:
        return self.exploration.complete

    @property
    def states(self) -> int:
        return self.exploration.result.states

    @property
    def bounds(self) -> str:
        return self.exploration.scenario.bounds

    @cached_property
    def verdicts(self) -> dict[str, str]:
        """ "holds", "violated", "reached", "never reached" or "undecided", by claim."""
        return {claim.name: self.exploration.verdict_of(claim) for claim in self.claims}

    @cached_property
    def violated(self) -> dict[str, Schedule]:
        """The claims that do not hold, each with a counterexample."""
        return self.schedules("violated")

    @cached_property
    def reached(self) -> dict[str, Schedule]:
        """The `sometimes` claims that are reached, each with a witness."""
        return self.schedules("reached")

    @cached_property
    def deadlock(self) -> Schedule | None:
        """How processes come to wait for each other, if they can."""
        found = self.exploration
        at = found.result.deadlock
        return None if at is None else found.schedule_to_state(at)

    def schedules(self, verdict: str) -> dict[str, Schedule]:
        return {
            claim.name: self.exploration.schedule_of(claim)
            for claim in self.claims
            if self.verdicts[claim.name] == verdict
        }

    def timeline(self, claim: str) -> str:
        """The schedule of a claim (by name or number) that is violated or reached, drawn; or of
        "deadlock"."""
        drawn = {**self.violated, **self.reached}
        if self.deadlock is not None:
            drawn["deadlock"] = self.deadlock
        name = claim if claim == "deadlock" else find_claims([claim])[0].name
        if name not in drawn:
            said = self.verdicts.get(name, "there is none" if name == "deadlock" else "not asked")
            there = f"there are {', '.join(drawn)}" if drawn else "there is none of any claim"
            raise ValueError(f"no timeline of {name} ({said}): {there}")
        return timeline_text(drawn[name], self.exploration.scenario)

    def text(self) -> str:
        """What `check` prints."""
        return check_text(self.exploration, self.claims)

    def to_json(self) -> str:
        """What `check --json` prints."""
        return json.dumps(check_json(self.exploration, self.claims), indent=1)

    def junit(self) -> str:
        """What `check --junit` writes."""
        return check_junit(self.exploration, self.claims)

    def _repr_html_(self) -> str:
        return check_html(self.exploration, self.claims)

    def __repr__(self) -> str:
        return f"<{headline(self.exploration, self.claims)}>"


def check(
    scenario: str | Scenario,
    *,
    era: str = "v7.3",
    arch: str = "x86-tdp",
    claims: Names = (),
    features: Names = (),
    liveness: bool = False,
    fair_locks: bool = True,
    steps: str = "merged",
    reduce: str = "auto",
    threads: int = 0,
    memory_mib: int = 8192,
    progress: Callable[[Progress], None] | None = None,
) -> CheckResult:
    """Every claim that says something of a scenario, or those named, over every interleaving.

    liveness: the `eventually` claims, too; they are not among "every claim", since they take time
    and memory.  A schedule that violates one ends with a loop, of `loop` steps.  fair_locks: who
    waits for a lock gets it in the end; if not, others may overtake, and each access is a step.
    features: "+NAME" puts one in, "-NAME" takes it out.  reduce: "auto", "all", "none", or what to
    explore up to symmetry: "vcpus,pages".  threads: 0 is as many as processors.
    ValueError: a name that nothing has, with those that there are.
    """
    wanted = find_scenario(scenario) if isinstance(scenario, str) else scenario
    names, changes = listed(claims), listed(features)
    how = (liveness, fair_locks, steps, reduce, threads, memory_mib, progress)
    asked = asking(era, arch, names, changes, *how)
    if absent := asked.absent(wanted):
        raise ValueError(absent)
    found = asked.explore(wanted)
    return CheckResult(found, asked.claims_of(found))


@dataclass(frozen=True, eq=False, repr=False)
class VariantResult:
    """A change of one's own beside the unchanged model, in one scenario or in all that touch it.

    compared: those.  wanted: of so many.  one: the only one, at length, if it was named."""

    comparer: Comparer
    compared: Sequence[Comparison]
    wanted: int
    one: Exploration | None = None

    @property
    def exit_code(self) -> int:
        """Of the changed model: what the verb exits with."""
        return compared_exit_code(self.compared)

    @property
    def holds(self) -> bool:
        """With the change every claim holds, in all that touches it."""
        return self.exit_code == HOLDS

    def text(self) -> str:
        """What `check --variant` prints."""
        if self.one is not None:
            return one_text(self.comparer, self.compared[0], self.one)
        return variant_text(self.comparer, self.compared, self.wanted)

    def to_json(self) -> str:
        """What `check --variant --json` prints."""
        return json.dumps(variant_json(self.comparer, self.compared), indent=1)

    def __repr__(self) -> str:
        return f"<{' '.join(variant_headline(self.comparer, self.compared, self.wanted))}>"


def check_variant(
    path: str,
    scenario: str | None = None,
    *,
    era: str = "v7.3",
    arch: str = "x86-tdp",
    claims: Names = (),
    features: Names = (),
    liveness: bool = False,
    fair_locks: bool = True,
    steps: str = "merged",
    reduce: str = "auto",
    threads: int = 0,
    memory_mib: int = 8192,
    progress: Callable[[Progress], None] | None = None,
) -> VariantResult:
    """A file that changes the model, beside the model as it is; both as `check` explores them.

    scenario: the model's or the file's own; without one, all that run what the file changes."""
    names, changes = listed(claims), listed(features)
    how = (liveness, fair_locks, steps, reduce, threads, memory_mib, progress)
    asked = Comparer(load_variant(path), asking(era, arch, names, changes, *how))
    variant = asked.variant
    if scenario is not None:
        named = variant.find_scenario(scenario)
        if absent := asked.how.absent(named):
            raise ValueError(absent)
        comparison, found = asked.compare(named)
        return VariantResult(asked, [comparison], 1, found)
    wanted = [*SCENARIOS.values(), *variant.scenarios.values()]
    absent_for = [asked.how.absent(each) for each in wanted]
    if all(absent_for):
        raise ValueError(absent_for[0])
    there = [each for each, absent in zip(wanted, absent_for, strict=True) if not absent]
    touched = [each for each in there if each.name in variant.scenarios or asked.touched(each)]
    return VariantResult(asked, [asked.compare(each)[0] for each in touched], len(wanted))


@dataclass(frozen=True, eq=False, repr=False)
class VerdictResult:
    """What `.change_pte()` can do, by architecture and kernel."""

    cells: Sequence[Cell]

    @property
    def exit_code(self) -> int:
        """What the verb exits with: 0, or 3 if something was not explored to the end."""
        return HOLDS if self.complete else INCONCLUSIVE

    @property
    def complete(self) -> bool:
        return all(cell.complete for cell in self.cells)

    @property
    def answer(self) -> str:
        """One sentence."""
        return answer(self.cells)

    def cell(self, arch: str, era: str) -> Cell:
        """One of those that were asked for."""
        name = Era(era).name
        by_place = {(cell.arch, cell.era.split()[0]): cell for cell in self.cells}
        if (arch, name) not in by_place:
            arches = list(dict.fromkeys(known for known, _ in by_place))
            if arch not in arches:
                raise UnknownName("arch", arch, arches)
            raise UnknownName("era", name, list(dict.fromkeys(known for _, known in by_place)))
        return by_place[arch, name]

    def timeline(self, arch: str, era: str, effect: str) -> str:
        """A shortest schedule to an effect, drawn."""
        cell = self.cell(arch, era)
        if effect not in cell.effects:
            there = f"there are {', '.join(cell.effects)}" if cell.effects else "it has none"
            raise ValueError(f"no effect {effect!r} on {arch}, {cell.era}: {there}")
        return timeline_text(cell.witness(effect))

    def text(self, witnesses: bool = False) -> str:
        """What `verdict` prints; with witnesses, what `verdict -v` prints."""
        return verdict_text(self.cells, witness_blocks(self.cells) if witnesses else ())

    def to_json(self) -> str:
        """What `verdict --json` prints."""
        return json.dumps(verdict_json(self.cells), indent=1)

    def _repr_html_(self) -> str:
        return verdict_html(self.cells)

    def __repr__(self) -> str:
        return f"<{self.answer}>"


@dataclass(frozen=True, eq=False, repr=False)
class QuestionResult:
    """What every scenario says of a mark, a feature or the model's lines, by architecture and
    kernel."""

    wording: Wording
    answers: Sequence[Answer]

    @property
    def exit_code(self) -> int:
        """What the verb exits with: 0, or 3 if something was not explored to the end."""
        return HOLDS if self.complete else INCONCLUSIVE

    @property
    def complete(self) -> bool:
        return all(each.complete for each in self.answers)

    @property
    def answer(self) -> str:
        """One sentence."""
        return answers_headline(self.wording, self.answers)

    def text(self, witnesses: bool = False) -> str:
        return questions_text(self.wording, self.answers, witnesses)

    def to_json(self) -> str:
        return json.dumps(questions_json(self.wording, self.answers), indent=1)

    def __repr__(self) -> str:
        return f"<{self.answer}>"


class Asked(TypedDict, total=False):
    """Which kernels and architectures are asked: all of both, or those named.

    features: "+NAME" puts one in, "-NAME" takes it out, of the kernels named in eras."""

    eras: Names
    arches: Names
    features: Names
    progress: Callable[[int, int], None] | None


@overload
def verdict(
    question: Literal["change_pte"] = "change_pte", **asked: Unpack[Asked]
) -> VerdictResult: ...
@overload
def verdict(question: str, **asked: Unpack[Asked]) -> VerdictResult | QuestionResult: ...
def verdict(question: str = "change_pte", **asked: Unpack[Asked]) -> VerdictResult | QuestionResult:
    """Can it ever do anything?  On every kernel and architecture, or on those named.

    question: "change_pte", a `sometimes` or `never` claim, a mark or a feature.
    ValueError: a name that nothing has, with those that there are.
    """
    if question == "change_pte":
        return VerdictResult(verdict_change_pte(*places(asked)))
    mark = CLAIMS[question].mark if question in CLAIMS else question
    if mark in marks():
        return QuestionResult(mark_wording(mark), ask(of_mark(mark), *places(asked)))
    if question in ROWS:
        return QuestionResult(feature_wording(question), ask(of_feature(question), *places(asked)))
    raise UnknownName("question", question, ["change_pte", *marks(), *ROWS], QUESTIONS)


def needed(feature: str, **asked: Unpack[Asked]) -> QuestionResult:
    """Does any claim change if the kernels that have a feature lose it?"""
    return QuestionResult(need_wording(feature), ask(of_need(feature), *places(asked)))


def dead_lines(**asked: Unpack[Asked]) -> QuestionResult:
    """The lines of the model that no scenario ever runs."""
    return QuestionResult(lines_wording(), ask(of_lines(), *places(asked)))


def places(
    asked: Asked,
) -> tuple[tuple[str, ...], list[Era], Callable[[int, int], None] | None]:
    """Architectures, kernels and who is told how far it is."""
    eras, changes = listed(asked.get("eras", ())), listed(asked.get("features", ()))
    if changes and not eras:
        raise ValueError("features change a kernel: say which with eras")
    kernels = [Era(name, changes) for name in eras]
    return listed(asked.get("arches", ())), kernels, asked.get("progress")
