"""Questions about one mark, one feature or all lines, put to every scenario on many kernels.

Each has answers of one form: what was found on an architecture and a kernel, in how many states,
with a shortest schedule where there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from mmuwitness.explore.coverage import cover_lines
from mmuwitness.explore.explorer import Exploration, Schedule, explore
from mmuwitness.explore.kernels import INTERRUPTED, Task, in_processes, once_per_program
from mmuwitness.explore.programs import MERGED, Folding, compiled_program
from mmuwitness.model.claims import CLAIMS
from mmuwitness.model.era import Era, rows_of
from mmuwitness.model.host import ARCHES, find_arch
from mmuwitness.model.releases import RELEASES
from mmuwitness.model.scenarios import SCENARIOS
from mmuwitness.model.scenarios.scenario import Scenario
from mmuwitness.process.program import uncollected

LACKS_IT = "this kernel does not have it"

Finding = tuple[object, ...]
"""Of a mark ("reached",); of a feature's need (claim, verdict with it, verdict without); of lines
("ran" or "has" or "only with" or "only without", line)."""

Schedules = dict[Finding, Schedule | None]


@dataclass(frozen=True)
class Part:
    """What one scenario adds to an answer.  programs: states by digest."""

    found: Schedules
    programs: dict[str, int]
    complete: bool


Asked = tuple[dict[str, bool], Part | None]
"""The features that an answer rests on, and the answer: None if the scenario has none to give."""


@dataclass(frozen=True)
class Answer:
    """One architecture on one kernel.  absent: why nothing was explored, or "".  parts: by
    scenario."""

    arch: str
    era: str
    absent: str = ""
    parts: dict[str, Part] = field(default_factory=dict)

    @property
    def found(self) -> dict[Finding, list[str]]:
        """What was found, with the scenarios that did."""
        found: dict[Finding, list[str]] = {}
        for scenario, part in self.parts.items():
            for what in part.found:
                found.setdefault(what, []).append(scenario)
        return found

    @property
    def complete(self) -> bool:
        return self.absent != INTERRUPTED and all(part.complete for part in self.parts.values())

    @property
    def key(self) -> tuple[object, ...]:
        """Answers with the same key say the same thing."""
        parts = {name: (frozenset(part.found), part.complete) for name, part in self.parts.items()}
        return (self.arch, self.absent, sorted(parts.items(), key=lambda item: item[0]))

    def witness(self, what: Finding) -> Schedule | None:
        """The shortest schedule to what was found, if there is one."""
        schedules = [part.found.get(what) for part in self.parts.values()]
        shown = [schedule for schedule in schedules if schedule is not None]
        shortest = min(shown, key=lambda each: len(each.steps), default=None)
        if shortest is None:
            return None
        _, *changes = shortest.era.split()  # of a kernel with the same program
        return replace(shortest, era=" ".join((self.era.split()[0], *changes)))


# What is asked of one scenario on one kernel


def mark_reached(mark: str, scenario: Scenario, era: Era, arch: str) -> Asked:
    how = Folding(claims=False)
    compiled, _ = compiled_program(scenario, era, arch, how)
    if mark not in compiled.marks:
        return compiled.features, None
    found = explore(scenario, era, arch, folding=how)
    reached: Schedules = {("reached",): found.schedule_to_mark(mark)} if found.reached(mark) else {}
    return compiled.features, Part(reached, states_of(found), found.complete)


def claims_changed(feature: str, scenario: Scenario, era: Era, arch: str) -> Asked:
    """Which claims change when a kernel loses a feature?"""
    compiled, _ = compiled_program(scenario, era, arch, MERGED)
    if feature not in compiled.features:
        return compiled.features, None
    kept = explore(scenario, era, arch)
    lost = explore(scenario, era.with_change(f"-{feature}"), arch)
    before, after = verdicts(kept), verdicts(lost)
    changed: Schedules = {}
    for name, (said, _) in before.items():
        now, schedule = after[name]
        if now != said:
            changed[name, said, now] = schedule
    part = Part(changed, states_of(kept) | states_of(lost), kept.complete and lost.complete)
    return compiled.features | lost.compiled.features, part


def lines_changed(feature: str, scenario: Scenario, era: Era, arch: str) -> Asked:
    """Which lines run with a feature only, and which without it only?"""
    kept = cover_lines(scenario, era, arch)
    if feature not in kept.features:
        return kept.features, None
    lost = cover_lines(scenario, era.with_change(f"-{feature}"), arch)
    found: Schedules = {("only with", line): None for line in sorted(kept.ran - lost.ran)}
    found |= {("only without", line): None for line in sorted(lost.ran - kept.ran)}
    programs = {kept.digest: kept.states, lost.digest: lost.states}
    return kept.features | lost.features, Part(found, programs, kept.complete and lost.complete)


def lines_run(scenario: Scenario, era: Era, arch: str) -> Asked:
    covered = cover_lines(scenario, era, arch)
    found: Schedules = {("has", line): None for line in sorted(covered.lines)}
    found |= {("ran", line): None for line in sorted(covered.ran)}
    return covered.features, Part(found, {covered.digest: covered.states}, covered.complete)


def states_of(found: Exploration) -> dict[str, int]:
    return {found.compiled.digest: found.result.states}


def verdicts(found: Exploration) -> dict[str, tuple[str, Schedule | None]]:
    """What is said of each claim, of deadlocks and of errors, with a schedule if there is one."""
    said: dict[str, tuple[str, Schedule | None]] = {}
    for claim in CLAIMS.values():
        verdict = found.verdict_of(claim)
        shown = verdict in ("violated", "reached")
        said[claim.name] = (verdict, found.schedule_of(claim) if shown else None)
    at = found.result.deadlock
    none = "none" if found.complete else "undecided"
    said["deadlock"] = (none, None) if at is None else ("reached", found.schedule_to_state(at))
    error = found.result.error
    said["error of the model"] = (
        ("none", None) if error is None else ("reached", found.schedule_to_state(error.state))
    )
    return said


# The same, of every scenario on many kernels


@dataclass(frozen=True)
class Question:
    """ask: of one scenario.  feature: kernels without it are not asked."""

    ask: Callable[[Scenario, Era, str], Asked]
    feature: str = ""

    def absent(self, arch: str, era: Era) -> str:
        """Why there is nothing to ask a kernel, or ""."""
        made = find_arch(arch)
        if not made.applies(era):
            return made.absent
        has = not self.feature or era.has(self.feature, made.kernel_arch)
        return "" if has else LACKS_IT


def of_mark(mark: str) -> Question:
    return Question(partial(mark_reached, mark))


def of_need(feature: str) -> Question:
    rows_of(feature)
    return Question(partial(claims_changed, feature), feature)


def of_feature(feature: str) -> Question:
    rows_of(feature)
    return Question(partial(lines_changed, feature), feature)


def of_lines() -> Question:
    return Question(lines_run)


def ask_arch(question: Question, task: Task) -> list[dict[str, Part]]:
    """One architecture: for each kernel the parts of all scenarios."""
    arch, eras = task
    answers: list[dict[str, Part]] = [{} for _ in eras]
    with uncollected():
        for scenario in SCENARIOS.values():
            asked = once_per_program(arch, eras, partial(of_scenario, question, scenario, arch))
            for answer, part in zip(answers, asked, strict=True):
                if part is not None:
                    answer[scenario.name] = part
    return answers


def of_scenario(question: Question, scenario: Scenario, arch: str, era: Era) -> Asked:
    """No part of a kernel that has nothing of what the scenario is about."""
    needed = {scenario.requires: True} if scenario.requires else {}
    if scenario.absent(era, find_arch(arch)):
        return {scenario.requires: False}, None
    features, part = question.ask(scenario, era, arch)
    return features | needed, part


def ask(
    question: Question,
    arches: Sequence[str] = (),
    eras: Sequence[Era] = (),
    progress: Callable[[int, int], None] | None = None,
) -> list[Answer]:
    """By architecture and kernel; all of both by default.  Ctrl-C keeps what was answered."""
    eras = tuple(eras) or tuple(Era(name) for name in RELEASES)
    absent = {(arch, era): question.absent(arch, era) for arch in arches or ARCHES for era in eras}
    tasks = [(arch, tuple(e for e in eras if not absent[arch, e])) for arch in arches or ARCHES]
    tasks = sorted((task for task in tasks if task[1]), key=lambda task: -len(task[1]))
    parts: dict[tuple[str, Era], dict[str, Part]] = {}
    try:
        answered = in_processes(partial(ask_arch, question), tasks)
        for number, ((arch, asked), found) in enumerate(zip(tasks, answered, strict=True), 1):
            parts |= {(arch, era): each for era, each in zip(asked, found, strict=True)}
            if progress:
                progress(number, len(tasks))
    except KeyboardInterrupt:
        pass  # what is not explored says so
    return [
        Answer(
            arch,
            str(era),
            why or ("" if (arch, era) in parts else INTERRUPTED),
            parts.get((arch, era), {}),
        )
        for (arch, era), why in absent.items()
    ]
