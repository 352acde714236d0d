"""What the state of a program is called in Promela: fields, locks, snapshots and live locals.

The state vector is the packed state, one for one: a field is a variable, a lock its owner and,
where somebody reads, a mask of readers; a local that is live where some step begins is a variable,
0 where it is dead.  All else is `hidden`: SPIN keeps it out of the state.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from mmuwitness.model.state import Field, Kind, Lock, OfValue, Snapshot, Value
from mmuwitness.process.ir import Operand, Process, Reg, SequenceOf
from mmuwitness.process.layout import Layout, codes_of
from mmuwitness.process.steps import Steps, before_op, live_at_end, live_on_entry, uses

INT_BITS = 31

WORDS = """
active assert atomic bit bool break byte c_code c_decl c_expr c_state c_track chan d_step do else
empty enabled eval false fi for full get_priority goto hidden if in init inline int len local ltl
mtype nempty never nfull notrace np_ od of pc_value pid printf priority proctype provided return run
select set_priority short show skip timeout trace true typedef unless unsigned xr xs
CLAIM DEADLOCK MARK SETS ended from hopeless observer once running through waits
"""
"""What no variable may be called: Promela's own words, and those that every model uses."""


class TooWide(ValueError):
    """A number that Promela's int cannot hold."""


@dataclass
class Variable:
    """One variable, or one array of them, with its least and greatest value."""

    name: str
    lo: int
    hi: int
    initial: tuple[int, ...] = (0,)
    comment: str = ""
    hidden: bool = False

    def declaration(self) -> str:
        """The narrowest type that holds it: SPIN packs scalars, but not the elements of arrays."""
        many, bits = len(self.initial) > 1, self.hi.bit_length()
        if self.hidden:
            kind = "int"
        elif self.lo < 0 or bits > 16 or (many and bits > 8):
            kind = "short" if self.lo >= -(1 << 15) and bits <= 15 else "int"
        elif many:
            kind = "byte"
        else:
            kind = "bit" if bits <= 1 else "byte" if bits == 8 else "unsigned"
        name = f"{self.name}[{len(self.initial)}]" if many else self.name
        width = f" : {bits}" if kind == "unsigned" else ""
        values = ", ".join(str(v) for v in self.initial)
        start = f" = {{ {values} }}" if many else f" = {values}"
        text = f"{'hidden ' if self.hidden else ''}{kind} {name}{width}"
        if any(self.initial):
            text += start
        return f"{text};" + (f" /* {self.comment} */" if self.comment else "")


class Names:
    """Hands out names that Promela allows, each once."""

    def __init__(self) -> None:
        self.taken: set[str] = set(WORDS.split())

    def unique(self, wanted: str) -> str:
        wanted = re.sub(r"\W+", "_", wanted, flags=re.ASCII).strip("_") or "x"
        if wanted[0].isdigit():
            wanted = f"n{wanted}"
        name, count = wanted, 1
        while name in self.taken:
            count += 1
            name = f"{wanted}_{count}"
        self.taken.add(name)
        return name


@dataclass
class Variables:
    """The variables of a program."""

    layout: Layout
    names: Names = field(default_factory=Names)
    elements: dict[str, Variable] = field(default_factory=dict)
    readers: dict[str, Variable] = field(default_factory=dict)
    processes: list[str] = field(default_factory=list)
    at: list[Variable] = field(default_factory=list)
    locals: list[Locals] = field(default_factory=list)
    values: dict[type[Value], str] = field(default_factory=dict)

    def marks(self, of: SequenceOf, pid: int) -> Iterator[Variable]:
        """The snapshots that a bump by a process makes stale: hidden ones are its own only."""
        for owner, each in enumerate(self.locals):
            for variable in each.marks.get(of, ()):
                if owner == pid or not variable.hidden:
                    yield variable

    def note_value(self, kind: Kind) -> None:
        """The name that the macros of a class of values begin with."""
        if isinstance(kind, OfValue) and kind.cls not in self.values:
            self.values[kind.cls] = self.names.unique(kind.cls.__name__)


@dataclass
class Locals:
    """The variables of one process or claim.

    homes: the registers that one block alone uses, and no state holds: a variable each, if they
    need one.  marks: for each sequence, its snapshots that a bump makes stale."""

    prefix: str
    known: Variables
    homes: set[Reg]
    variables: dict[Reg, Variable] = field(default_factory=dict)
    marks: dict[SequenceOf, list[Variable]] = field(default_factory=dict)

    def of(self, reg: Reg) -> Variable:
        if reg not in self.variables:
            assert reg in self.homes
            self.variables[reg] = self.make(reg, hidden=True)
        return self.variables[reg]

    def make(self, reg: Reg, hidden: bool) -> Variable:
        name = self.known.names.unique(f"{self.prefix}_{plain(reg.name)}")
        hi = reg.kind.hi(self.known.layout.world.sizes)
        return Variable(name, min(reg.kind.lo, 0), max(hi, 0), hidden=hidden)

    def distinct(self) -> list[Variable]:
        """Each variable once."""
        return list({id(v): v for v in self.variables.values()}.values())


def variables_of(layout: Layout, steps: list[Steps]) -> Variables:
    known = Variables(layout)
    for declared, _ in layout.shared():
        add_field(known, declared, len(steps))
    for each in steps:
        known.processes.append(known.names.unique(each.process.name))
    for each, name in zip(steps, known.processes, strict=True):
        kept = {reg for b in each.boundaries for reg in b.live}
        at = Variable(known.names.unique(f"{name}_at"), 0, each.done, (each.initial,))
        known.at.append(at)
        known.locals.append(locals_of(known, each.process, name, kept))
    return known


def add_field(known: Variables, declared: Field, processes: int) -> None:
    """The variable of a field; two for a lock that somebody takes for reading."""
    world = known.layout.world
    initial = tuple(codes_of(declared, world.instances(declared.struct), world))
    name = known.names.unique(f"{declared.struct}_{declared.name}")
    if isinstance(declared.kind, Lock):
        comment = f"{declared.key}: who holds it (0: nobody)"
        known.elements[declared.key] = Variable(name, 0, processes, initial, comment)
        if declared.key in known.layout.readers:
            known.readers[declared.key] = Variable(
                known.names.unique(f"{name}_readers"),
                0,
                (1 << processes) - 1,
                (0,) * len(initial),
                f"{declared.key}: who holds it shared, a bit each",
            )
        return
    lo, hi = declared.kind.lo, declared.kind.hi(world.sizes)
    refuse_wide(lo, hi, declared.key)
    comment = declared.key + (", ghost" if declared.ghost else "")
    known.elements[declared.key] = Variable(name, lo, hi, initial, comment)
    known.note_value(declared.kind)


def refuse_wide(lo: int, hi: int, what: str) -> None:
    if lo < -(1 << INT_BITS) or hi >= 1 << INT_BITS:
        raise TooWide(f"{what} may be {lo}..{hi}: Promela's numbers have {INT_BITS} bits")


def locals_of(
    known: Variables,
    process: Process,
    prefix: str,
    kept: Collection[Reg] = (),
    apart: Operand = 0,
) -> Locals:
    """Variables for registers; those of one name that are never live at once share one.
    kept: the registers that are in the state.  apart: one that is used after the process."""
    meets = interference(process)
    found = Locals(prefix, known, homes_of(process, kept) - {apart})
    sizes = known.layout.world.sizes
    sharing: dict[tuple[object, ...], list[tuple[Variable, list[Reg]]]] = {}
    for reg in meets:
        known.note_value(reg.kind)
        lo, hi = reg.kind.lo, reg.kind.hi(sizes)
        refuse_wide(lo, hi, f"{reg.name} in {process.name}")
        if reg in found.homes:
            continue
        sequence = reg.snapshot_of
        mark = isinstance(reg.kind, Snapshot)
        key = (plain(reg.name), reg in kept, mark, sequence, reg is apart)
        for variable, owners in sharing.setdefault(key, []):
            if not meets[reg].intersection(owners):
                variable.lo, variable.hi = min(variable.lo, lo), max(variable.hi, hi)
                owners.append(reg)
                found.variables[reg] = variable
                break
        else:
            variable = found.variables[reg] = found.make(reg, reg not in kept)
            sharing[key].append((variable, [reg]))
            if sequence:
                found.marks.setdefault(sequence, []).append(variable)
    return found


def homes_of(process: Process, kept: Collection[Reg]) -> set[Reg]:
    """Registers that one block alone uses, and no state holds.  A snapshot is never one of them:
    a bump changes its variable."""
    blocks: dict[Reg, set[int]] = {}
    for block in process.blocks:
        used = [r for op in block.ops for r in (op.dst, *op.args)]
        if block.end and block.end[0] == "branch":
            used.append(block.end[1])
        for reg in used:
            if isinstance(reg, Reg):
                blocks.setdefault(reg, set()).add(id(block))
    return {
        reg
        for reg, where in blocks.items()
        if len(where) == 1 and reg not in kept and not isinstance(reg.kind, Snapshot)
    }


def plain(name: str) -> str:
    """The part of a register's name that its author gave it; `t` for a temporary."""
    last = name.rpartition(".")[2]
    return "held" if last.startswith("_l") else "t" if last.startswith("_t") else last


def interference(process: Process) -> dict[Reg, set[Reg]]:
    """For each register those that must not share its variable: one is live where the other is
    assigned, or both are from the start."""
    meets: dict[Reg, set[Reg]] = {}
    for _, _, op in process.ops():
        for reg in (op.dst, *op.args):
            if isinstance(reg, Reg):
                meets.setdefault(reg, set())
    entering = live_on_entry(process)
    for reg in entering.get(id(process.entry), frozenset()):
        meets[reg] |= entering[id(process.entry)] - {reg}
    for block in process.blocks:
        live = live_at_end(block, entering)
        for op in reversed(block.ops):
            if op.dst is not None:
                # trylock writes its result before it takes the lock that its argument names.
                also = frozenset(uses(op)) if op.code == "try" else frozenset()
                for other in (live | also) - {op.dst}:
                    meets[op.dst].add(other)
                    meets[other].add(op.dst)
            live = before_op(op, live)
    return meets
