"""`make diff`: every distinct program of every scenario and every bug, explored by both."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Collection, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path

from mmuwitness.explore.explorer import explore
from mmuwitness.explore.programs import MERGED, compiled_program, fold_scenario
from mmuwitness.model.bugs.bug import corpus, find_bug, known_scenario
from mmuwitness.model.era import Era
from mmuwitness.model.host import ARCHES, find_arch
from mmuwitness.model.scenarios import SCENARIOS
from tests.differential.opinions import Opinion, opinion_of, spins_opinion
from tests.differential.verifier import MISSING

KERNELS = ("v2.6.32", "v3.7", "v3.11", "v5.10", "v5.13", "v6.1", "v6.9", "v6.12", "v7.3")
STUDIED = ("x86-tdp", "x86-shadow", "arm64")
"""The architectures that are compared on all of these; the others on one."""
ONE = ("v6.1",)
STATES_MAX = 5_000_000


@dataclass(frozen=True)
class Case:
    """One program: a scenario (or a bug, or a bug's fix) on a kernel."""

    scenario: str
    arch: str
    era: str
    changes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Compared:
    case: Case
    ours: Opinion
    spins: Opinion | None
    seconds: float

    @property
    def agree(self) -> bool:
        return self.spins is None or self.ours == self.spins

    def line(self) -> str:
        case, ours, spins = self.case, self.ours, self.spins
        name = f"{case.scenario:17} {case.arch:11} {case.era:8}"
        if spins is None:
            return f"{name} {ours.states:>10,}  (more than {STATES_MAX:,}: left out)"
        verdict = " ".join(sorted(ours.claims)) or "holds"
        verdict += ", deadlock" * ours.deadlock + f", {len(ours.marks)} marks"
        text = f"{name} {ours.states:>10,} {spins.states:>10,}  {self.seconds:5.1f} s  {verdict}"
        if not self.agree:
            names = [f.name for f in fields(Opinion)]
            parts = (f"{n}: {getattr(ours, n)} / {getattr(spins, n)}" for n in names)
            text += "\n  THEY DIFFER: " + "; ".join(parts)
        return text


def cases(wanted: list[str]) -> Iterator[Case]:
    """The distinct programs of every bug and of every scenario on every architecture.

    wanted: only those of these bugs, scenarios, architectures and kernels, where any is named."""

    def is_wanted(name: str, names: Collection[str]) -> bool:
        return name in wanted or not any(each in names for each in wanted)

    scenarios = [*SCENARIOS, *corpus()]
    for name in (name for name in corpus() if is_wanted(name, scenarios)):
        bug = find_bug(name)
        broken, fixed = bug.broken_era, bug.fixed_era
        yield Case(bug.broken_scenario.name, bug.arch, broken.name, broken.changes)
        yield Case(bug.fixed_scenario.name, bug.arch, fixed.name, fixed.changes)
    for name in (name for name in SCENARIOS if is_wanted(name, scenarios)):
        for arch in (arch for arch in ARCHES if is_wanted(arch, ARCHES)):
            eras = [era for era in KERNELS if is_wanted(era, KERNELS)]
            yield from programs(name, arch, eras if arch in STUDIED else ONE)


def programs(scenario: str, arch: str, eras: Collection[str]) -> Iterator[Case]:
    """One kernel of each program that a scenario is on these."""
    known = set()
    for era in eras:
        if not SCENARIOS[scenario].absent(Era(era), find_arch(arch)):
            compiled, _ = compiled_program(SCENARIOS[scenario], Era(era), arch, MERGED)
            if compiled.digest not in known:
                yield Case(scenario, arch, era)
            known.add(compiled.digest)


def compare(case: Case, states_max: int = STATES_MAX) -> Compared:
    """Both explore a program, unless it has more states than that."""
    began = time.monotonic()
    scenario, era = known_scenario(case.scenario), Era(case.era, case.changes)
    assert scenario is not None
    found = explore(scenario, era, case.arch)
    ours = opinion_of(found.result, found.compiled.claims, found.compiled.marks)
    if ours.states > states_max:
        return Compared(case, ours, None, time.monotonic() - began)
    program = fold_scenario(scenario, era, case.arch)
    with tempfile.TemporaryDirectory() as directory:
        spins = spins_opinion(program, Path(directory), ours.states)
    return Compared(case, ours, spins, time.monotonic() - began)


def main(wanted: list[str]) -> int:
    """The exit code: 1 if two opinions differ."""
    if MISSING:
        print(f"make diff: {' and '.join(MISSING)} not found")
        return 2
    differ = count = total = 0
    print(
        f"{'scenario':17} {'arch':11} {'era':8} {'states':>10} {'SPIN':>10}  {'time':>7}  verdict"
    )
    with ProcessPoolExecutor(int(os.environ.get("WORKERS", "2"))) as pool:
        for compared in pool.map(compare, cases(wanted)):
            print(compared.line(), flush=True)
            count += 1
            differ += not compared.agree
            total += compared.ours.states
    print(f"{count} programs, {total:,} states: " + (f"{differ} differ" if differ else "equal"))
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
