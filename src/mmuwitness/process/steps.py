"""Where steps begin.

A step begins at an acquire, a wait, a choice, and at an access to shared state that is not
proved to commute with every other process.  The proof is Lipton's: what follows in the same step
must be left movers.  A release is one (unless somebody uses trylock on that lock), and so is an
access all of whose conflicting accesses in other processes happen under a lock that this process
holds too.  Claims take part as readers that hold the locks they need free.  What is not proved is
one more step: sound, never an error.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mmuwitness.process.errors import ProcessError
from mmuwitness.process.ir import Block, Op, Operand, Process, Reg, Site

ALWAYS = {"acquire", "try", "wait", "choose"}
WRITES = {"store", "bump"}
READS = {"load", "snap", "fresh"}

HeldLock = tuple[str, int, str]
"""A lock surely held: field key, instance, mode "r" or "w"."""


@dataclass(frozen=True)
class Access:
    """One read or write of shared state, with the locks surely held there."""

    pid: int
    field: str
    element: int | None
    write: bool
    held: frozenset[HeldLock]

    def commutes(self, other: Access) -> bool:
        if not (self.write or other.write):
            return True
        if None not in (self.element, other.element) and self.element != other.element:
            return True
        return any(
            key == k and index == i and "w" in (mode, m)
            for key, index, mode in self.held
            for k, i, m in other.held
        )


@dataclass
class Boundary:
    """A place where a process may be found between two steps."""

    pc: int
    site: Site | None
    op: Op | None
    block: Block
    position: int
    live: tuple[Reg, ...] = ()


@dataclass
class Steps:
    """The boundaries of one process; `initial` is the pc that it starts from."""

    process: Process
    boundaries: list[Boundary]
    initial: int

    @property
    def done(self) -> int:
        return len(self.boundaries)

    @property
    def by_site(self) -> dict[Site, Boundary]:
        return {b.site: b for b in self.boundaries if b.site is not None}


def constant_index(args: tuple[Operand, ...]) -> int | None:
    return args[0] if isinstance(args[0], int) else None


def locks_held(process: Process) -> dict[Op, frozenset[HeldLock]]:
    """Must-hold locksets before every operation: forward, met by intersection."""
    entering: dict[int, frozenset[HeldLock]] = {id(process.entry): frozenset()}
    before: dict[Op, frozenset[HeldLock]] = {}
    changed = True
    while changed:
        changed = False
        for block in process.blocks:
            held = entering.get(id(block))
            if held is None:
                continue
            for op in block.ops:
                before[op] = held
                held = after_op(op, held)
            for target in block.targets():
                old = entering.get(id(target))
                new = held if old is None else old & held
                if new != old:
                    entering[id(target)] = new
                    changed = True
    return before


def after_op(op: Op, held: frozenset[HeldLock]) -> frozenset[HeldLock]:
    if op.code not in ("acquire", "release") or not isinstance(op.args[0], int):
        return held
    assert op.field is not None
    lock = (op.field.key, op.args[0], op.extra)
    return held | {lock} if op.code == "acquire" else held - {lock}


def accesses_of(process: Process, held: dict[Op, frozenset[HeldLock]]) -> dict[Op, Access]:
    found = {}
    for _, _, op in process.ops():
        if op.field is not None and not op.ghost and op.code in WRITES | READS:
            element = constant_index(op.args)
            write = op.code in WRITES
            found[op] = Access(process.pid, op.field.key, element, write, held[op])
    return found


def find_steps(
    processes: list[Process], observers: Iterable[Access] = (), every: bool = False
) -> list[Steps]:
    """The steps of every process of a folded program.

    observers: what claims read, with the locks they need free.  every: each shared access is a
    step, the reference that merging must agree with.
    """
    per_process = []
    by_field: dict[str, set[Access]] = {}
    for access in observers:
        by_field.setdefault(access.field, set()).add(access)
    for process in processes:
        found = accesses_of(process, locks_held(process))
        per_process.append(found)
        for access in found.values():
            by_field.setdefault(access.field, set()).add(access)
    tried = {
        (p.pid, op.field.key) for p in processes for _, _, op in p.ops() if op.code == "try" and op.field
    }

    def begins(process: Process, op: Op, found: dict[Op, Access]) -> bool:
        if op.code in ALWAYS:
            return True
        if op.code == "release":
            assert op.field is not None
            others = any(k == op.field.key and pid != process.pid for pid, k in tried)
            return every or others
        if op not in found:
            return False
        if every:
            return True
        mine = found[op]
        return not all(
            mine.commutes(other) for other in by_field[mine.field] if other.pid != mine.pid
        )

    result = []
    for process, found in zip(processes, per_process, strict=True):
        starts = {op for _, _, op in process.ops() if begins(process, op, found)}
        result.append(number_boundaries(process, gather_regions(process, starts)))
    return result


def gather_regions(process: Process, starts: set[Op]) -> set[Op]:
    """An atomic region begins a step as a whole, if anything in it does."""
    inside = {op.region for op in starts if op.region and op.code != "begin"}
    kept = {op for op in starts if not op.region}
    for _, _, op in process.ops():
        if op.code in ALWAYS and op.region:
            raise ProcessError(f"{op.code} cannot stand in an atomic region", op.where)
        if op.code == "begin" and op.region in inside:
            kept.add(op)
    return kept


def number_boundaries(process: Process, starts: set[Op]) -> Steps:
    for _, _, op in process.ops():
        if op.code == "loop" and op not in starts and cycles(process, op, starts):
            if op.region:
                raise ProcessError("a while loop in an atomic region may not end", op.where)
            starts.add(op)
    boundaries: list[Boundary] = []
    initial = first_start(process, starts)
    if initial is None:
        boundaries.append(Boundary(0, None, None, process.entry, 0))
    for _, _, op in process.ops():
        op.boundary = -1
    for block, position, op in process.ops():
        if op in starts:
            op.first.boundary = len(boundaries)
            position = block.ops.index(op.first)
            boundaries.append(Boundary(op.first.boundary, op.site, op, block, position))
    steps = Steps(process, boundaries, initial.first.boundary if initial else 0)
    add_liveness(steps)
    return steps


def cycles(process: Process, loop: Op, starts: set[Op]) -> bool:
    """True if control can come back to `loop` without beginning a step."""
    head = next(block for block, _, op in process.ops() if op is loop)
    seen: set[int] = set()
    work = [head]
    while work:
        block = work.pop()
        if any(op in starts for op in block.ops):
            continue
        for target in block.targets():
            if target is head:
                return True
            if id(target) not in seen:
                seen.add(id(target))
                work.append(target)
    return False


def first_start(process: Process, starts: set[Op]) -> Op | None:
    """The boundary that the process reaches before it does anything, if there is one."""
    block = process.entry
    firsts = {op.first: op for op in starts}
    while True:
        for op in block.ops:
            if op in firsts:
                return firsts[op]
            if op.code != "loop":
                return None
        if block.end is None or block.end[0] != "jump":
            return None
        block = block.end[1]


def uses(op: Op) -> Iterable[Reg]:
    return (a for a in op.args if isinstance(a, Reg))


def add_liveness(steps: Steps) -> None:
    """Which registers are live at every boundary: backward, joined by union."""
    process = steps.process
    entering: dict[int, frozenset[Reg]] = {}
    changed = True
    while changed:
        changed = False
        for block in reversed(process.blocks):
            live = live_at_end(block, entering)
            for op in reversed(block.ops):
                live = before_op(op, live)
            if entering.get(id(block)) != live:
                entering[id(block)] = live
                changed = True
    for boundary in steps.boundaries:
        live = live_at_end(boundary.block, entering)
        for op in reversed(boundary.block.ops[boundary.position :]):
            live = before_op(op, live)
        boundary.live = tuple(sorted(live, key=lambda r: (r.context, r.name)))


def live_at_end(block: Block, entering: dict[int, frozenset[Reg]]) -> frozenset[Reg]:
    live: frozenset[Reg] = frozenset()
    for target in block.targets():
        live |= entering.get(id(target), frozenset())
    if block.end and block.end[0] == "branch" and isinstance(block.end[1], Reg):
        live |= {block.end[1]}
    return live


def before_op(op: Op, live: frozenset[Reg]) -> frozenset[Reg]:
    if op.dst is not None:
        live -= {op.dst}
    return live.union(uses(op))
