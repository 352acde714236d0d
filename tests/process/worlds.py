"""Small hosts for tests: process code as source text, wired, folded and explored."""

from __future__ import annotations

import importlib.util
import itertools
import types
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmuwitness.model.state import World
from mmuwitness.process.native import NativeProgram, compile_ir
from mmuwitness.process.program import Program, fold

DECLARATIONS = """\
from mmuwitness.model.primitives import (
    atomic, bug_on, choose, cover, feature, lock, read_lock, spin_lock, trace, trylock, unlock,
    wait_until, warn_on, write_lock,
)
from mmuwitness.model.state import (
    Bool, Bounded, Field, Local, Lock, Ref, RwLock, Sequence, Snapshot, Struct, Value,
)


class Leaf(Value):
    odd = Bool()
    n = Bounded(-1, 2)
    item = Ref("Item")


class Item(Struct):
    lk = Field(Lock())
    n = Field(Bounded(0, 3))
    arr = Field(Bounded(0, 2), array=LENGTH)
    leaf = Field(Leaf)


class Box(Struct):
    lk = Field(Lock())
    rw = Field(RwLock())
    seq = Field(Sequence())
    n = Field(Bounded(0, 3))
    neg = Field(Bounded(-2, 1))
    flag = Field(Bool())
    one = Field(Bounded(1, 3))
    item = Field(Ref("Item"))
    leaf = Field(Leaf)
    arr = Field(Bounded(0, 2), array=LENGTH)
    seen = Field(Bounded(0, 3), array=6)
    ghost = Field(Bounded(0, 3), ghost=True)


class Rec(Local):
    a = Bounded(0, 3)
    seen = Snapshot()
    item = Ref("Item")
"""

COUNTER = """

class Counter(Struct):
    seq = Field(Sequence())
"""


def declared(code: str, length: int = 2) -> str:
    """Process code after the declarations that it uses; length: of the arrays named arr."""
    return DECLARATIONS.replace("LENGTH", str(length)) + code + COUNTER


serial = itertools.count()


def load(directory: Path, text: str) -> types.ModuleType:
    """Source text as a module with a file of its own, as the language wants it."""
    path = directory / f"code{next(serial)}.py"
    path.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Actor:
    """A process of a small host."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Predicate:
    """An `always` claim of a small host; locks: fields of host.box that must be free."""

    name: str
    function: Callable[..., Any]
    locks: tuple[str, ...] = ()

    def needs(self, host: Any) -> list[tuple[Any, str]]:
        return [(host.box, lock) for lock in self.locks]


class SmallHost:
    """A host with one Box, `host.box`, and some Items and two Counters, `host.items` and
    `host.counters`, where there are such.

    Its processes are the functions p0, p1 ... of a module, its claims claim0, claim1 ..."""

    def __init__(self, module: Any, needs: Sequence[tuple[str, ...]] = (), items: int = 2) -> None:
        self.world = World()
        if hasattr(module, "Item"):
            self.items = self.world.add(module.Item, items)
        if hasattr(module, "Box"):
            self.box = self.world.add(module.Box)[0]
        if hasattr(module, "Counter"):
            self.counters = self.world.add(module.Counter, 2)
        if hasattr(module, "wire"):
            module.wire(self)
        self.overrides: dict[str, types.FunctionType] = {}
        self.processes: Sequence[Any] = [
            Actor(f"p{n}", getattr(module, f"p{n}"), (self,))
            for n in range(10)
            if hasattr(module, f"p{n}")
        ]
        self.claims: Sequence[Any] = [
            Predicate(f"claim{n}", getattr(module, f"claim{n}"), (*needs, *[()] * 10)[n])
            for n in range(10)
            if hasattr(module, f"claim{n}")
        ]

    def has_feature(self, name: str) -> bool:
        return name == "on"


class TooLarge(Exception):
    """A program has more states than a test wants."""


@dataclass
class Explored:
    """Every state of a lowered program: a schedule to it, its successors and its info words."""

    program: Program
    schedules: dict[tuple[int, ...], tuple[tuple[int, int], ...]] = field(default_factory=dict)
    found: dict[tuple[int, ...], list[tuple[int, int, tuple[int, ...]]]] = field(
        default_factory=dict
    )
    info: dict[tuple[int, ...], list[int]] = field(default_factory=dict)

    @property
    def deadlock(self) -> bool:
        return any(info[1] for info in self.info.values())

    @property
    def violated(self) -> set[str]:
        bits = 0
        for info in self.info.values():
            bits |= info[0]
        return {name for bit, name in enumerate(self.program.claims) if bits >> bit & 1}

    @property
    def errors(self) -> set[str]:
        sites = self.program.lowered.errors
        found = {info[2] for info in self.info.values()} - {0}
        return {f"{sites[n - 1].where}: {sites[n - 1].message}" for n in found}

    @property
    def marks(self) -> set[str]:
        bits = 0
        for found in self.found.values():
            for _, marks, _ in found:
                bits |= marks
        return {name for bit, name in enumerate(self.program.lowered.marks) if bits >> bit & 1}

    def ends(self) -> set[tuple[int, ...]]:
        """The shared state wherever nothing can happen: processes have finished, or wait."""
        slots = [slot for _, of_field in self.program.layout.shared() for slot in of_field]
        return {
            tuple(slot.get(words) for slot in slots)
            for words, found in self.found.items()
            if not found
        }

    def final(self, key: str) -> set[tuple[int, ...]]:
        """The values of one field, of every instance, wherever nothing can happen."""
        at = 0
        for declared, slots in self.program.layout.shared():
            if declared.key == key:
                return {values[at : at + len(slots)] for values in self.ends()}
            at += len(slots)
        raise KeyError(key)


def explored(program: Program, states_max: int = 2000) -> Explored:
    """Breadth first; TooLarge if there are more states."""
    native = NativeProgram(compile_ir(program.lowered.text))
    first = tuple(program.initial)
    graph = Explored(program, {first: ()})
    work = deque([first])
    most = max(1, program.lowered.successors_max)
    while work:
        words = work.popleft()
        graph.found[words], graph.info[words] = native.call(words, most)
        for label, _, target in graph.found[words]:
            if target not in graph.schedules:
                graph.schedules[target] = (*graph.schedules[words], (label & 0xFF, label >> 8))
                work.append(target)
        if len(graph.schedules) > states_max:
            raise TooLarge
    return graph


def verdicts(graph: Explored) -> tuple[object, ...]:
    """What must not depend on how accesses are merged into steps.

    Where the model itself goes wrong the search stops, so that is all that is compared."""
    if graph.errors:
        return ("goes wrong",)
    return (graph.ends(), graph.marks, graph.violated, graph.deadlock)


def fold_code(
    directory: Path,
    code: str,
    needs: Sequence[tuple[str, ...]] = (),
    every: bool = False,
    length: int = 2,
) -> Program:
    """A program of process code over the declarations."""
    return fold(SmallHost(load(directory, declared(code, length)), needs), every)
