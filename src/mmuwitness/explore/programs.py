"""Compiled programs, and the cache of them on disk.

Folding reads some features of a kernel and no others.  Two kernels that agree on those have the
same program, so a cache entry is found by the sources, the scenario, the architecture and the
values of the features that its folding read: without parsing or folding anything.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path

from mmuwitness.model.bugs.bug import known_scenario
from mmuwitness.model.era import Era, UnknownName
from mmuwitness.model.host import Host, find_arch
from mmuwitness.model.scenarios import LARGE
from mmuwitness.model.scenarios.scenario import Scenario
from mmuwitness.process.disk_cache import cache_directory, cached, write_whole
from mmuwitness.process.native import compile_ir, machine_key
from mmuwitness.process.program import Program, fold

LockPoints = list[int]
"""Where a process stands at a lock: word, shift and mask of its pc in a state, then the pcs."""


@dataclass(frozen=True)
class Compiled:
    """A program ready to be explored.  digest: the same for every kernel that has this program."""

    digest: str
    features: dict[str, bool]
    claims: list[str]
    marks: list[str]
    initial: list[int]
    successors_max: int
    processes: list[str]
    unguarded: list[str]
    fields: list[str]
    errors: list[str]
    functions: list[str]
    reduced: list[str]
    lock_points: list[LockPoints]


@cache
def sources_digest() -> str:
    """A hash of every file that decides what a program is."""
    package = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256(" ".join(machine_key()).encode())
    for path in sorted([*package.glob("model/**/*.py"), *package.glob("process/*.py")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Folding:
    """How a scenario is folded and compiled.

    claims: with its claims, or for its marks only.  every: each shared access is a step.
    thorough: slower to compile, twice as fast to run.
    reduce: what is explored up to symmetry, where that is shown.
    any_page_first: any free page may be handed out, not the lowest only; so it is where pages are
    reduced, since which one is the lowest has no meaning there.
    liveness: with its `eventually` claims, too; not where anything is reduced.
    happens: with the claims that must be wrong, since what they deny has to happen."""

    claims: bool = True
    every: bool = False
    thorough: bool = False
    reduce: tuple[str, ...] = ()
    any_page_first: bool = False
    liveness: bool = False
    happens: bool = False


MERGED = Folding()
VCPUS, PAGES = "vcpus", "pages"
REDUCTIONS = (VCPUS, PAGES)


def reductions_of(scenario: Scenario, asked: str) -> tuple[str, ...]:
    """What "auto", "all", "none" or names with commas between them ask for; UnknownName.

    "auto": all where it pays.  To show that things are interchangeable takes seconds; most
    scenarios are explored in less."""
    if asked == "auto":
        return REDUCTIONS if scenario.name in LARGE else ()
    if asked in ("all", "none"):
        return REDUCTIONS if asked == "all" else ()
    names = asked.split(",")
    for name in names:
        if name not in REDUCTIONS:
            raise UnknownName("reduction", name, ["auto", "all", "none", *REDUCTIONS])
    return tuple(name for name in REDUCTIONS if name in names)


def index_path(scenario: Scenario, arch: str, how: Folding) -> Path:
    key = f"{sources_digest()} {scenario.name} {scenario.sizes} {arch} {how}"
    return cache_directory() / f"program-{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


def is_shipped(scenario: Scenario) -> bool:
    """True if the sources' hash covers what the scenario runs; its sizes may be others."""
    shipped = known_scenario(scenario.name)
    return shipped is not None and scenario == replace(shipped, sizes=scenario.sizes)


def read_index(path: Path) -> list[Compiled]:
    """The entries of an index; a damaged one counts as absent."""
    try:
        return [Compiled(**entry) for entry in json.loads(path.read_text())]
    except (OSError, ValueError, TypeError):
        return []


def add_to_index(path: Path, made: Compiled) -> None:
    """One more entry.  Where the cache cannot be written, `cached` has said so already."""
    content = json.dumps([asdict(entry) for entry in [*read_index(path), made]])
    with contextlib.suppress(OSError):
        write_whole(path, content.encode())


def fold_scenario(scenario: Scenario, era: Era, arch: str, how: Folding = MERGED) -> Program:
    """The folded program of a scenario, for those who need its text: replay, timelines."""
    program = fold(folded_host(scenario, era, arch, how), how.every, reduce=how.reduce)
    if PAGES in how.reduce and PAGES not in program.reduced:
        others = tuple(name for name in how.reduce if name != PAGES)
        return fold_scenario(scenario, era, arch, replace(how, reduce=others))
    return program


def folded_host(scenario: Scenario, era: Era, arch: str, how: Folding) -> Host:
    """A fresh host, with the claims that a program folded so has."""
    any_page_first = how.any_page_first or PAGES in how.reduce
    return scenario.host(
        era, find_arch(arch), how.claims, any_page_first, how.liveness, how.happens
    )


def compiled_program(
    scenario: Scenario, era: Era, arch: str, how: Folding
) -> tuple[Compiled, bytes]:
    """The program of a scenario on a kernel and its object code, from the cache if it is there."""
    path = index_path(scenario, arch, how) if is_shipped(scenario) else None
    kernel_arch = find_arch(arch).kernel_arch
    folded = partial(fold_scenario, scenario, era, arch, how)
    for entry in read_index(path) if path else ():
        if all(era.has(name, kernel_arch) == value for name, value in entry.features.items()):
            return entry, object_code(entry.digest, how, lambda: folded().lowered.text)
    program = folded()
    made = describe(program)
    if made.reduced:
        cached("text", (sources_digest(), made.digest), program.lowered.text.encode)
    code = object_code(made.digest, how, lambda: program.lowered.text)
    if path:
        add_to_index(path, made)
    return made, code


def thorough_code(
    scenario: Scenario, era: Era, arch: str, how: Folding, compiled: Compiled
) -> bytes:
    """Code that does what that of `compiled_program` does, and took longer to make."""

    def text() -> str:
        return fold_scenario(scenario, era, arch, how).lowered.text

    if compiled.reduced:  # which takes long to find out, so its text is kept
        key = (sources_digest(), compiled.digest)
        kept = cached("text", key, lambda: text().encode()).decode()
        return object_code(compiled.digest, replace(how, thorough=True), lambda: kept)
    return object_code(compiled.digest, replace(how, thorough=True), text)


def object_code(digest: str, how: Folding, text: Callable[[], str]) -> bytes:
    """Machine code of a program, compiled from its IR unless the cache has it."""
    key = (sources_digest(), digest, str(how.thorough))
    return cached("object", key, lambda: compile_ir(text(), how.thorough))


def describe(program: Program) -> Compiled:
    host = program.host
    return Compiled(
        program.digest,
        {name: host.has_feature(name) for name in sorted(host.features_read)},
        program.claims,
        program.lowered.marks,
        program.initial,
        program.lowered.successors_max,
        [each.process.name for each in program.steps],
        program.unguarded,
        sorted(
            {
                op.field.key
                for s in program.steps
                for _, _, op in s.process.ops()
                if op.field is not None
            }
        ),
        [f"{site.where}: {site.message}" for site in program.lowered.errors],
        sorted(program.functions),
        program.reduced,
        [lock_points(program, pid) for pid in range(len(program.steps))],
    )


def lock_points(program: Program, pid: int) -> LockPoints:
    """Where a process stands at a lock."""
    slot = program.layout.frames[pid].pc
    at_lock = (b.pc for b in program.steps[pid].boundaries if b.op and b.op.code == "acquire")
    return [slot.word, slot.shift, slot.mask, *at_lock]
