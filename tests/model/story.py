"""A story: a schedule written by hand, run plainly in CPython, one process at a time.

Each shared access is a step, so that a process can be stopped between any two of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from mmuwitness.explore.replay import Replay
from mmuwitness.model.era import Era
from mmuwitness.model.host import find_arch
from mmuwitness.model.scenarios import Scenario, find_scenario
from mmuwitness.process.program import fold

STEPS_MAX = 300


class Story:
    """A host whose processes go on as far as they are told."""

    def __init__(self, scenario: str | Scenario, era: str, arch: str) -> None:
        what = find_scenario(scenario) if isinstance(scenario, str) else scenario
        host = what.host(Era(era), find_arch(arch))
        self.replay = Replay(fold(host, every=True), lambda: host)
        self.mm, self.kvm, self.pages, self.vcpus = host.mm, host.kvm, host.pages, host.vcpus
        self.names = [process.name for process in host.processes]
        self.seen: list[str] = []
        """Tracepoints and cover marks, since it was last cleared."""

    def go(
        self, who: str, until: Callable[[], Any], choices: Iterable[int] = (), must: bool = True
    ) -> int:
        """Steps of one process until something holds, and how many there were.  What it chooses on
        the way: `choices`, then 0.  It must not have to wait for another process."""
        pid, chosen = self.names.index(who), iter(choices)
        for count in range(STEPS_MAX):
            if until():
                return count
            choosing = self.replay.processes[pid].choices
            taken = self.replay.step(pid, next(chosen, 0) if choosing else 0)
            self.seen += [name for _, name, _ in self.replay.traced] + [*self.replay.covered]
            if not taken:
                assert not must, f"{who} waits for another process"
                return count
        raise AssertionError(f"{who} goes on and on")

    def idle(self, who: str) -> bool:
        """Whether it is about to choose what to do next."""
        return self.replay.processes[self.names.index(who)].choices > 0

    def do(self, who: str, *choices: int) -> list[str]:
        """One round of a process that repeats for ever and begins with a choice; the tracepoints
        and marks on the way."""
        assert self.idle(who), f"{who} has not finished its last round"
        self.seen.clear()
        self.go(who, lambda: not self.idle(who) or self.seen, choices)
        self.finish(who)
        return list(self.seen)

    def finish(self, who: str) -> None:
        """On to its next choice."""
        self.go(who, lambda: self.idle(who))
