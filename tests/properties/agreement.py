"""The two executors, step by step: states, edges, marks, errors, claims and deadlocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mmuwitness.explore.replay import ModelError, Replay
from mmuwitness.process.program import Program
from tests.process.worlds import Explored


def waits_for_ever(waits: dict[int, int], finished: set[int]) -> bool:
    """In a circle, or for one who has finished.  waits: for whom each process waits, as a mask."""
    for start in waits:
        seen, work = 0, [start]
        while work:
            for other in [*waits, *finished]:
                if waits.get(work[-1], 0) >> other & 1 and not seen >> other & 1:
                    seen |= 1 << other
                    work.insert(0, other)
            work.pop()
        if seen >> start & 1 or any(seen >> pid & 1 for pid in finished):
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


class Player:
    """Replays schedules of a program, each on the same host as it was at first."""

    def __init__(self, program: Program, make_host: Callable[[], Any]) -> None:
        self.program, self.host = program, make_host()
        self.start = self.host.world.checkpoint()

    def play(self, schedule: Any) -> Replay:
        self.host.world.restore(self.start)
        replay = Replay(self.program, lambda: self.host)
        for pid, choice in schedule:
            assert replay.step(pid, choice), (schedule, pid, choice)
        return replay


def assert_verdicts_agree(graph: Explored, make_host: Callable[[], Any]) -> None:
    """In every state replay has the same steps, marks, errors, broken claims and deadlock.

    Unlike assert_executors_agree this is for programs that may go wrong, too."""
    program = graph.program
    player = Player(program, make_host)
    for words, schedule in graph.schedules.items():
        at = player.play(schedule)
        assert at.words() == words
        seen, wrong, waits = {}, set(), {}
        broken = claims_broken(at)
        finished = {process.pid for process in at.processes if process.done}
        unfinished = len(finished) < len(at.processes)
        for label in [p | c << 8 for p in range(len(program.steps)) for c in range(at.choices(p))]:
            pid, choice = label & 0xFF, label >> 8
            try:
                if at.step(pid, choice):
                    seen[label] = (marks_of(at), at.words())
                else:
                    assert at.words() == words, "a blocked step changes nothing"
                    waits[pid] = at.processes[pid].waits_for
                    continue
            except ModelError:
                wrong.add(label)
            at = player.play(schedule)
        expected = {label: (marks, target) for label, marks, target in graph.found[words]}
        assert seen == expected, (schedule, seen, expected)
        violated, deadlock, error, erring = graph.info[words]
        assert bool(error) == bool(wrong) and (not error or erring in wrong), (schedule, wrong)
        assert violated == broken, (schedule, "claims", violated, broken)
        stuck = unfinished and not seen and not wrong
        assert deadlock == int(waits_for_ever(waits, finished) or stuck), (
            schedule,
            deadlock,
            waits,
        )


def marks_of(replay: Replay) -> int:
    """The marks of the last step, as a mask."""
    return sum(1 << replay.program.lowered.marks.index(mark) for mark in replay.covered)
