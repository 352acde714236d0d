"""Explore a scenario on a kernel: every claim over every interleaving, within its bounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from mmuwitness.explore.programs import (
    MERGED,
    PAGES,
    Compiled,
    Folding,
    compiled_program,
    thorough_code,
)
from mmuwitness.explore.search import Progress, SearchResult, search
from mmuwitness.model.claims import CLAIMS, EVENTUALLY, Claim, everywhere
from mmuwitness.model.era import Era
from mmuwitness.model.scenarios.scenario import Scenario
from mmuwitness.process.native import NativeProgram

if TYPE_CHECKING:
    from mmuwitness.explore.lasso import Lasso

MEMORY_LIMIT_BYTES = 8 << 30


@dataclass(frozen=True)
class Schedule:
    """A schedule: (process, choice) of each step.  How the program is folded decides what a step
    is: without claims nobody observes the state, and some steps are longer.  variant: the file of
    the change it was found with, if any.  loop: of a lasso, how many of the last steps are repeated
    for ever; 0 may stand for one that ends where nobody can run."""

    scenario: str
    era: str
    arch: str
    steps: tuple[tuple[int, int], ...]
    folding: Folding = MERGED
    variant: str = field(default="", compare=False)
    loop: int = 0


@dataclass
class Exploration:
    """What exploring one scenario on one kernel found."""

    scenario: Scenario
    era: Era
    arch: str
    folding: Folding
    compiled: Compiled
    result: SearchResult
    native: NativeProgram
    lassos: dict[str, Lasso] = field(default_factory=dict)
    no_lassos: str = ""  # why they were not looked for
    fair_locks: bool = True

    @property
    def complete(self) -> bool:
        return self.result.complete

    @property
    def claims(self) -> list[Claim]:
        """Those that say something of the scenario."""
        there = {*self.compiled.claims, *self.compiled.marks}
        asked_of_all = [c for c in CLAIMS.values() if c.mark and c.where is everywhere]
        return [c for c in CLAIMS.values() if c in asked_of_all or {c.name, c.mark} & there]

    @property
    def symmetric(self) -> list[str]:
        """What was explored up to symmetry: of states that are alike one was kept."""
        return self.compiled.reduced

    def violated(self) -> dict[str, int]:
        """Claims that do not hold, by name, with a shallowest state that violates each."""
        names = {self.compiled.claims[bit]: at for bit, at in self.result.violated.items()}
        found = {name: at for name, at in names.items() if name not in EVENTUALLY}
        found |= {name: lasso.states[0] for name, lasso in self.lassos.items()}
        for claim in CLAIMS.values():
            if claim.kind == "never" and self.reached(claim.mark):
                found[claim.name] = self.mark_state(claim.mark)
        return found

    def reached(self, mark: str) -> bool:
        return mark in self.reached_marks()

    def reached_marks(self) -> list[str]:
        return [self.compiled.marks[bit] for bit in self.result.covered]

    def mark_state(self, mark: str) -> int:
        return self.result.covered[self.compiled.marks.index(mark)].state

    def verdict_of(self, claim: Claim) -> str:
        """ "holds", "violated", "reached", "never reached" or "undecided"."""
        if claim.kind == "eventually":
            if claim.name in self.lassos:
                return "violated"
            looked = self.folding.liveness and self.complete and not self.no_lassos
            return "holds" if looked else "undecided"
        if claim.kind == "always":
            if claim.name in self.violated():
                return "violated"
            return "holds" if self.complete else "undecided"
        if self.reached(claim.mark):
            return "reached" if claim.kind == "sometimes" else "violated"
        if not self.complete:
            return "undecided"
        return "never reached" if claim.kind == "sometimes" else "holds"

    def schedule_to_state(self, index: int) -> Schedule:
        """A shortest schedule from the initial state to one that is like that of the index."""
        steps, _ = self.walk(index)
        of = self.scenario
        how = replace(self.folding, reduce=(), any_page_first=PAGES in self.compiled.reduced)
        return Schedule(of.name, str(self.era), self.arch, tuple(steps), how, of.variant)

    def walk(self, index: int) -> tuple[list[tuple[int, int]], tuple[int, ...]]:
        """The steps to a state like that of the index, and the words of the one they lead to.

        What the search keeps stands for all states like it.  The walk begins in the initial state
        and takes, each time, a step to a state like the next one that was kept."""
        kept = self.result.path(index)
        words, steps = kept[0], []
        for target in kept[1:]:
            found, _ = self.native.call(words, self.compiled.successors_max)
            label, words = next(
                (label, reached)
                for label, _, reached in found
                if self.native.canonical(reached) == target
            )
            steps.append((label & 0xFF, label >> 8))
        return steps, words

    def schedule_to_mark(self, mark: str) -> Schedule:
        """A shortest schedule whose last step executes the mark."""
        bit = self.compiled.marks.index(mark)
        cover = self.result.covered[bit]
        before = self.schedule_to_state(cover.state)
        _, words = self.walk(cover.state)
        found, _ = self.native.call(words, self.compiled.successors_max)
        # the very step that the search found, if the state is the one it found
        fitting = [label for label, marks, _ in found if marks >> bit & 1]
        label = cover.label if cover.label in fitting else fitting[0]
        return replace(before, steps=(*before.steps, (label & 0xFF, label >> 8)))

    def schedule_of(self, claim: Claim) -> Schedule:
        """The discovery for a claim that is violated or reached."""
        if claim.mark:
            return self.schedule_to_mark(claim.mark)
        if claim.name in self.lassos:
            return self.schedule_of_lasso(self.lassos[claim.name])
        return self.schedule_to_state(self.violated()[claim.name])

    def schedule_of_lasso(self, lasso: Lasso) -> Schedule:
        """The stem, then the loop once."""
        stem = self.schedule_to_state(lasso.states[0])
        loop = []
        for (a, b), task in zip(pairwise(lasso.states), lasso.tasks, strict=True):
            found, _ = self.native.call(self.result.state(a), self.compiled.successors_max)
            target = self.result.state(b)
            label = next(n for n, _, words in found if words == target and n & 0xFF == task)
            loop.append((task, label >> 8))
        return replace(stem, steps=(*stem.steps, *loop), loop=len(loop))


def explore(
    scenario: Scenario,
    era: Era,
    arch: str,
    *,
    folding: Folding = MERGED,
    fair_locks: bool = True,
    threads: int = 1,
    memory_limit_bytes: int = MEMORY_LIMIT_BYTES,
    progress: Callable[[Progress], None] | None = None,
) -> Exploration:
    """Every state of a scenario; see `SearchResult.stopped` for why a search ended early.

    A search that takes more than a second goes on with code that was optimised meanwhile.  With
    `eventually` claims it is made by one thread, and if it is complete lassos are looked for.

    fair_locks: who waits for a lock gets it in the end.  If not, a lock that is held has to be seen
    held, so each shared access is a step."""
    folding = replace(folding, every=folding.every or not fair_locks)
    compiled, code = compiled_program(scenario, era, arch, folding)
    reduced = bool(compiled.reduced)
    native = NativeProgram(code, reduced)
    better: list[NativeProgram] = []  # held as long as the search may call it

    def improve() -> int:
        code = thorough_code(scenario, era, arch, folding, compiled)
        better.append(NativeProgram(code, reduced))
        return better[0].address

    result = search(
        native.address,
        compiled.initial,
        compiled.successors_max,
        threads=1 if folding.liveness else threads,
        memory_limit_bytes=memory_limit_bytes,
        progress=progress,
        improve=None if folding.thorough else improve,
    )
    found = Exploration(
        scenario, era, arch, folding, compiled, result, native, fair_locks=fair_locks
    )
    if folding.liveness and found.complete:
        look_for_lassos(found, memory_limit_bytes)
    return found


def look_for_lassos(found: Exploration, memory_limit_bytes: int) -> None:
    """One for each `eventually` claim that is violated."""
    from mmuwitness.explore.lasso import StateGraph, bytes_needed

    result, compiled = found.result, found.compiled
    need = bytes_needed(result.states, result.edges)
    if need > memory_limit_bytes:
        found.no_lassos = f"to look for them takes {need >> 20:,} MiB"
        return
    graph = StateGraph(found.native.address, compiled.successors_max, result, compiled.lock_points)
    for bit, name in enumerate(compiled.claims):
        if name in EVENTUALLY and bit in result.violated:
            lasso = graph.lasso(bit, found.fair_locks)
            if lasso is not None:
                found.lassos[name] = lasso
