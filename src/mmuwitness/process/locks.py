"""Locks that are left out of a program, since they can never make anybody wait.

That is a lock that everybody takes for reading only; or one that a single process uses, if it can
be shown that it never takes it while it holds it and never drops it while it does not.  A lock that
a claim needs free stays.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from mmuwitness.process.ir import Block, Op, Operand, Process

Lock = tuple[str, Operand, str]
"""A lock: field key; number of the instance, or the register with a handle to it; "r" or "w"."""

Held = tuple[frozenset[Lock], frozenset[Lock]]
"""The locks that are surely held, and those that may be held."""


def never_waited_for(processes: list[Process], needed: Collection[str]) -> set[str]:
    """needed: the locks that claims need free."""
    users: dict[str, set[int]] = {}
    writers: set[str] = set()
    for process in processes:
        for _, _, op in process.ops():
            if op.code in ("acquire", "try", "release") and op.field is not None:
                users.setdefault(op.field.key, set()).add(process.pid)
                if op.extra == "w":
                    writers.add(op.field.key)
    free = {key for key in users if key not in writers and key not in needed}
    for process in processes:
        alone = {key for key in writers if users[key] == {process.pid} and key not in needed}
        free |= alone - misused(process, alone) if alone else set()
    return free


def misused(process: Process, keys: set[str]) -> set[str]:
    """Those of some locks that the process may take while it holds them, or drop while it does
    not."""
    return {
        op.field.key
        for op, held in held_before(process, keys)
        if uses(op, keys) and op.field is not None and not is_proper(op, held)
    }


def uses(op: Op, keys: set[str]) -> bool:
    """It takes or drops one of some locks."""
    used = op.code in ("acquire", "try", "release") and op.field is not None
    return used and op.field.key in keys  # type: ignore[union-attr]


def held_before(process: Process, keys: set[str]) -> Iterator[tuple[Op, Held]]:
    """Every operation with those of some locks that are held before it: forward over the blocks;
    what is surely held is met by intersection, what may be by union."""
    entering: dict[int, Held] = {id(process.entry): (frozenset(), frozenset())}
    changed = True
    while changed:
        changed = False
        for block in process.blocks:
            if id(block) not in entering:
                continue
            held = entering[id(block)]
            for op in block.ops:
                held = after_any(op, held, keys)
            for target in block.targets:
                new = on_edge(block, target, held, keys)
                if id(target) in entering:
                    sure, maybe = entering[id(target)]
                    new = (sure & new[0], maybe | new[1])
                if entering.get(id(target)) != new:
                    entering[id(target)] = new
                    changed = True
    for block in process.blocks:
        if id(block) in entering:
            held = entering[id(block)]
            for op in block.ops:
                yield op, held
                held = after_any(op, held, keys)


def after_any(op: Op, held: Held, keys: set[str]) -> Held:
    if uses(op, keys):
        return after(op, held)
    return after_assignment(op, held) if op.dst is not None else held


def lock_of(op: Op) -> Lock:
    assert op.field is not None
    return op.field.key, op.handle, op.extra


def is_proper(op: Op, held: Held) -> bool:
    sure, maybe = held
    lock = lock_of(op)
    if op.code == "release":
        return lock in sure
    return not any(may_be_one(lock, other) for other in maybe)


def may_be_one(lock: Lock, other: Lock) -> bool:
    """Two registers may name one lock; two numbers do not."""
    known = isinstance(lock[1], int) and isinstance(other[1], int)
    return lock[0] == other[0] and (not known or lock[1] == other[1])


def after(op: Op, held: Held) -> Held:
    sure, maybe = held
    lock = lock_of(op)
    if op.code == "acquire":
        return sure | {lock}, maybe | {lock}
    if op.code == "try":
        return sure, maybe | {lock}
    return without(sure, lock), without(maybe, lock)


def without(locks: frozenset[Lock], gone: Lock) -> frozenset[Lock]:
    return frozenset(lock for lock in locks if not may_be_one(lock, gone))


def after_assignment(op: Op, held: Held) -> Held:
    """A register has a new value: what it named is held still, but not surely under that name."""
    assert op.dst is not None
    sure, maybe = held
    copied = {(key, op.dst, how) for key, of, how in sure if op.code == "mov" and of is op.args[0]}
    return frozenset(lock for lock in sure if lock[1] is not op.dst) | copied, maybe


def on_edge(block: Block, target: Block, held: Held, keys: set[str]) -> Held:
    """Where a branch asks what trylock gave: held on one side, not held on the other."""
    if not block.end or block.end[0] != "branch" or block.end[2] is block.end[3]:
        return held
    sure, maybe = held
    assigned: set[Operand | None] = set()
    for op in reversed(block.ops):
        if op.dst is block.end[1]:
            if op.code == "try" and op.field and op.field.key in keys:
                lock = lock_of(op)
                if target is block.end[3]:
                    return sure, maybe - {lock}
                if lock[1] not in assigned:
                    return sure | {lock}, maybe
            break
        assigned.add(op.dst)
    return held
