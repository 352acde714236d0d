"""The corpus put to the test: is each bug found, and does its scenario pass with the fix?"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from mmuwitness.explore.explorer import Exploration, explore
from mmuwitness.explore.programs import Folding
from mmuwitness.explore.search import Progress
from mmuwitness.model.bugs.bug import Bug
from mmuwitness.model.era import Era
from mmuwitness.model.scenarios.scenario import Scenario


@dataclass(frozen=True)
class Hunt:
    """What exploring found with a bug, and without it.  seconds: with it, compiling included."""

    bug: Bug
    broken: Exploration
    fixed: Exploration
    seconds: float

    @property
    def found(self) -> bool:
        """The claim that the bug violates is violated."""
        return self.bug.claim in self.broken.violated()

    @property
    def fix_holds(self) -> bool:
        """With the fix every claim holds, in every interleaving."""
        fixed = self.fixed
        return fixed.complete and not fixed.violated() and fixed.result.deadlock is None

    @property
    def decided(self) -> bool:
        """Neither search ended early with nothing to show."""
        fixed = self.fixed
        shown = fixed.violated() or fixed.result.deadlock is not None
        return (self.found or self.broken.complete) and (fixed.complete or bool(shown))

    @property
    def steps(self) -> int:
        """Of the shortest schedule that violates the claim."""
        return len(self.broken.schedule_of(self.bug.violates).steps)


def hunt(bug: Bug, *, threads: int = 1, progress: Callable[[Progress], None] | None = None) -> Hunt:
    """Explore a bug's scenario with the bug, and with its fix."""

    how = Folding(liveness=bug.violates.kind == "eventually")

    def explored(scenario: Scenario, era: Era) -> Exploration:
        return explore(
            scenario,
            era,
            bug.arch,
            folding=how,
            fair_locks=bug.fair_locks,
            threads=threads,
            progress=progress,
        )

    began = time.monotonic()
    broken = explored(bug.broken_scenario, bug.broken_era)
    seconds = time.monotonic() - began
    return Hunt(bug, broken, explored(bug.fixed_scenario, bug.fixed_era), seconds)
