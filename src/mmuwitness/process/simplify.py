"""Constants that are known only once the whole program is folded: fields that nobody writes.

A read of one is its initial value; branches that this decides are cut, so that kernels which
differ only in what such a field would change share one program.
"""

from __future__ import annotations

import operator

from mmuwitness.model.state import World
from mmuwitness.process.ir import Block, Op, Process, Reg, reachable_blocks
from mmuwitness.process.layout import codes_of
from mmuwitness.process.operators import BINARY, COMPARE

FUNCTIONS = dict(BINARY.values()) | {
    "eq": operator.eq,
    "ne": operator.ne,
    **{name: function for name, function in COMPARE.values() if name not in ("eq", "ne")},
}


def simplify(process: Process, world: World, written: set[str]) -> None:
    """Within each block, follow constants to the branch at its end; drop what is cut off."""
    for block in process.blocks:
        known: dict[Reg, int] = {}
        for op in block.ops:
            value = constant_result(op, known, world, written)
            if op.dst is not None and value is None:
                known.pop(op.dst, None)
            elif op.dst is not None and value is not None:
                known[op.dst] = value
                op.code, op.args, op.field, op.site = "mov", (value,), None, None
        decide(block, known)
    join_blocks(process)


def join_blocks(process: Process) -> None:
    """A block that is come to from one place only, by a jump, is part of the block before it."""
    comes_from: dict[int, int] = {id(process.entry): 1}
    blocks = reachable_blocks(process.entry)
    for block in blocks:
        for target in block.targets:
            comes_from[id(target)] = comes_from.get(id(target), 0) + 1
    for block in blocks:
        while block.end and block.end[0] == "jump" and comes_from[id(block.end[1])] == 1:
            following = block.end[1]
            if following is block:
                break
            block.ops += following.ops
            block.end = following.end
            following.ops, following.end = [], None
    process.blocks = [block for block in blocks if block.end]  # in the same order


def constant_result(op: Op, known: dict[Reg, int], world: World, written: set[str]) -> int | None:
    """What an operation always computes, if that is known."""
    if op.code == "load" and op.field is not None and op.field.key not in written:
        element = op.args[0]
        if isinstance(element, int):
            codes = list(codes_of(op.field, world.instances(op.field.struct), world))
            return codes[element]
    values = [known.get(a) if isinstance(a, Reg) else a for a in op.args]
    if any(v is None for v in values):
        return None
    if op.code == "mov":
        return values[0]
    if op.code == "bin" and op.extra in FUNCTIONS:
        return int(FUNCTIONS[op.extra](*values))
    return None


def decide(block: Block, known: dict[Reg, int]) -> None:
    if block.end is not None and block.end[0] == "branch" and block.end[1] in known:
        _, reg, yes, no = block.end
        block.end = ("jump", yes if known[reg] else no)
