"""Is a line of the model needed?  A mutant put to the scenarios that run what it changes.

A mutant is caught where something is wrong that was not wrong before: a claim, a deadlock, an error
of the model; where something happens no longer that happened before and has to; or where a mark is
reached that was not, or the other way round.  The latter two are asked of complete searches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import FunctionType

from mmuwitness.explore.explorer import Exploration, explore, look_for_lassos
from mmuwitness.explore.programs import Folding, describe, fold_scenario
from mmuwitness.explore.search import StopWhen, search
from mmuwitness.model.claims import CLAIMS
from mmuwitness.model.era import Era, UnknownName
from mmuwitness.model.functions import functions
from mmuwitness.model.host import find_arch
from mmuwitness.model.scenarios import SCENARIOS
from mmuwitness.model.scenarios.happens import NEVER
from mmuwitness.model.scenarios.liveness import LIVENESS
from mmuwitness.model.scenarios.scenario import Scenario
from mmuwitness.process.errors import ProcessError
from mmuwitness.process.language import qualified_name
from mmuwitness.process.mutate import Mutation, mutations, not_of_a_kernel
from mmuwitness.process.native import NativeProgram, compile_ir

MEMORY_LIMIT_BYTES = 1 << 28
ARCHES = ("x86-tdp", "powerpc-hpt")
"""Who is asked of a line: first one who maps under mmu_lock, as all do, then one who does not."""

BOUNDED = {scenario.name for scenario in LIVENESS}
"""Where claims of what has to happen in the end are asked."""


def folding(scenario: Scenario) -> Folding:
    return Folding(happens=True, liveness=scenario.name in BOUNDED)


@dataclass(frozen=True)
class Found:
    """What exploring a scenario found.  wrong: claims, "deadlock", the error of the model.
    happened: what has to, and the marks that were reached."""

    states: int
    complete: bool
    wrong: tuple[str, ...]
    happened: frozenset[str]
    reached: frozenset[str]


def found_by(exploration: Exploration) -> Found:
    result = exploration.result
    violated = list(exploration.violated())
    wrong = [name for name in violated if not name.startswith(NEVER)]
    if result.deadlock is not None:
        wrong.append("deadlock")
    if result.error is not None:
        wrong.append(f"error: {exploration.compiled.errors[result.error.site - 1]}")
    return Found(
        result.states,
        result.complete,
        tuple(wrong),
        frozenset(name for name in violated if name.startswith(NEVER)),
        frozenset(exploration.reached_marks()),
    )


@dataclass(frozen=True)
class Place:
    """A scenario on a kernel, and what was found there with the model as it is."""

    scenario: Scenario
    era: Era
    arch: str
    digest: str
    functions: frozenset[str]
    found: Found

    @property
    def states(self) -> int:
        return self.found.states

    def runs(self, function: FunctionType) -> bool:
        return qualified_name(function) in self.functions


def place(scenario: Scenario, era: Era, arch: str) -> Place:
    unchanged = explore(scenario, era, arch, folding=folding(scenario))
    compiled = unchanged.compiled
    return Place(
        scenario, era, arch, compiled.digest, frozenset(compiled.functions), found_by(unchanged)
    )


@dataclass(frozen=True)
class Judgement:
    """What became of a mutant in one place.  by: what caught it; "" if nothing did.

    same: its program is that of the model as it is.  complete: all of it was explored."""

    place: Place
    by: str
    same: bool = False
    complete: bool = True
    states: int = 0


def judge(mutation: Mutation, where: Place) -> Judgement:
    """Explore a mutant until something is wrong that was not wrong before."""
    overrides = {**where.scenario.overrides, **mutation.overrides()}
    scenario = replace(where.scenario, overrides=overrides)
    how = folding(scenario)
    try:
        program = fold_scenario(scenario, where.era, where.arch, how)
    except (ProcessError, ValueError) as error:
        return Judgement(where, f"refused: {str(error).splitlines()[0]}")
    if program.digest == where.digest:
        return Judgement(where, "", same=True, states=where.states)
    compiled, before = describe(program), where.found
    code = NativeProgram(compile_ir(program.lowered.text))
    never = {claim.mark for claim in CLAIMS.values() if claim.kind == "never"} - before.reached
    result = search(
        code.address,
        compiled.initial,
        compiled.successors_max,
        memory_limit_bytes=MEMORY_LIMIT_BYTES,
        stop_when=StopWhen(
            claims=mask(compiled.claims, CLAIMS.keys() - set(before.wrong)),
            covers=mask(compiled.marks, never),
            deadlock="deadlock" not in before.wrong,
            any_of=True,
        ),
    )
    explored = Exploration(scenario, where.era, where.arch, how, compiled, result, code)
    if how.liveness and explored.complete:
        look_for_lassos(explored, MEMORY_LIMIT_BYTES)
    found = found_by(explored)
    by = difference(before, found)
    return Judgement(where, by, complete=found.complete or bool(by), states=found.states)


def mask(names: Sequence[str], asked: set[str]) -> int:
    return sum(1 << bit for bit, name in enumerate(names) if name in asked)


def difference(before: Found, now: Found) -> str:
    """What catches a mutant, or ""."""
    for wrong in now.wrong:
        if wrong not in before.wrong:
            return wrong
    if now.complete:
        for name in sorted(before.happened - now.happened):
            return f"happens no more: {name.removeprefix(NEVER).replace('_', ' ')}"
        for mark in sorted(before.reached - now.reached):
            return f"reached no more: {mark}"
        for mark in sorted(now.reached - before.reached):
            return f"reached now: {mark}"
    return ""


@dataclass(frozen=True)
class Judged:
    """A mutation, and what became of it in one place after another until one caught it."""

    mutation: Mutation
    judgements: tuple[Judgement, ...]

    @property
    def caught(self) -> bool:
        return bool(self.judgements) and bool(self.judgements[-1].by)

    @property
    def alike(self) -> bool:
        """Nowhere does it change the program."""
        return not self.caught and all(each.same for each in self.judgements)

    @property
    def complete(self) -> bool:
        return all(each.complete for each in self.judgements)


def judge_all(mutation: Mutation, places: Sequence[Place]) -> Judged:
    """In the places that run what it changes, the smallest first."""
    found = []
    for where in sorted(places, key=lambda each: each.states):
        if where.runs(mutation.function):
            found.append(judge(mutation, where))
            if found[-1].by:
                break
    return Judged(mutation, tuple(found))


def judge_function(
    name: str,
    era: Era,
    arches: Sequence[str] = ARCHES,
    progress: Callable[[int, int], None] | None = None,
) -> list[Judged]:
    """Every mutation of a function in the scenarios that run it on a kernel.  What nothing catches
    on one architecture is asked of the next.

    UnknownName: no function has that name.  ValueError: no scenario runs it there."""
    if name not in functions():
        raise UnknownName("function", name, list(functions()))
    function = functions()[name]
    found = [Judged(each, ()) for each in mutations(function, not_of_a_kernel())]
    for number, arch in enumerate(arches):
        left = [at for at, each in enumerate(found) if not each.caught]
        places = places_that_run(function, era, arch) if left else []
        for done, at in enumerate(left):
            if progress:
                progress(number * len(found) + done, len(arches) * len(found))
            judged = judge_all(found[at].mutation, places)
            found[at] = Judged(judged.mutation, found[at].judgements + judged.judgements)
    if not any(each.judgements for each in found):
        raise ValueError(
            f"no scenario runs {name}() on {' or '.join(arches)}, {era}: name another --arch or"
            " --era"
        )
    return found


def places_that_run(function: FunctionType, era: Era, arch: str) -> list[Place]:
    made = find_arch(arch)
    there = [each for each in SCENARIOS.values() if not each.absent(era, made)]
    places = [place(scenario, era, arch) for scenario in there]
    return [where for where in places if where.runs(function)]
