"""The intermediate form: registers, operations and blocks of one folded process.

A `Reg` belongs to a local name in one inlined call, so that replay can find the same value in a
generator's frame.  A `Site` names a place where a step may begin, in both executors.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from mmuwitness.model.state import Bool, Bounded, Field, Kind, OfValue, Ref, Snapshot, Struct, Value
from mmuwitness.process.errors import Location
from mmuwitness.process.language import Source

Context = tuple[tuple[int, int], ...]
"""The chain of inlined calls and unrolled iterations: (number of the call or loop, iteration)."""


@dataclass(frozen=True)
class Site:
    """Where a step may begin: the calling context and the numbered syntax node (times 16, plus
    which of several places of that node)."""

    context: Context
    number: int


SequenceOf = tuple[str, int | None]
"""A sequence: the key of its field, and the number of the instance that has it; None where that is
known only in a run."""


class Reg:
    """A local variable or temporary of one inlined call; holds one coded integer."""

    __slots__ = ("context", "kind", "name", "snapshot_of")

    def __init__(self, context: Context, name: str, kind: Kind) -> None:
        self.context, self.name, self.kind = context, name, kind
        self.snapshot_of: SequenceOf | None = None

    def __repr__(self) -> str:
        return f"{self.name}@{len(self.context)}"


Operand = Reg | int


class Op:
    """One operation.  `code` is one of:

    mov, bin (extra: operator), load, store, acquire, release, try (extra: "w" or "r"),
    bump, snap, fresh (extra: the sequence), cover (extra: mark), check (extra: message), choose
    (extra: n), wait, begin (an atomic region starts), trace (extra: name) and sleep (it might;
    extra: inside non_block), which `sleeping` makes a mark of, or nothing.  Where functions are
    counted: count and spend (extra: the function that is entered), and leave (a window is open).

    `first` is where a step that begins with this access begins: the operation that starts to
    compute its element number.  `handle`: what the instance accessed is known by, its number or
    the register with a handle to it.
    """

    __slots__ = (
        *("args", "code", "dst", "extra", "field", "ghost", "region", "site"),
        *("boundary", "first", "handle", "node", "source"),
    )

    def __init__(
        self,
        code: str,
        source: Source,
        node: ast.AST,
        dst: Reg | None = None,
        args: tuple[Operand, ...] = (),
        field: Field | None = None,
        extra: Any = None,
        site: Site | None = None,
        ghost: bool = False,
    ) -> None:
        self.code, self.source, self.node = code, source, node
        self.dst, self.args, self.field, self.extra = dst, args, field, extra
        self.site, self.ghost = site, ghost
        self.region = 0
        self.boundary = -1
        self.first: Op = self
        self.handle: Operand = 0

    @property
    def where(self) -> Location:
        return self.source.location(self.node)

    def __repr__(self) -> str:
        dst = f"{self.dst} = " if self.dst else ""
        key = f" {self.field.key}" if self.field else ""
        return f"{dst}{self.code}{key} {self.args} {self.extra or ''}"


class Block:
    """Straight-line operations and where control goes: ("jump", b), ("branch", reg, b, b),
    ("done",) or ("blocked",).

    assigned: of the locals that only some paths assign, those that every path to the end of this
    block has assigned; None as long as no path comes here."""

    def __init__(self, end: tuple[Any, ...] | None = None) -> None:
        self.ops: list[Op] = []
        self.assigned: frozenset[tuple[int, str]] | None = None
        self._end = end
        self.targets: tuple[Block, ...] = ()

    @property
    def reached(self) -> bool:
        """True if control comes here: known once all that leads here is folded."""
        return self.assigned is not None

    @property
    def end(self) -> tuple[Any, ...] | None:
        return self._end

    @end.setter
    def end(self, end: tuple[Any, ...] | None) -> None:
        self._end = end
        where = {"jump": 1, "branch": 2}.get(end[0]) if end else None
        self.targets = end[where:] if end and where else ()
        if self.assigned is not None:
            for target in self.targets:
                known = self.assigned if target.assigned is None else target.assigned
                target.assigned = known & self.assigned


HeldLock = tuple[str, int, str]
"""A lock surely held: field key, instance, mode "r" or "w"."""

Held = dict[Op, frozenset[HeldLock]]
"""The locks surely held before each operation."""


@dataclass(eq=False)
class Process:
    """One folded process: its blocks in reverse postorder.  declared: its locals that have a
    declared range."""

    name: str
    pid: int
    entry: Block
    blocks: list[Block] = field(default_factory=list)
    functions: set[str] = field(default_factory=set)
    held: Held = field(default_factory=dict)
    declared: dict[tuple[Context, str], Kind] = field(default_factory=dict)

    def ops(self) -> Iterator[tuple[Block, int, Op]]:
        for block in self.blocks:
            for position, op in enumerate(block.ops):
                yield block, position, op


def reachable_blocks(entry: Block) -> list[Block]:
    """Blocks reachable from `entry`, in reverse postorder (iterative: graphs are deep)."""
    order: list[Block] = []
    seen = {id(entry)}
    stack = [(entry, iter(entry.targets))]
    while stack:
        block, rest = stack[-1]
        for target in rest:
            if id(target) not in seen:
                seen.add(id(target))
                stack.append((target, iter(target.targets)))
                break
        else:
            order.append(block)
            stack.pop()
    return order[::-1]


def kind_of_constant(value: Any) -> Kind | None:
    """The kind that a compile-time constant has when it is stored in a register."""
    if isinstance(value, bool):
        return Bool()
    if isinstance(value, int):
        return Bounded(value, value)
    if isinstance(value, Struct):
        return Ref(type(value).__name__)
    if isinstance(value, Value):
        return OfValue(type(value))
    return None


def join_kinds(a: Kind | None, b: Kind | None, sizes: dict[str, int]) -> Kind | None:
    """The kind that covers both; None if there is none.  `None` joins with a handle."""
    if a is None or b is None:
        return a or b
    if isinstance(a, Ref) and isinstance(b, Ref):
        return a if a.struct == b.struct else None
    if isinstance(a, OfValue) and isinstance(b, OfValue):
        return a if a.cls is b.cls else None
    if isinstance(a, Snapshot) and isinstance(b, Snapshot):
        return a
    if isinstance(a, Bool) and isinstance(b, Bool):
        return a
    if isinstance(a, Bool | Bounded) and isinstance(b, Bool | Bounded):
        return Bounded(min(a.lo, b.lo), max(a.hi(sizes), b.hi(sizes)))
    return None


def same_kind(a: Kind, b: Kind, sizes: dict[str, int]) -> bool:
    return type(a) is type(b) and a.lo == b.lo and a.hi(sizes) == b.hi(sizes)
