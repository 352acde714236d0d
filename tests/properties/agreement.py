"""The two executors, step by step: states, edges, marks, errors, claims and deadlocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mmuwitness.explore.replay import ModelError, Replay
from mmuwitness.process.program import Program
from tests.process.worlds import Explored


def arrived(program: Program, make_host: Callable[[], Any], schedule: Any) -> Replay:
    replay = Replay(program, make_host)
    for pid, choice in schedule:
        assert replay.step(pid, choice), (schedule, pid, choice)
    return replay


def waits_in_a_circle(waits: dict[int, int]) -> bool:
    """waits: the processes that each process waits for, as a mask."""
    for start in waits:
        seen, work = 0, [start]
        while work:
            for other in waits:
                if waits.get(work[-1], 0) >> other & 1 and not seen >> other & 1:
                    seen |= 1 << other
                    work.insert(0, other)
            work.pop()
        if seen >> start & 1:
            return True
    return False


def claims_broken(replay: Replay) -> int:
    """The claims that do not hold, evaluated as plain Python, as a mask."""
    broken = 0
    for bit, claim in enumerate(replay.host.claims):
        needs = [getattr(of, name) for of, name in claim.needs(replay.host)]
        free = all(each.owner is None and not each.readers for each in needs)
        broken |= bool(free and not claim.function(replay.host)) << bit
    return broken


def assert_executors_agree_fully(graph: Explored, make_host: Callable[[], Any]) -> None:
    """Like assert_executors_agree, for programs that may go wrong, and with every verdict."""
    program = graph.program
    for words, schedule in graph.schedules.items():
        at = arrived(program, make_host, schedule)
        assert at.words() == words
        seen, wrong, waits, unfinished = {}, set(), {}, False
        broken = claims_broken(at)
        for pid in range(len(program.steps)):
            unfinished |= not at.processes[pid].done
            for choice in range(at.choices(pid)):
                label = pid | choice << 8
                try:
                    if at.step(pid, choice):
                        bits = program.lowered.marks
                        marks = sum(1 << bits.index(mark) for mark in at.covered)
                        seen[label] = (marks, at.words())
                    else:
                        assert at.words() == words, "a blocked step changes nothing"
                        waits[pid] = at.processes[pid].waits_for
                        continue
                except ModelError:
                    wrong.add(label)
                at = arrived(program, make_host, schedule)
        expected = {label: (marks, target) for label, marks, target in graph.found[words]}
        assert seen == expected, (schedule, seen, expected)
        violated, deadlock, error, erring = graph.info[words]
        assert bool(error) == bool(wrong) and (not error or erring in wrong), (schedule, wrong)
        assert violated == broken, (schedule, "claims", violated, broken)
        stuck = unfinished and not seen and not wrong
        assert deadlock == int(waits_in_a_circle(waits) or stuck), (schedule, deadlock, waits)
