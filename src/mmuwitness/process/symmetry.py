"""Which things of a program are interchangeable: vCPUs, pages.

Nothing is assumed of the text.  To exchange two of a kind is a permutation of the state: of the
elements of their fields, of handles to them and of the processes that run them.  For each pair of
neighbours every step of every process, and every claim, is evaluated on all inputs at once
(`symbolic`), and has to do in the exchanged state what it did before, exchanged.  Then whatever can
happen in a state can happen, exchanged, in the exchanged one: one of all these states is enough.

A step that chooses is compared as the set of what its choices do.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from mmuwitness.model.state import Ref, Struct, World
from mmuwitness.model.state import Sequence as SequenceKind
from mmuwitness.process.diagrams import Renaming, TooLarge
from mmuwitness.process.layout import Layout
from mmuwitness.process.lower import choices
from mmuwitness.process.steps import Steps
from mmuwitness.process.successors import FoldedClaim
from mmuwitness.process.symbolic import Outcome, claim_outcome, step_outcome
from mmuwitness.process.symbols import Symbols

AS_BEFORE = "as before"
RECURSION_MAX = 20_000


@dataclass(frozen=True)
class Kindred:
    """Things that may be interchangeable: all instances of a struct, the processes of which each
    runs one of them, or both."""

    struct: str
    processes: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.struct.lower()}s"

    def count(self, world: World) -> int:
        return len(self.processes) or len(world.instances(self.struct))


def candidates(host: Any) -> list[Kindred]:
    """Processes with one text, each with an instance of its own; then structs without processes.

    None that has a sequence: which of them a snapshot was taken from is known when a program is
    folded, and to exchange them would be to exchange locals, too."""
    found: list[Kindred] = []
    world: World = host.world
    families: dict[Any, list[int]] = {}
    for pid, spec in enumerate(host.processes):
        owned = spec.arguments[0] if len(spec.arguments) == 1 else None
        if isinstance(owned, Struct) and not has_sequence(owned):
            struct = type(spec.arguments[0]).__name__
            families.setdefault((spec.function, struct), []).append(pid)
    for (_, struct), pids in families.items():
        indices = [host.processes[pid].arguments[0].index for pid in pids]
        if len(pids) > 1 and indices == list(range(len(world.instances(struct)))):
            found.append(Kindred(struct, tuple(pids)))
    run = {each.struct for each in found}
    for struct, instances in world.structs():
        fits = type(instances[0]).fields and not has_sequence(instances[0])
        if len(instances) > 1 and fits and struct not in run:
            found.append(Kindred(struct))
    return found


def has_sequence(instance: Struct) -> bool:
    return any(isinstance(each.kind, SequenceKind) for each in instance.fields.values())


class Exchange(Renaming):
    """Number i of some kindred in the place of i + 1, and the other way round."""

    def __init__(self, symbols: Symbols, kindred: Kindred, i: int) -> None:
        self.symbols, self.kindred = symbols, kindred
        self.pair = {i: i + 1, i + 1: i}

    def process(self, pid: int) -> int:
        if pid not in self.kindred.processes:
            return pid
        at = self.kindred.processes.index(pid)
        return self.kindred.processes[self.pair.get(at, at)]

    def variable(self, name: Any) -> Any:
        """Of an element (field, element, part); of a local, a mark or a sequence: itself."""
        if name[0] not in self.symbols.fields or len(name) != 3:
            return name
        return (name[0], self.element(name[0], name[1]), name[2])

    def element(self, key: str, element: int) -> int:
        declared = self.symbols.fields[key]
        if declared.struct != self.kindred.struct:
            return element
        length = 1 if declared.array is None else declared.length(self.symbols.sizes)
        instance, within = divmod(element, length)
        return self.pair.get(instance, instance) * length + within

    def value(self, name: Any, value: int) -> int:
        kind = self.symbols.kinds.get(name)
        if isinstance(kind, Ref) and kind.struct == self.kindred.struct and value is not None:
            return self.pair.get(value - 1, value - 1) + 1
        return value

    def outcome(self, found: Outcome) -> Outcome:
        """What a step does, said of the exchanged state."""
        d = self.symbols.diagrams
        made: Outcome = {}
        for what, diagram in found.items():
            renamed = d.renamed(diagram, self)
            if what[0] == "cell":
                name = what[1]
                renamed = d.apply(Values(self, name), renamed)
                made["cell", self.variable(name)] = renamed
            elif what[0] == "waits":
                _, mode, key, element = what
                made["waits", mode, key, self.element(key, element)] = renamed
            else:
                made[what] = renamed
        return made


@dataclass(frozen=True)
class Values:
    """How the values of a variable are exchanged, as a function."""

    exchange: Exchange
    name: Any

    def __call__(self, value: Any) -> Hashable:
        return value if value is None else self.exchange.value(self.name, value)


class Checker:
    """What each step and each claim of a program does, and whether that is symmetric."""

    def __init__(self, host: Any, layout: Layout, steps: list[Steps]) -> None:
        self.steps = steps
        specs = [(p.function, [type(a) for a in p.arguments]) for p in host.processes]
        self.symbols = Symbols(layout, steps, [specs.index(spec) for spec in specs])

    def outcomes(self, pid: int, pc: int) -> list[Outcome]:
        """What a process does from a place, for each choice."""
        each = self.steps[pid]
        boundary, many = each.boundaries[pc], choices(each)[pc]
        return [step_outcome(self.symbols, each, boundary, choice) for choice in range(many)]

    def allows(
        self, kindred: Kindred, claims: Sequence[FoldedClaim], passed_over: Collection[int]
    ) -> bool:
        """Neighbours can be exchanged everywhere, so all can.

        passed_over: processes that can be exchanged with one that is looked at, by an exchange
        that has nothing to do with this one."""
        count = kindred.count(self.symbols.layout.world)
        exchanges = [Exchange(self.symbols, kindred, i) for i in range(count - 1)]
        return (
            all(self.alike(each, kindred) for each in exchanges)
            and all(
                self.places_allow(pid, pc, exchanges)
                for pid, each in enumerate(self.steps)
                if pid not in passed_over
                for pc in range(each.done)
            )
            and all(self.claim_allows(claim, exchanges) for claim in claims)
        )

    def alike(self, exchange: Exchange, kindred: Kindred) -> bool:
        """The processes that are exchanged have the same places."""
        others = [(self.steps[p], self.steps[exchange.process(p)]) for p in kindred.processes]
        return all(a.initial == b.initial and same_places(a, b) for a, b in others)

    def places_allow(self, pid: int, pc: int, exchanges: list[Exchange]) -> bool:
        self.symbols.begin()
        mine = self.outcomes(pid, pc)
        others = {pid: mine}
        for exchange in exchanges:
            other = exchange.process(pid)
            if other not in others:
                others[other] = self.outcomes(other, pc)
            exchanged = [exchange.outcome(found) for found in mine]
            if as_set(exchanged) == as_set(others[other]):
                continue
            inputs = self.inputs(pid, pc)
            if len(mine) == 1 or self.relation(exchanged, inputs) != self.relation(
                others[other], inputs
            ):
                return False
        return True

    def inputs(self, pid: int, pc: int) -> set[Any]:
        """The variables of the locals that are live in a place."""
        each = self.steps[pid]
        live = each.boundaries[pc].live
        return {name for reg in live for name, _ in self.symbols.locals_of(each.process, reg)}

    def relation(self, choices: list[Outcome], inputs: set[Any]) -> int:
        """What can happen in each state by any choice, as one diagram of sets of changes."""
        d = self.symbols.diagrams
        total = d.leaf(frozenset())
        for each in choices:
            joint = d.leaf(())
            for what in sorted(each, key=repr):
                kind, *name = what
                value = each[what]
                if kind == "cell" and (name[0] in inputs or name[0] in self.symbols.places):
                    value = d.apply(unless_same, value, d.variable(name[0]))
                joint = d.apply(Append(what), joint, value)
            total = d.apply(add, total, joint)
        return total

    def claim_allows(self, claim: FoldedClaim, exchanges: list[Exchange]) -> bool:
        self.symbols.begin(claim=True)
        needs = set(claim.needs)
        holds = claim_outcome(self.symbols, claim.process, claim.result)
        return all(
            {(key, exchange.element(key, at)) for key, at in needs} == needs
            and self.symbols.diagrams.renamed(holds, exchange) == holds
            for exchange in exchanges
        )


def as_set(outcomes: list[Outcome]) -> set[frozenset[Any]]:
    return {frozenset(each.items()) for each in outcomes}


def unless_same(value: Any, before: Any) -> Hashable:
    return AS_BEFORE if value is None or value == before else value


@dataclass(frozen=True)
class Append:
    """Adds what one output is to a tuple of changes, unless it is as before."""

    what: Any

    def __call__(self, changes: Any, value: Any) -> Hashable:
        if value in (AS_BEFORE, None) or (value == 0 and self.what[0] != "cell"):
            return changes
        return (*changes, (self.what, value))


def add(values: Any, value: Any) -> Hashable:
    return values | {value}


def same_places(one: Steps, other: Steps) -> bool:
    """Whether two processes have the same places, with the same locals alive."""

    def places(steps: Steps) -> list[list[tuple[Any, str]]]:
        return [[(reg.context, reg.name) for reg in b.live] for b in steps.boundaries]

    return one is other or places(one) == places(other)


def find_symmetry(
    host: Any,
    layout: Layout,
    steps: list[Steps],
    claims: Sequence[FoldedClaim],
    asked: Sequence[Kindred],
) -> list[Kindred]:
    """Those of some kindred that are interchangeable in a lowered program."""
    if not asked:
        return []
    checker = Checker(host, layout, steps)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, RECURSION_MAX))  # a few calls for each variable
    found: list[Kindred] = []
    passed_over: set[int] = set()
    try:
        for each in asked:
            with suppress(TooLarge):
                if checker.allows(each, claims, passed_over):
                    found.append(each)
                    passed_over.update(each.processes[1:])
    finally:
        sys.setrecursionlimit(limit)
    return found
