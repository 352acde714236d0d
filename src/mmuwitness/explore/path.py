"""A schedule as people read it: each step with its process, place in the text and effect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmuwitness.model.state import Lock
from mmuwitness.process.errors import Location
from mmuwitness.process.ir import Block, Op
from mmuwitness.process.language import source_of
from mmuwitness.process.native import NativeProgram
from mmuwitness.process.program import Program


@dataclass(frozen=True)
class Change:
    """One element of the shared state before and after a step."""

    name: str
    old: Any
    new: Any


@dataclass(frozen=True)
class PathStep:
    """One step: who, where in process code it began, what it covered and changed."""

    number: int
    process: str
    pid: int
    choice: int
    where: Location
    what: str
    calls: tuple[str, ...]
    marks: tuple[str, ...]
    changes: tuple[Change, ...]


def decode_shared(program: Program, words: Sequence[int]) -> dict[str, Any]:
    """Every element of the shared state by name, decoded.  Locks: the holder's name or None."""
    world, state = program.layout.world, {}
    for field, slots in program.layout.shared():
        length = 1 if isinstance(field.kind, Lock) else field.length(world.sizes)
        instances = world.instances(field.struct)
        for position, slot in enumerate(slots):
            owner = instances[position // length]
            name = f"{owner}.{field.name}" + (f"[{position % length}]" if length > 1 else "")
            if field.array is not None and length == 1:
                name += "[0]"
            code = slot.get(tuple(words))
            if isinstance(field.kind, Lock):
                state[name] = holders(program, field.key, position, code, words)
            else:
                state[name] = field.kind.decode(code, world)
    return state


def holders(program: Program, key: str, element: int, owner: int, words: Sequence[int]) -> str:
    if owner:
        return program.process_name(owner - 1)
    slots = program.layout.readers.get(key)
    mask = slots[element].get(tuple(words)) if slots else 0
    names = [program.process_name(p) for p in range(len(program.steps)) if mask >> p & 1]
    return " and ".join(f"{name} (shared)" for name in names) or "free"


def follow(
    program: Program, native: NativeProgram, schedule: Sequence[tuple[int, int]]
) -> tuple[list[PathStep], list[tuple[int, ...]]]:
    """The steps of a schedule and the states between them; ValueError if a step is not enabled."""
    words = tuple(program.initial)
    states, steps = [words], []
    for number, (pid, choice) in enumerate(schedule, 1):
        found, _ = native.call(words, program.lowered.successors_max)
        match = [(m, t) for label, m, t in found if label == pid | choice << 8]
        if not match:
            raise ValueError(f"step {number}: process {pid} cannot run (choice {choice}) there")
        marks, target = match[0]
        steps.append(describe_step(program, number, (pid, choice), words, (marks, target)))
        words = target
        states.append(words)
    return steps, states


def describe_step(
    program: Program,
    number: int,
    who: tuple[int, int],
    words: tuple[int, ...],
    result: tuple[int, tuple[int, ...]],
) -> PathStep:
    pid, choice = who
    marks, target = result
    boundary = program.boundary(pid, words)
    assert boundary is not None
    op = boundary.op or first_operation(boundary.block)
    before, after = decode_shared(program, words), decode_shared(program, target)
    changes = tuple(Change(n, before[n], after[n]) for n in before if before[n] != after[n])
    names = tuple(m for bit, m in enumerate(program.lowered.marks) if marks >> bit & 1)
    name = program.process_name(pid)
    if op is None:
        source = source_of(program.host.processes[pid].function)
        where, what = source.location(source.tree), "ends"
    else:
        where, what = op.where, f"{op.code} {op.field.key}" if op.field else op.code
    return PathStep(number, name, pid, choice, where, what, (), names, changes)


def first_operation(block: Block) -> Op | None:
    """None: the process does nothing, and ends."""
    while not block.ops and block.targets:
        block = block.targets[0]
    return block.ops[0] if block.ops else None
