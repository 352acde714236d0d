"""Who waits for whom, where a schedule ends in a deadlock."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mmuwitness.explore.replay import Replay, ReplayProcess
from mmuwitness.process.program import Program


def waits_text(program: Program, replay: Replay, words: tuple[int, ...], able: set[int]) -> str:
    """The state that a replay has come to, whose words are given; able: who can take a step."""
    names = [program.process_name(pid) for pid in range(len(program.steps))]
    blocked = {}
    for pid, process in enumerate(replay.processes):
        if not process.done and pid not in able:
            replay.step(pid, 0)
            blocked[pid] = process
    lines = ["Who waits for whom:"]
    for pid in in_order(blocked):
        boundary = program.boundary(pid, words)
        assert boundary is not None and boundary.op is not None
        where = boundary.op.where
        lines.append(f"  {names[pid]} waits for {what(blocked[pid], names)}")
        place = where.file.removeprefix("model/")
        lines.append(f"      in {where.function}(), {place}:{where.line}")
    ended = [names[pid] for pid, process in enumerate(replay.processes) if process.done]
    if ended:
        lines.append(f"  {' and '.join(ended)}: finished")
    return "\n".join(lines)


def what(process: ReplayProcess, names: Sequence[str]) -> str:
    lock = process.waits_at
    if lock is None:
        return "a condition that nobody makes true"
    holders = [name for pid, name in enumerate(names) if process.waits_for >> pid & 1]
    return f"{lock.holder}.{lock.name.split('.')[-1]}, held by {' and '.join(holders)}"


def in_order(blocked: dict[int, ReplayProcess]) -> Iterator[int]:
    """Each before the one it waits for; one that is waited for in a cycle first."""
    left = dict(blocked)
    while left:
        at: int | None = next((pid for pid in left if in_cycle(pid, blocked)), min(left))
        while at in left:
            process = left.pop(at)
            yield at
            at = next((pid for pid in left if process.waits_for >> pid & 1), None)


def in_cycle(pid: int, blocked: dict[int, ReplayProcess]) -> bool:
    """Whether a process waits for itself, through others."""
    seen: set[int] = set()
    work = [pid]
    while work:
        for other in blocked:
            if blocked[work[-1]].waits_for >> other & 1 and other not in seen:
                seen.add(other)
                work.append(other)
                break
        else:
            work.pop()
    return pid in seen
