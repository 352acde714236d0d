"""What mmuwitness finds of a folded program, and what SPIN finds of the same in Promela."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from mmuwitness.explore.search import SearchResult, search
from mmuwitness.process.native import NativeProgram, compile_ir
from mmuwitness.process.program import Program
from mmuwitness.report.promela.model import promela_text
from tests.differential.pan import pan_report

QUICK_STATES = 300_000
"""Up to so many states it takes longer to optimise SPIN's verifier than to run it."""


@dataclass(frozen=True)
class Opinion:
    """What exploring every state of a program found.  wrong: the model itself went wrong, and
    nothing else is said."""

    states: int = 0
    edges: int = 0
    claims: frozenset[str] = frozenset()
    marks: frozenset[str] = frozenset()
    deadlock: bool = False
    wrong: bool = False


WRONG = Opinion(wrong=True)


def opinion_of(result: SearchResult, claims: list[str], marks: list[str]) -> Opinion:
    """Ours."""
    if result.error is not None:
        return WRONG
    assert result.complete, result.stopped
    return Opinion(
        result.states,
        result.edges,
        frozenset(claims[bit] for bit in result.violated),
        frozenset(marks[bit] for bit in result.covered),
        result.deadlock is not None,
    )


def our_opinion(program: Program) -> Opinion:
    native = NativeProgram(compile_ir(program.lowered.text))
    found = search(native.address, program.initial, max(1, program.lowered.successors_max))
    return opinion_of(found, program.claims, program.lowered.marks)


def spins_opinion(program: Program, directory: Path, states_max: int) -> Opinion:
    """SPIN's.  states_max: about how many states there are, for the size of its tables."""
    return opinion_of_text(promela_text(program, "compared"), program, directory, states_max)


def opinion_of_text(text: str, program: Program, directory: Path, states_max: int) -> Opinion:
    """SPIN's of a text that stands for a program."""
    model = directory / "model.pml"
    model.write_text(text, encoding="utf-8")
    sizes = (f"-m{2 * states_max + 10_000}", f"-w{max(16, states_max.bit_length() + 1)}")
    optimise = "-O0" if states_max <= QUICK_STATES else "-O1"
    report = pan_report(model, ["SETS"], directory, *sizes, optimise=optimise)
    return read_report(report, program.claims, program.lowered.marks)


def read_report(report: str, claims: list[str], marks: list[str]) -> Opinion:
    said = [line for line in report.splitlines() if line.startswith(("pan:", "error:"))]
    said = [line for line in said if not re.match(r"pan: (elapsed time|rate) ", line)]
    if any("assertion violated" in line for line in said):
        return WRONG
    assert said == [], report[:2000]

    def number(pattern: str) -> int:
        return int(re.findall(rf"^ +(\d+) {pattern}", report, re.MULTILINE)[0])

    def found(what: str) -> list[int]:
        return [int(n) for n in re.findall(rf"^found {what} (\d+)$", report, re.MULTILINE)]

    states = number(r"states, stored$")
    return Opinion(
        states,
        # The observer steps from every state to itself; the initial state counts as a step.
        number(r"transitions \(= stored\+matched\)$") - states - 1,
        frozenset(claims[n] for n in found("claim")),
        frozenset(marks[n] for n in found("mark")),
        bool(found("deadlock")),
    )
