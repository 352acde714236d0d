"""The process that looks at every state: claims whose locks are free, and deadlocks."""

from __future__ import annotations

from collections.abc import Iterator

from mmuwitness.process.program import Program
from mmuwitness.process.steps import Steps
from mmuwitness.process.successors import FoldedClaim
from mmuwitness.report.promela.enabled import YES, Symbolic, enabled, waits_for
from mmuwitness.report.promela.flow import INDENT, Flow, segments_of
from mmuwitness.report.promela.statements import Writer, bare
from mmuwitness.report.promela.variables import Locals, Variable, Variables, locals_of


def observer(program: Program, known: Variables) -> Iterator[str]:
    """Scratch variables, and the proctype."""
    lines: list[str] = []
    scratch: list[Variable] = []
    for number, claim in enumerate(program.predicates):
        name = known.names.unique(program.claims[number])
        own = locals_of(known, claim.process, name, apart=claim.result)
        lines += ["", f"/* {program.claims[number]} */", *claim_text(number, claim, known, own)]
        scratch += own.distinct()
    lines = [*deadlock(program.steps, known), *lines]
    yield "/* What the observer computes with. */"
    yield from (variable.declaration() for variable in scratch)
    count = len(program.steps)
    yield f"hidden int waits[{count}];"
    yield "hidden int ended, running, from, through, hopeless;"
    yield ""
    yield "active proctype observer() {"
    yield f"{INDENT}do"
    yield f"{INDENT}:: d_step {{ true ->"
    yield from (INDENT * 2 + line if line else "" for line in lines)
    yield f"{INDENT}}}"
    yield f"{INDENT}od"
    yield "}"


def claim_text(number: int, claim: FoldedClaim, known: Variables, own: Locals) -> Iterator[str]:
    """Evaluate a claim, if the locks that it needs are free."""
    writer = Writer(known, -1, own, [])

    def ends(_: int) -> list[str]:
        return [f"CLAIM({number}, {writer.operand(claim.result)});"]

    order = segments_of(claim.process.entry, 0)
    label = known.names.unique(f"claim_{number}")
    lines = Flow(order, writer, label, ends, claim.result).text()
    held = [
        f"{writer.place(table[key], element)} == 0"
        for key, element in claim.needs
        for table in (known.elements, known.readers)
        if key in table
    ]
    if not held:
        yield from lines
        return
    yield "if"
    yield f":: {' && '.join(held)} ->"
    yield from (INDENT + line for line in lines)
    yield ":: else"
    yield "fi;"


def deadlock(steps: list[Steps], known: Variables) -> Iterator[str]:
    """Who waits for whom; found if somebody waits for himself in the end, or for one that has
    finished, or if nobody can run and somebody has not finished."""
    count = len(steps)
    yield "/* Deadlocks: a bit for each process. */"
    yield "ended = 0; running = 0; hopeless = 0;"
    for each in steps:
        yield from standing(each, known)
    yield "for (through : 0 .. {last}) {{ for (from : 0 .. {last}) {{".format(last=count - 1)
    yield INDENT + "waits[from] = waits[from] | (((waits[from] >> through) & 1) * waits[through])"
    yield "} };"
    yield f"for (from : 0 .. {count - 1}) {{"
    yield INDENT + "hopeless = hopeless | (waits[from] & (ended | (1 << from)))"
    yield "};"
    yield f"DEADLOCK(hopeless || (!running && ended != {(1 << count) - 1}));"


def standing(steps: Steps, known: Variables) -> Iterator[str]:
    """Whether a process has finished, waits or can run."""
    pid = steps.process.pid
    at = known.at[pid].name
    writer = Symbolic(known, pid, known.locals[pid], [])
    yield f"waits[{pid}] = 0;"
    yield "if"
    yield f":: {at} == {steps.done} -> ended = ended | {1 << pid}"
    for boundary in steps.boundaries:
        free = enabled(boundary, writer)
        if free != YES:
            mask = waits_for(boundary, writer)
            yield f":: {at} == {boundary.pc} && !{free}" + (
                f" -> waits[{pid}] = {bare(mask)}" if mask else ""
            )
    yield ":: else -> running = 1"
    yield "fi;"
