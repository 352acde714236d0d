"""Ghost state: nothing that a kernel does may depend on it, and without claims it is left out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mmuwitness.process.ir import Block, Op, Operand, Process

RIDES_ALONG = {"mov", "bin", "load", "extract", "insert", "check", "loop", "trace"}
"""What may be done or not by what ghost state says, besides ghost updates."""


def refuse_use(process: Process) -> None:
    """An error where something else than a ghost update is done by what ghost state says."""
    read = {op.dst for _, _, op in process.ops() if op.code == "load" and op.ghost}
    if not read:
        return
    users: dict[Operand | None, list[Op]] = {}
    branches: dict[Operand | None, list[Block]] = {}
    for block in process.blocks:
        if block.end and block.end[0] == "branch":
            branches.setdefault(block.end[1], []).append(block)
        for op in block.ops:
            for arg in op.args:
                users.setdefault(arg, []).append(op)
    work = list(read)
    while work:
        reg = work.pop()
        for op in [*users.get(reg, ()), *decided_by(branches.get(reg, ()), process)]:
            if op.code not in RIDES_ALONG and not op.ghost:
                hint = "ghost state is for claims, and for other ghost updates"
                raise op.source.error("what a process does depends on ghost state", op.node, hint)
            if op.dst is not None and op.dst not in read:
                read.add(op.dst)
                work.append(op.dst)


def decided_by(branches: Iterable[Block], process: Process) -> Iterator[Op]:
    """What stands in blocks that one side only of these branches comes to."""
    for branch in branches:
        assert branch.end is not None
        decided = reached_from(branch.end[2]) ^ reached_from(branch.end[3])
        for block in process.blocks:
            if id(block) in decided:
                yield from block.ops


def reached_from(block: Block) -> set[int]:
    seen, work = {id(block)}, [block]
    while work:
        for target in work.pop().targets:
            if id(target) not in seen:
                seen.add(id(target))
                work.append(target)
    return seen


def drop_ghosts(processes: list[Process]) -> None:
    """Without claims nobody looks at ghost state: its updates, from the first operation that
    computes them, are left out.  A handle that is None, or a wrong index, is an error still."""
    for process in processes:
        for block in process.blocks:
            dropped: set[Op] = set()
            for position, op in enumerate(block.ops):
                if op.code == "store" and op.ghost:
                    update = block.ops[block.ops.index(op.first) : position + 1]
                    dropped.update(each for each in update if each.ghost or each.code != "check")
            block.ops = [op for op in block.ops if op not in dropped]
