"""Is a line of the model needed?  A mutant put to the scenarios that run what it changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import FunctionType

from mmuwitness.explore.explorer import Exploration, explore
from mmuwitness.explore.programs import fold_scenario
from mmuwitness.explore.search import StopWhen, search
from mmuwitness.model.era import Era, UnknownName
from mmuwitness.model.functions import functions
from mmuwitness.model.host import find_arch
from mmuwitness.model.scenarios import SCENARIOS
from mmuwitness.model.scenarios.scenario import Scenario
from mmuwitness.process.errors import ProcessError
from mmuwitness.process.language import qualified_name
from mmuwitness.process.mutate import Mutation, mutations, not_of_a_kernel
from mmuwitness.process.native import NativeProgram, compile_ir

MEMORY_LIMIT_BYTES = 1 << 30
ARCHES = ("x86-tdp", "powerpc-hpt")
"""Who is asked of a line: first one who maps under mmu_lock, as all do, then one who does not."""


@dataclass(frozen=True)
class Place:
    """A scenario on a kernel, explored with the model as it is."""

    scenario: Scenario
    era: Era
    arch: str
    unchanged: Exploration

    @property
    def states(self) -> int:
        return self.unchanged.result.states

    def runs(self, function: FunctionType) -> bool:
        return qualified_name(function) in self.unchanged.compiled.functions


def place(scenario: Scenario, era: Era, arch: str) -> Place:
    return Place(scenario, era, arch, explore(scenario, era, arch))


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
    scenario = replace(where.scenario, name=f"{where.scenario.name}~", overrides=overrides)
    before = where.unchanged
    try:
        program = fold_scenario(scenario, where.era, where.arch)
    except (ProcessError, ValueError) as error:
        return Judgement(where, f"refused: {str(error).splitlines()[0]}")
    if program.digest == before.compiled.digest:
        return Judgement(where, "", same=True, states=where.states)
    wrong = before.violated()
    asked = sum(1 << bit for bit, name in enumerate(program.claims) if name not in wrong)
    deadlocks = before.result.deadlock is not None
    code = NativeProgram(compile_ir(program.lowered.text))
    result = search(
        code.address,
        program.initial,
        program.lowered.successors_max,
        memory_limit_bytes=MEMORY_LIMIT_BYTES,
        stop_when=StopWhen(claims=asked, deadlock=not deadlocks, any_of=True),
    )
    by = ""
    caught = [program.claims[bit] for bit in result.violated if asked >> bit & 1]
    if caught:
        by = caught[0]
    elif result.deadlock is not None and not deadlocks:
        by = "deadlock"
    elif result.error is not None:
        by = f"error: {program.lowered.errors[result.error.site - 1].message}"
    return Judgement(where, by, complete=result.complete, states=result.states)


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
