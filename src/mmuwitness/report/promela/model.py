"""A folded program as Promela: one proctype for each process, and an observer of every state.

Written from the folded text and its steps, not from the machine code that `explore` runs, so that
SPIN is a second opinion on both the lowering and the search.
"""

from __future__ import annotations

import linecache
from collections.abc import Iterator

from mmuwitness.explore.programs import fold_scenario
from mmuwitness.model.era import Era
from mmuwitness.model.host import find_arch
from mmuwitness.model.scenarios.scenario import Scenario
from mmuwitness.model.state import OfValue
from mmuwitness.process.program import Program
from mmuwitness.process.steps import Boundary, Steps
from mmuwitness.report.promela.enabled import YES, Symbolic, enabled
from mmuwitness.report.promela.flow import INDENT, Flow, segments_of
from mmuwitness.report.promela.observer import observer
from mmuwitness.report.promela.statements import Writer
from mmuwitness.report.promela.variables import Variables, variables_of

PREAMBLE = """\
/*
 * A step is one d_step of a process: *_at says where the process stands.  A local is 0 where nobody
 * will read it.  A snapshot of a sequence is one bit, 1 as long as nothing has bumped the sequence.
 * The observer looks at every state once: a step from each state to itself.
 *
 *     spin -o1 -o2 -o3 -a MODEL.pml && gcc -O2 -DSAFETY -DNOREDUCE -o pan pan.c && ./pan -m9999999
 *
 * finds "states, stored" = our states and "transitions" = our steps + states + 1, or a claim that
 * is violated (`spin -t -p MODEL.pml` shows how).  With spin -DSETS it goes on, and prints each
 * claim that is violated, each mark that is reached and a deadlock once.
 */

#ifdef SETS
c_decl {
  static void once(int kind, int number) {
    static char seen[3][64];
    if (!seen[kind][number]) {
      seen[kind][number] = 1;
      printf("found %s %d\\n", kind == 0 ? "claim" : kind == 1 ? "mark" : "deadlock", number);
    }
  }
}
#define CLAIM(number, holds) if :: !(holds) -> c_code { once(0, number); } :: else fi
#define MARK(number, text) c_code { once(1, number); }
#define DEADLOCK(found) if :: found -> c_code { once(2, 0); } :: else fi
#else
#define CLAIM(number, holds) assert(holds)
#define MARK(number, text) printf(text)
#define DEADLOCK(found) assert(!(found))
#endif
"""


def scenario_text(scenario: Scenario, era: Era, arch: str) -> str:
    """A scenario on a kernel.  ValueError: no MMU notifier there, or numbers that are too wide."""
    if absent := scenario.absent(era, find_arch(arch)):
        raise ValueError(absent)
    title = f"{scenario.name} on {arch}, {era}.\n * {scenario.text}\n * Bounds: {scenario.bounds}"
    return promela_text(fold_scenario(scenario, era, arch), f"{title}.").rstrip()


def promela_text(program: Program, title: str) -> str:
    """The whole model."""
    known = variables_of(program.layout, program.steps)
    marks = program.lowered.marks
    processes = [list(proctype(each, known, marks)) for each in program.steps]
    watching = list(observer(program, known))
    parts = [
        f"/* {title}\n */",
        PREAMBLE.rstrip(),
        "\n".join(numbers("Marks", marks)),
        "\n".join(numbers("Claims", program.claims)),
        "\n".join(macros(known)),
        "\n".join(declarations(known)),
        *("\n".join(lines) for lines in processes),
        "\n".join(watching),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def numbers(what: str, names: list[str]) -> Iterator[str]:
    if names:
        yield f"/* {what}:"
        yield from (f" *   {number:2} {name}" for number, name in enumerate(names))
        yield " */"


def macros(known: Variables) -> Iterator[str]:
    """How the parts of values are read and replaced."""
    sizes = known.layout.world.sizes
    for cls, prefix in known.values.items():
        for name, kind, shift, width in OfValue(cls).parts(sizes):
            mask = (1 << width) - 1
            plus, minus = (f" + {kind.lo}", f" - {kind.lo}") if kind.lo else ("", "")
            yield f"#define {prefix}_{name}(v) ((((v) >> {shift}) & {mask}){plus})"
            cleared = f"((v) & ~{mask << shift})"
            yield f"#define {prefix}_set_{name}(v, x) ({cleared} | (((x){minus}) << {shift}))"


def declarations(known: Variables) -> Iterator[str]:
    yield "/* The shared state. */"
    for key, variable in known.elements.items():
        yield variable.declaration()
        if key in known.readers:
            yield known.readers[key].declaration()
    for name, at, own in zip(known.processes, known.at, known.locals, strict=True):
        yield f"\n/* {name}: where it stands, and its locals. */"
        yield at.declaration()
        for variable in sorted(own.distinct(), key=lambda v: v.hidden):
            yield variable.declaration()


def proctype(steps: Steps, known: Variables, marks: list[str]) -> Iterator[str]:
    """A process: one option for each step, and for each choice."""
    pid = steps.process.pid
    name = known.processes[pid]
    yield f"/* {steps.process.name}; {name}_at == {steps.done}: it has finished. */"
    yield f"active proctype {name}() {{"
    yield f"{INDENT}do"
    for boundary in steps.boundaries:
        yield f"{INDENT}/* {boundary.pc}: {where(boundary)} */"
        choices = boundary.op.extra if boundary.op and boundary.op.code == "choose" else 1
        for choice in range(choices):
            for line in option(boundary, steps, known, marks, choice):
                yield INDENT + line
    yield f"{INDENT}od"
    yield "}"


def where(boundary: Boundary) -> str:
    """The place of a step in the model's text, and the text."""
    if boundary.op is None:
        return "the process starts"
    at = boundary.op.where
    source = linecache.getline(boundary.op.source.path, at.line).strip()
    return f"{at.file}:{at.line} {at.function}(): {source}".replace("*/", "* /")


def option(
    boundary: Boundary, steps: Steps, known: Variables, marks: list[str], choice: int
) -> Iterator[str]:
    pid = steps.process.pid
    own, at = known.locals[pid], known.at[pid].name
    free = enabled(boundary, Symbolic(known, pid, own, marks))
    writer = Writer(known, pid, own, marks)
    writer.choice = choice
    order = segments_of(boundary.block, boundary.position)
    touched = [*boundary.live, *(op.dst for each in order for op in each.ops)]
    kept = {id(v): v for reg in touched if reg and reg not in own.homes for v in [own.of(reg)]}

    def ends(stops: int) -> list[str]:
        """Locals that are dead are cleared, and the process stands where its next step begins."""
        pc = steps.done if stops < 0 else stops
        live = () if stops < 0 else steps.boundaries[stops].live
        alive = {id(own.of(reg)) for reg in live}
        dead = [v.name for key, v in kept.items() if key not in alive and not v.hidden]
        return [*(f"{name} = 0;" for name in sorted(dead)), f"{at} = {pc};"]

    label = known.names.unique(f"{known.processes[pid]}_{boundary.pc}")
    lines = Flow(order, writer, label, ends).text()
    guard = f"{at} == {boundary.pc}" + (f" && {free}" if free != YES else "")
    yield f":: d_step {{ {guard} ->"
    yield from (INDENT + line for line in lines)
    yield "}"
