"""Which sequence each snapshot was taken from: known when a program is folded, for every local.

One bit says whether a snapshot is fresh, so it has to be known whose bumps make it stale.
"""

from __future__ import annotations

from mmuwitness.process.errors import ProcessError
from mmuwitness.process.ir import Op, Process, Reg, SequenceOf


def find_snapshots(processes: list[Process]) -> None:
    """Every register that holds a snapshot learns its sequence.  An error where it might be one of
    two, or is compared with another one than its own; and where a sequence may be that of several
    objects."""
    for process in processes:
        for _, _, op in process.ops():
            if op.code in ("snap", "fresh", "bump") and op.extra[1] is None:
                hint = "go through an object that is known when the host is wired"
                raise op.source.error(
                    f"this may be {op.extra[0]} of several objects", op.node, hint
                )
        ops = [op for _, _, op in process.ops() if op.code in ("mov", "snap")]
        while sum(learns(op) for op in ops):
            pass
        for _, _, op in process.ops():
            taken = op.args[1] if op.code == "fresh" else None
            if isinstance(taken, Reg) and taken.snapshot_of not in (None, op.extra):
                raise error(op, "a snapshot is compared with a sequence that is not its own")


def learns(op: Op) -> bool:
    """Whether the target of an operation has learnt its sequence by it."""
    source = source_of(op)
    if op.dst is None or source is None or op.dst.snapshot_of == source:
        return False
    if op.dst.snapshot_of is not None:
        raise error(op, "this may be a snapshot of one sequence or of another")
    op.dst.snapshot_of = source
    return True


def source_of(op: Op) -> SequenceOf | None:
    if op.code == "snap":
        of: SequenceOf = op.extra
        return of
    return op.args[0].snapshot_of if isinstance(op.args[0], Reg) else None


def error(op: Op, message: str) -> ProcessError:
    return op.source.error(message, op.node, "give each sequence a local of its own to remember it")
