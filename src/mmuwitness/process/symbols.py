"""The variables of a program, for all of its states at once: what diagrams are made of.

They are the parts of shared fields, the locals that are live where steps begin, and of each lock
what a process can see of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmuwitness.model.state import Field, Kind, Lock, OfValue, Ref, Sequence
from mmuwitness.process.diagrams import Diagrams
from mmuwitness.process.ir import Process, Reg
from mmuwitness.process.layout import Layout
from mmuwitness.process.steps import Steps, live_on_entry

Parts = tuple[int, ...]
"""A value class: one diagram for each part, of its packed bits."""

Value = int | Parts
"""What a register or an element holds: a diagram, or one for each part."""

Part = tuple[str, int, int]
"""A part of a shared element: field key, element, number of the part (0 if it has one only)."""


def kinds_within(kind: Kind) -> list[Kind]:
    return list(kind.cls.kinds.values()) if isinstance(kind, OfValue) else [kind]


def is_opaque(kind: Any) -> bool:
    return isinstance(kind, Lock | Sequence)


class Symbols:
    """The variables of a program, and the diagrams over them."""

    def __init__(self, layout: Layout, steps: list[Steps], families: list[int]) -> None:
        """families: for each process the first one with the same text; they share variables."""
        self.layout, self.sizes, self.families = layout, layout.world.sizes, families
        self.fields = {declared.key: declared for declared, _ in layout.world.fields()}
        self.kinds: dict[Any, Kind] = {}
        every = [declared.kind for declared in self.fields.values() if not is_opaque(declared.kind)]
        inner = [kind for outer in every for kind in kinds_within(outer)]
        self.handles = {kind.struct for kind in inner if isinstance(kind, Ref)}
        self.values: dict[Any, list[int]] = {}
        self.places: dict[Any, tuple[int, int, int]] = {}
        for declared, slots in layout.shared():
            length = declared.length(self.sizes) if not isinstance(declared.kind, Lock) else 1
            for element in range(len(slots)):
                for name, values in self.variables_of(declared, element):
                    self.values[name] = values
                    named = declared.struct in self.handles
                    within = element // length if named else element % length
                    self.places[name] = (int(named), within, len(self.places))
        for each in steps:
            for boundary in each.boundaries:
                for reg in boundary.live:
                    for name, kind in self.locals_of(each.process, reg):
                        self.kinds[name] = kind
                        self.values[name] = self.values_of(kind, isinstance(reg.kind, OfValue))
        self.diagrams = Diagrams([])
        self.live: dict[Process, dict[int, frozenset[Reg]]] = {}

    def live_on_entry(self, process: Process) -> dict[int, frozenset[Reg]]:
        """The registers that are live where each block of a process begins."""
        if process not in self.live:
            self.live[process] = live_on_entry(process)
        return self.live[process]

    def begin(self, claim: bool = False) -> None:
        """Begin anew: diagrams made before mean nothing from here on.

        The order of variables keeps diagrams small.  Handles stand before what they lead to, and
        what is said of one page together.  A claim speaks of one address after the other; a step
        compares values, part by part."""
        names = [name for name in self.values if not (claim and name[0] == "local")]
        names.sort(key=self.place_for_claim if claim else self.place_for_step)
        self.diagrams = Diagrams([(name, self.values[name]) for name in names])

    def place_for_claim(self, name: Any) -> Any:
        return self.places[name]

    def place_for_step(self, name: Any) -> Any:
        if name not in self.places:
            return (1, name[-1], 0, repr(name)) if self.is_part(name) else (0, 0, 0, repr(name))
        named, within, number = self.places[name]
        if not named and self.is_part(name):
            return (1, name[-1], within, repr(name))
        return (2 + named, within, number, "")

    def is_part(self, name: Any) -> bool:
        """Whether a variable is one of several that make up a value."""
        return (*name[:-1], 1) in self.values

    def locals_of(self, process: Process, reg: Reg) -> list[tuple[Any, Kind]]:
        """The variables of a local, one for each part of its value."""
        family = self.families[process.pid]
        kinds = kinds_within(reg.kind)
        return [(("local", family, reg.context, reg.name, n), k) for n, k in enumerate(kinds)]

    def values_of(self, kind: Kind, packed: bool) -> list[int]:
        """Codes; of a part of a value class, as they are packed."""
        lo, hi = (0, kind.hi(self.sizes) - kind.lo) if packed else (kind.lo, kind.hi(self.sizes))
        return list(range(lo, hi + 1))

    def variables_of(self, declared: Field, element: int) -> Iterator[tuple[Any, list[int]]]:
        if isinstance(declared.kind, Lock):
            seen = 6 if declared.key in self.layout.readers else 3
            yield (declared.key, element, 0), list(range(seen))
            return
        for number, kind in enumerate(kinds_within(declared.kind)):
            name = (declared.key, element, number)
            self.kinds[name] = kind
            yield name, self.values_of(kind, isinstance(declared.kind, OfValue))

    def constant(self, kind: Kind, code: int) -> Value:
        if not isinstance(kind, OfValue):
            return self.diagrams.leaf(code)
        return tuple(
            self.diagrams.leaf(code >> shift & ((1 << width) - 1))
            for _, _, shift, width in kind.parts(self.sizes)
        )
