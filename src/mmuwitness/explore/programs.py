"""Compiled programs, and the cache of them on disk.

Folding reads some features of a kernel and no others.  Two kernels that agree on those have the
same program, so a cache entry is found by the sources, the scenario, the architecture and the
values of the features that its folding read: without parsing or folding anything.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from mmuwitness.explore.core_cache import cache_directory
from mmuwitness.model.era import Era
from mmuwitness.model.host import find_arch
from mmuwitness.model.scenarios import Scenario
from mmuwitness.process.native import compile_ir, machine_name
from mmuwitness.process.program import Program, fold


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
    fields: list[str]
    errors: list[str]


@cache
def sources_digest() -> str:
    """A hash of every file that decides what a program is."""
    package = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256(machine_name().encode())
    for path in sorted([*package.glob("model/**/*.py"), *package.glob("process/*.py")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Folding:
    """How a scenario is folded and compiled.

    claims: with its claims, or for its marks only.  every: each shared access is a step.
    thorough: slower to compile, twice as fast to run."""

    claims: bool = True
    every: bool = False
    thorough: bool = False


MERGED = Folding()


def index_path(scenario: Scenario, arch: str, how: Folding) -> Path:
    key = f"{sources_digest()} {scenario.name} {scenario.sizes} {arch} {how}"
    return cache_directory() / f"program-{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


def read_index(path: Path) -> list[Compiled]:
    """The entries of an index; a damaged one counts as absent."""
    try:
        return [Compiled(**entry) for entry in json.loads(path.read_text())]
    except (OSError, ValueError, TypeError):
        return []


def write_file(path: Path, content: bytes) -> None:
    """Complete or not at all, whoever else writes it.  A cache that cannot be written is none."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except OSError:
        return


def fold_scenario(
    scenario: Scenario, era: Era, arch: str, claims: bool = True, every: bool = False
) -> Program:
    """The folded program of a scenario, for those who need its text: replay, timelines."""
    return fold(scenario.host(era, find_arch(arch), claims), every)


def compiled_program(
    scenario: Scenario, era: Era, arch: str, how: Folding
) -> tuple[Compiled, bytes]:
    """The program of a scenario on a kernel and its object code, from the cache if it is there."""
    path = index_path(scenario, arch, how)
    kernel_arch = find_arch(arch).kernel_arch
    for entry in read_index(path):
        if all(era.has(name, kernel_arch) == value for name, value in entry.features.items()):
            try:
                return entry, object_path(entry.digest, how).read_bytes()
            except OSError:
                break
    program = fold_scenario(scenario, era, arch, how.claims, how.every)
    made = describe(program, era, kernel_arch)
    code = compile_ir(program.lowered.text, how.thorough)
    write_file(object_path(made.digest, how), code)
    write_file(path, json.dumps([asdict(e) for e in [*read_index(path), made]]).encode())
    return made, code


def object_path(digest: str, how: Folding) -> Path:
    key = f"{sources_digest()} {digest} {how.thorough}"
    return cache_directory() / f"object-{hashlib.sha256(key.encode()).hexdigest()[:32]}.o"


def describe(program: Program, era: Era, kernel_arch: str) -> Compiled:
    return Compiled(
        program.digest,
        {name: era.has(name, kernel_arch) for name in sorted(program.host.features_read)},
        program.claims,
        program.lowered.marks,
        program.initial,
        program.lowered.successors_max,
        [each.process.name for each in program.steps],
        sorted(
            {
                op.field.key
                for s in program.steps
                for _, _, op in s.process.ops()
                if op.field is not None
            }
        ),
        [f"{site.where}: {site.message}" for site in program.lowered.errors],
    )
