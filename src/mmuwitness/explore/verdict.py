"""Can `.change_pte()` ever do anything?  For every architecture and kernel, from exploration.

Every release is folded, kernels with the same program share one exploration, and what
`.change_pte()` did in it is read from the marks that were reached.  Nothing here knows what to
expect of any cell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from mmuwitness.explore.explorer import Exploration, Schedule, explore
from mmuwitness.explore.kernels import INTERRUPTED, Task, in_processes, once_per_program
from mmuwitness.explore.programs import Folding
from mmuwitness.model.claims import CLAIMS
from mmuwitness.model.era import Era
from mmuwitness.model.host import ARCHES, find_arch
from mmuwitness.model.releases import RELEASES
from mmuwitness.model.scenarios import SCENARIOS
from mmuwitness.process.program import uncollected

QUESTION = ("ksm", "unmerge_uprobe")
"""The scenarios that call change_pte: KSM's two windows and the guest's COW; COW broken by the
host, and uprobes.  In each a neighbour keeps the gfn's last-level table page."""

ALONE, TABLE = "ksm_alone", "KVM.table"
"""The scenario without a neighbour: asked where the architecture looks at table pages."""

EFFECTS = ("changes", "installs_read_only", "installs_writable", "zaps", "flushes", "warns")


@dataclass(frozen=True)
class ProgramResult:
    """One distinct program explored: its size, and a schedule to each effect that it reached."""

    scenario: str
    digest: str
    states: int
    edges: int
    depth: int
    complete: bool
    features: tuple[str, ...]
    fields: tuple[str, ...]
    effects: dict[str, Schedule]


@dataclass
class Cell:
    """One architecture on one kernel.  absent: why there is nothing to explore, or ""."""

    arch: str
    era: str
    absent: str = ""
    programs: list[ProgramResult] = field(default_factory=list)

    @property
    def effects(self) -> tuple[str, ...]:
        return tuple(e for e in EFFECTS if any(e in p.effects for p in self.programs))

    @property
    def complete(self) -> bool:
        return self.absent != INTERRUPTED and all(p.complete for p in self.programs)

    @property
    def states(self) -> int:
        """States explored, programs that several scenarios share counted once."""
        return sum({p.digest: p.states for p in self.programs}.values())

    def needs_table(self) -> tuple[str, ...]:
        """Effects reached where a neighbour keeps the gfn's table page, and not where none does."""
        by_name = {p.scenario: p for p in self.programs}
        if ALONE not in by_name:
            return ()
        shared, alone = by_name["ksm"].effects, by_name[ALONE].effects
        return tuple(e for e in EFFECTS if e in shared and e not in alone)

    def witness(self, effect: str) -> Schedule:
        """The shortest schedule to an effect."""
        found = [p.effects[effect] for p in self.programs if effect in p.effects]
        return replace(min(found, key=lambda s: len(s.steps)), era=self.era)

    @property
    def key(self) -> tuple[object, ...]:
        """Cells with the same key say the same thing."""
        return (self.absent, self.effects, self.needs_table() if self.programs else ())


def absent_reason(arch: str, era: Era) -> str:
    """Why a kernel has no change_pte to ask about, or ""."""
    made = find_arch(arch)
    if not made.applies(era):
        return made.absent
    if not made.has_change_pte(era):
        return "no .change_pte()"
    return ""


def summary(found: Exploration) -> ProgramResult:
    effects = {}
    for name in EFFECTS:
        mark = CLAIMS[name].mark
        if found.reached(mark):
            effects[name] = found.schedule_to_mark(mark)
    result = found.result
    return ProgramResult(
        found.scenario.name,
        found.compiled.digest,
        result.states,
        result.edges,
        result.depth,
        result.complete,
        tuple(found.compiled.features),
        tuple(found.compiled.fields),
        effects,
    )


def explore_arch(task: Task) -> list[list[ProgramResult]]:
    """One architecture: for each kernel the results of all scenarios."""
    arch, eras = task
    with uncollected():
        by_scenario = [explore_eras(scenario, arch, eras) for scenario in QUESTION]
        if any(TABLE in result.fields for result in by_scenario[0]):
            by_scenario.append(explore_eras(ALONE, arch, eras))
    return [list(results) for results in zip(*by_scenario, strict=True)]


def explore_eras(scenario: str, arch: str, eras: Sequence[Era]) -> list[ProgramResult]:
    """One scenario on each of some kernels: explored once per program."""
    by_digest: dict[str, ProgramResult] = {}

    def explored(era: Era) -> tuple[dict[str, bool], ProgramResult]:
        found = explore(SCENARIOS[scenario], era, arch, folding=Folding(claims=False))
        compiled = found.compiled
        return compiled.features, by_digest.setdefault(compiled.digest, summary(found))

    return once_per_program(arch, eras, explored)


def verdict_change_pte(
    arches: Sequence[str] = (),
    eras: Sequence[Era] = (),
    progress: Callable[[int, int], None] | None = None,
) -> list[Cell]:
    """The cells of the matrix, by architecture and kernel; all of both by default."""
    eras = tuple(eras) or tuple(Era(name) for name in RELEASES)
    cells = {
        (arch, str(era)): Cell(arch, str(era), absent_reason(arch, era))
        for arch in (arches or ARCHES)
        for era in eras
    }
    tasks = []
    for arch in arches or ARCHES:
        asked = tuple(e for e in eras if not cells[arch, str(e)].absent)
        if asked:
            tasks.append((arch, asked))
    tasks.sort(key=lambda task: -len(task[1]))
    for arch, asked in tasks:
        for era in asked:
            cells[arch, str(era)].absent = INTERRUPTED
    try:
        for number, (task, results) in enumerate(
            zip(tasks, in_processes(explore_arch, tasks), strict=True), 1
        ):
            for era, programs in zip(task[1], results, strict=True):
                cells[task[0], str(era)].absent = ""
                cells[task[0], str(era)].programs = programs
            if progress:
                progress(number, len(tasks))
    except KeyboardInterrupt:
        pass  # what is not explored says so
    return list(cells.values())


def spans(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Runs of consecutive kernels of one architecture that say the same thing."""
    runs: list[list[Cell]] = []
    for cell in cells:
        if runs and runs[-1][0].arch == cell.arch and runs[-1][0].key == cell.key:
            runs[-1].append(cell)
        else:
            runs.append([cell])
    return runs
