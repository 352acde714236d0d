"""Which lines of the model a scenario runs, in any interleaving."""

from __future__ import annotations

from dataclasses import dataclass

from mmuwitness.explore.search import search
from mmuwitness.model.era import Era
from mmuwitness.model.host import find_arch
from mmuwitness.model.scenarios.scenario import Scenario
from mmuwitness.process.lowered import Line
from mmuwitness.process.native import NativeProgram, compile_ir
from mmuwitness.process.program import fold


@dataclass(frozen=True)
class Coverage:
    """The lines of one program, and those of them that run.  features: those that it asked for."""

    lines: frozenset[Line]
    ran: frozenset[Line]
    complete: bool
    states: int
    digest: str
    features: dict[str, bool]


def cover_lines(scenario: Scenario, era: Era, arch: str) -> Coverage:
    """Explore a scenario, without claims."""
    host = scenario.host(era, find_arch(arch), claims=False)
    program = fold(host, lines=True)
    lines = program.lowered.lines or {}
    code = NativeProgram(compile_ir(program.lowered.text))
    result = search(code.address, program.initial, program.lowered.successors_max)
    ran = code.library.read("lines", len(lines))
    return Coverage(
        frozenset(lines),
        frozenset(line for line, number in lines.items() if ran[number]),
        result.complete,
        result.states,
        program.digest,
        {name: host.has_feature(name) for name in sorted(host.features_read)},
    )
