"""Who sleeps where it must not: while it holds a lock that spins, or inside non_block.

Which locks a process holds at a place is known without running it, so this costs no state: what
might sleep becomes a mark where it must not, and nothing elsewhere.  Replay counts instead.
"""

from __future__ import annotations

from mmuwitness.model.primitives import SLEEPS
from mmuwitness.process.ir import Process
from mmuwitness.process.locks import held_before


def mark_sleeps(process: Process) -> None:
    """Each `sleep` of a process becomes a mark or goes."""
    if not any(op.code == "sleep" for _, _, op in process.ops()):
        return
    spinning = {
        op.field.key
        for _, _, op in process.ops()
        if op.code in ("acquire", "try") and op.field is not None and op.field.kind.spins
    }
    for op, (sure, maybe) in held_before(process, spinning):
        if op.code == "sleep" and not op.extra:
            if maybe and not sure:
                names = ", ".join(sorted({key for key, _, _ in maybe}))
                hint = "take the two ways apart, so that each says by itself whether it may sleep"
                message = f"this might sleep, and {names} is held on some ways here and not on all"
                raise op.source.error(message, op.node, hint)
            op.extra = bool(sure)
    for block in process.blocks:
        block.ops = [op for op in block.ops if op.code != "sleep" or op.extra]
        for op in block.ops:
            if op.code == "sleep":
                op.code, op.extra = "cover", SLEEPS
