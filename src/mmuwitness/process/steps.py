"""Where steps begin.

A step begins at an acquire, a wait, a choice, and at an access to shared state that is not
proved to commute with every other process.  The proof is Lipton's: a step is any number of right
movers, at most one operation that is no mover, then left movers only.  A choice and an acquire are
right movers (so the first racy access after one rides in its step); a release is a left mover;
neither is, on a lock that somebody uses trylock on.  An access is both if all conflicting accesses
of other processes happen under a lock that this process holds, too.  Claims take part as readers
that hold the locks they need free.  What is not proved is one more step: sound, never an error.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from mmuwitness.process.ir import Block, Held, HeldLock, Op, Operand, Process, Reg, Site

WRITES = {"store", "bump"}
READS = {"load", "snap", "fresh"}


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


def constant_index(args: tuple[Operand, ...]) -> int | None:
    return args[0] if isinstance(args[0], int) else None


def locks_held(process: Process) -> Held:
    """Must-hold locksets before every operation: forward, met by intersection."""
    entering: dict[int, frozenset[HeldLock]] = {id(process.entry): frozenset()}
    before: Held = {}
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
            for target in block.targets:
                old = entering.get(id(target))
                new = held if old is None else old & held
                if new != old:
                    entering[id(target)] = new
                    changed = True
    return before


def after_op(op: Op, held: frozenset[HeldLock]) -> frozenset[HeldLock]:
    if op.code not in ("acquire", "release") or op.field is None:
        return held
    key = op.field.key
    if not isinstance(op.args[0], int):  # which one is known in a run only
        return held if op.code == "acquire" else frozenset(h for h in held if h[0] != key)
    lock = (key, op.args[0], op.extra)
    return held | {lock} if op.code == "acquire" else held - {lock}


def accesses_of(process: Process, held: Held) -> dict[Op, Access]:
    found = {}
    for _, _, op in process.ops():
        if op.field is not None and not op.ghost and op.code in WRITES | READS:
            element = constant_index(op.args)
            write = op.code in WRITES
            found[op] = Access(process.pid, op.field.key, element, write, held[op])
    return found


def find_steps(
    processes: list[Process],
    free: Collection[str],
    observers: Iterable[Access] = (),
    every: bool = False,
) -> list[Steps]:
    """The steps of every process of a folded program.

    free: locks that are left out.  observers: what claims read, with the locks they need free.
    every: each shared access is a step, the reference that merging must agree with.
    """
    per_process = []
    by_field: dict[str, set[Access]] = {}
    for access in observers:
        by_field.setdefault(access.field, set()).add(access)
    for process in processes:
        found = accesses_of(process, process.held)
        per_process.append(found)
        for access in found.values():
            by_field.setdefault(access.field, set()).add(access)
    tried = {
        (p.pid, op.field.key)
        for p in processes
        for _, _, op in p.ops()
        if op.code == "try" and op.field
    }
    result = []
    for process, found in zip(processes, per_process, strict=True):
        racy = set()
        for op, mine in found.items():
            others = (other for other in by_field[mine.field] if other.pid != mine.pid)
            if every or not all(mine.commutes(other) for other in others):
                racy.add(op)
        contended = {k for pid, k in tried if pid != process.pid}
        result.append(place_boundaries(process, Movers(racy, contended, free, every)))
    return result


@dataclass(frozen=True)
class Movers:
    """What is known of one process's operations: accesses that are no movers; locks that somebody
    else uses trylock on; locks that never make anyone wait."""

    racy: set[Op]
    contended: set[str]
    free: Collection[str]
    every: bool

    def begins(self, op: Op) -> bool:
        """True if a step has to begin here whatever came before."""
        if op.code in ("acquire", "try"):
            assert op.field is not None
            return op.field.key not in self.free
        return op.code in ("wait", "choose", "spend")

    def is_left(self, op: Op) -> bool:
        """A release: after it only left movers may stand in the step."""
        return op.code == "release" and op.field is not None and op.field.key not in self.free

    def is_mover(self, op: Op) -> bool:
        """False for what may stand in a step at most once."""
        if op.code in ("acquire", "release"):
            assert op.field is not None
            key = op.field.key
            return key in self.free or not (key in self.contended or self.every)
        return op not in self.racy and op.code not in ("wait", "try")


def place_boundaries(process: Process, movers: Movers) -> Steps:
    """Steps begin where `Movers.begins`, and before each operation that is no mover unless the
    step so far is right movers only, on every path."""
    regions = {op.region for op in movers.racy if op.region}
    notable = {id(b): notable_operations(b, movers, regions) for b in process.blocks}
    starts: set[Op] = set()
    fresh: dict[int, bool] = {}
    changed = True
    while changed:
        changed = False
        starts = set()
        for block in process.blocks:
            open_step = fresh.get(id(block), True)
            for op, begins, racy in notable[id(block)]:
                if begins or (racy and (movers.every or not open_step)):
                    starts.add(op)
                    open_step = begins and not racy
                else:
                    open_step = False
            for target in block.targets:
                old = fresh.get(id(target), True)
                if old and not open_step:
                    fresh[id(target)] = False
                    changed = True
    return number_boundaries(process, starts)


def notable_operations(
    block: Block, movers: Movers, regions: set[int]
) -> list[tuple[Op, bool, bool]]:
    """The operations that begin or close a step: (operation, always begins, is no mover)."""
    found = []
    for op in block.ops:
        if op.region and op.code != "begin":
            continue
        racy = op.region in regions if op.code == "begin" else not movers.is_mover(op)
        begins = movers.begins(op)
        if begins or racy or movers.is_left(op):
            found.append((op, begins, racy))
    return found


def number_boundaries(process: Process, starts: set[Op]) -> Steps:
    for _, _, op in process.ops():
        op.boundary = -1
        if op.code == "loop" and op not in starts and cycles(process, op, starts):
            if op.region:
                message = "a while loop in an atomic region may not end"
                raise op.source.error(message, op.node)
            starts.add(op)
    boundaries: list[Boundary] = []
    initial = first_start(process, starts)
    if initial is None:
        boundaries.append(Boundary(0, None, None, process.entry, 0))
    for block, _, op in process.ops():
        if op in starts:
            op.first.boundary = len(boundaries)
            at = block.ops.index(op.first)
            boundaries.append(Boundary(op.first.boundary, op.site, op, block, at))
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
        for target in block.targets:
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


def live_on_entry(process: Process) -> dict[int, frozenset[Reg]]:
    """Which registers are live where each block begins: backward, joined by union."""
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
    return entering


def add_liveness(steps: Steps) -> None:
    """Which registers are live at every boundary."""
    entering = live_on_entry(steps.process)
    for boundary in steps.boundaries:
        live = live_at_end(boundary.block, entering)
        for op in reversed(boundary.block.ops[boundary.position :]):
            live = before_op(op, live)
        boundary.live = tuple(sorted(live, key=lambda r: (r.context, r.name)))


def live_at_end(block: Block, entering: dict[int, frozenset[Reg]]) -> frozenset[Reg]:
    live: frozenset[Reg] = frozenset()
    for target in block.targets:
        live |= entering.get(id(target), frozenset())
    if block.end and block.end[0] == "branch" and isinstance(block.end[1], Reg):
        live |= {block.end[1]}
    return live


def before_op(op: Op, live: frozenset[Reg]) -> frozenset[Reg]:
    if op.dst is not None:
        live -= {op.dst}
    return live.union(uses(op))
