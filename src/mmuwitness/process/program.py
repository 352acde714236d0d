"""A folded program: the processes and claims of one host, their steps, layout and machine code."""

from __future__ import annotations

import gc
import hashlib
import types
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from mmuwitness.model.state import World
from mmuwitness.process import operators
from mmuwitness.process.canonical import fits, lower_canonical
from mmuwitness.process.cfg import Builder
from mmuwitness.process.ghosts import drop_ghosts, refuse_use
from mmuwitness.process.ir import Operand, Process
from mmuwitness.process.layout import Layout, initial_words, make_layout
from mmuwitness.process.locks import never_waited_for
from mmuwitness.process.lowered import Lowered
from mmuwitness.process.sequences import find_snapshots
from mmuwitness.process.simplify import simplify
from mmuwitness.process.sleeping import mark_sleeps
from mmuwitness.process.steps import (
    Access,
    Boundary,
    Steps,
    accesses_of,
    find_steps,
    locks_held,
)
from mmuwitness.process.successors import FoldedClaim, lower_program
from mmuwitness.process.symmetry import candidates, find_symmetry
from mmuwitness.process.values import Const


class HostSpec(Protocol):
    """What folding needs to know of a host."""

    world: World
    overrides: dict[str, types.FunctionType]
    processes: Sequence[Any]
    claims: Sequence[Any]

    def has_feature(self, name: str) -> bool: ...


@dataclass(eq=False)
class Program:
    """One host folded: everything that explore and replay need."""

    host: Any
    steps: list[Steps]
    layout: Layout
    lowered: Lowered
    claims: list[str]
    functions: frozenset[str]
    reduced: list[str]
    unguarded: list[str] = field(default_factory=list)
    predicates: list[FoldedClaim] = field(default_factory=list)

    @property
    def initial(self) -> list[int]:
        return initial_words(self.layout, self.steps)

    @property
    def digest(self) -> str:
        """Two programs with the same digest have the same states and the same steps."""
        text = self.lowered.text + repr(self.initial) + repr(self.lowered.marks)
        return hashlib.sha256(text.encode()).hexdigest()

    def process_name(self, pid: int) -> str:
        return self.steps[pid].process.name

    def boundary(self, pid: int, words: Sequence[int]) -> Boundary | None:
        """Where a process stands in a packed state; None when it has finished."""
        pc = self.layout.frames[pid].pc.get(tuple(words))
        return None if pc == self.steps[pid].done else self.steps[pid].boundaries[pc]


def fold(
    host: HostSpec,
    every: bool = False,
    lines: bool = False,
    reduce: Collection[str] = (),
    builder: type[Builder] = Builder,
) -> Program:
    """Fold every process and claim of a host; see `find_steps` for `every`, `lower_program` for
    `lines`.

    reduce: what to take as interchangeable where it is: kindred by name.  builder: what folds the
    processes."""
    with uncollected():
        return fold_host(host, every, lines, reduce, builder)


@contextmanager
def uncollected() -> Iterator[None]:
    """Keep the garbage collector away: what folding makes is used until it ends."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def fold_host(
    host: HostSpec, every: bool, lines: bool, reduce: Collection[str], builder: type[Builder]
) -> Program:
    processes = []
    for pid, spec in enumerate(host.processes):
        made = builder(host.world, host.has_feature, host.overrides)
        processes.append(made.build(spec.name, pid, spec.function, spec.arguments))
    find_snapshots(processes)
    for process in processes:
        refuse_use(process)
    if not host.claims:
        drop_ghosts(processes)
    prepare(processes, host.world)
    claims, observers = [], []
    for number, claim in enumerate(host.claims):
        judge = Builder(host.world, host.has_feature, host.overrides, is_claim=True)
        folded = fold_claim(judge, host, claim, -1 - number)
        claims.append(folded)
        observers += observed(folded)
    needed = {key for claim in claims for key, _ in claim.needs}
    free = never_waited_for(processes, needed)
    steps = find_steps(processes, free, observers, every)
    kept = written(processes) - free
    asked = [each for each in candidates(host) if each.name in reduce]
    movable = [pid for each in asked for pid in each.processes]
    layout = make_layout(host.world, steps, kept, read_locked(processes), movable)
    lowered = lower_program(layout, steps, claims, lines)
    fitting = [each for each in asked if fits(layout, each)]
    kindred = find_symmetry(host, layout, steps, claims, fitting)
    if kindred:
        lowered.text += "\n\n" + lower_canonical(layout, steps, kindred)
    return Program(
        host,
        steps,
        layout,
        lowered,
        [c.name for c in host.claims],
        frozenset().union(*(p.functions for p in [*processes, *(c.process for c in claims)])),
        [each.name for each in kindred],
        unguarded_writes(processes),
        claims,
    )


def prepare(processes: list[Process], world: World) -> None:
    """What can be said of processes that are all there are: before their steps are looked for."""
    for process in processes:
        simplify(process, world, written(processes))
    for process in processes:
        mark_sleeps(process)
        process.held = locks_held(process)


def fold_claim(builder: Builder, host: HostSpec, claim: Any, pid: int) -> FoldedClaim:
    process = builder.build(claim.name, pid, claim.function, (host,))
    result = as_operand(builder)
    return FoldedClaim(process, result, [(lock, at) for lock, at in needs_of(host, claim)])


def needs_of(host: HostSpec, claim: Any) -> list[tuple[str, int]]:
    return [(type(o).fields[name].key, o.index) for o, name in claim.needs(host)]


def as_operand(builder: Builder) -> Operand:
    """The predicate's value as an operand."""
    tree = builder.frame.source.tree
    if builder.result == Const(None):
        raise builder.error("a claim returns whether it holds", tree)
    known = operators.truth(builder, builder.result, tree)
    return int(known) if known is not None else builder.as_dyn(builder.result, tree)[0]


def observed(claim: FoldedClaim) -> list[Access]:
    """What a claim reads, as an observer that holds the locks it needs free."""
    held = frozenset((key, element, "w") for key, element in claim.needs)
    found = accesses_of(claim.process, locks_held(claim.process))
    return [Access(a.pid, a.field, a.element, a.write, held) for a in found.values()]


def written(processes: list[Process]) -> set[str]:
    """Fields that some process writes, locks or bumps: all others are constants."""
    codes = {"store", "acquire", "try", "release", "bump"}
    return {
        op.field.key for p in processes for _, _, op in p.ops() if op.code in codes and op.field
    }


def read_locked(processes: list[Process]) -> set[str]:
    return {
        op.field.key
        for p in processes
        for _, _, op in p.ops()
        if op.code == "acquire" and op.extra == "r" and op.field
    }


def unguarded_writes(processes: list[Process]) -> list[str]:
    """Writes to a field with `guarded_by` where its lock is not surely held."""
    problems = set()
    for process in processes:
        for _, _, op in process.ops():
            if op.code != "store" or op.field is None or not op.field.guarded_by:
                continue
            if not any(key == op.field.guarded_by and m == "w" for key, _, m in process.held[op]):
                problems.add(f"{op.where}: {op.field.key} is written without {op.field.guarded_by}")
    return sorted(problems)
