"""What is asked of scenarios, and how they are explored: the same for all that one command asks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from mmuwitness.explore.explorer import Exploration, explore
from mmuwitness.explore.programs import Folding, reductions_of
from mmuwitness.explore.search import Progress
from mmuwitness.explore.search_memory import THREADS_MAX
from mmuwitness.model.claims import CLAIMS, EVENTUALLY, Claim, find_claims
from mmuwitness.model.era import Era, UnknownName
from mmuwitness.model.host import find_arch
from mmuwitness.model.scenarios.scenario import Scenario

STEPS = ("merged", "every")


@dataclass(frozen=True)
class Asking:
    """claims: those that were named.  None: all that say something, but the `eventually` claims,
    which take time and memory; liveness asks for all of them, too.  reduce: as `reductions_of`
    takes it; where lassos are looked for nothing is reduced.  threads: 0 is as many as processors.
    """

    era: Era
    arch: str
    claims: Sequence[Claim] = ()
    liveness: bool = False
    fair_locks: bool = True
    every: bool = False
    reduce: str = "auto"
    threads: int = 0
    memory_limit_bytes: int = 8 << 30
    progress: Callable[[Progress], None] | None = None

    def with_eventually(self, claims: Iterable[Claim]) -> list[Claim]:
        more = EVENTUALLY.values() if self.liveness else ()
        return list(dict.fromkeys([*claims, *more]))

    def claims_of(self, found: Exploration) -> list[Claim]:
        """Those to tell of, of an exploration."""
        return self.with_eventually(self.claims or found.claims)

    def claims_of_all(self) -> list[Claim]:
        """Those to tell of, of whatever is explored."""
        return self.with_eventually(self.claims or CLAIMS.values())

    def absent(self, scenario: Scenario) -> str:
        """Why there is nothing to explore, or ""."""
        return scenario.absent(self.era, find_arch(self.arch))

    def folding(self, scenario: Scenario) -> Folding:
        liveness = self.liveness or any(claim.kind == "eventually" for claim in self.claims)
        reduce = reductions_of(scenario, self.reduce)
        return Folding(every=self.every, liveness=liveness, reduce=() if liveness else reduce)

    def explore(self, scenario: Scenario, like: Scenario | None = None) -> Exploration:
        """like: the scenario that it is a variant of, which decides how it is folded."""
        return explore(
            scenario,
            self.era,
            self.arch,
            folding=self.folding(like or scenario),
            fair_locks=self.fair_locks,
            threads=self.threads or min(os.cpu_count() or 1, THREADS_MAX),
            memory_limit_bytes=self.memory_limit_bytes,
            progress=self.progress,
        )


def asking(
    era: str,
    arch: str,
    claims: Iterable[str],
    features: Iterable[str],
    liveness: bool,
    fair_locks: bool,
    steps: str,
    reduce: str,
    threads: int,
    memory_mib: int,
    progress: Callable[[Progress], None] | None,
) -> Asking:
    """From names; UnknownName lists what exists."""
    if steps not in STEPS:
        raise UnknownName("way to step", steps, list(STEPS))
    return Asking(
        Era(era, tuple(features)),
        find_arch(arch).name,
        tuple(find_claims(claims)),
        liveness,
        fair_locks,
        steps == "every",
        reduce,
        threads,
        memory_mib << 20,
        progress,
    )
