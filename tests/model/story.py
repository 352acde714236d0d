"""A story: a schedule written by hand, run plainly in CPython, one process at a time.

Each shared access is a step, so that a process can be stopped between any two of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from mmuwitness.explore.replay import Replay
from mmuwitness.model.era import Era
from mmuwitness.model.host import find_arch
from mmuwitness.model.scenarios import find_scenario
from mmuwitness.process.program import fold

STEPS_MAX = 300


class Story:
    """A host whose processes go on as far as they are told."""

    def __init__(self, scenario: str, era: str, arch: str) -> None:
        host = find_scenario(scenario).host(Era(era), find_arch(arch))
        self.replay = Replay(fold(host, every=True), lambda: host)
        self.mm, self.kvm, self.pages, self.vcpus = host.mm, host.kvm, host.pages, host.vcpus
        self.names = [process.name for process in host.processes]
        self.seen: list[str] = []
        """Tracepoints and cover marks since the last round began."""

    def idle(self, who: str) -> bool:
        """Whether it is about to choose what to do next."""
        return self.replay.processes[self.names.index(who)].choices > 0

    def step(self, who: str, choice: int = 0) -> bool:
        """One step; False if it has to wait for another process."""
        taken = self.replay.step(self.names.index(who), choice)
        self.seen += [name for _, name, _ in self.replay.traced] + sorted(self.replay.covered)
        return taken

    def go(self, who: str, until: Callable[[], Any], choices: Iterable[int] = ()) -> None:
        """One process goes on until something holds; what it chooses on the way: `choices`, then
        0.  It must not have to wait."""
        chosen = iter(choices)
        for _ in range(STEPS_MAX):
            if until():
                return
            choice = next(chosen, 0) if self.idle(who) else 0
            assert self.step(who, choice), f"{who} waits for another process"
        raise AssertionError(f"{who} goes on and on")

    def finish(self, who: str) -> None:
        """On to its next choice."""
        self.go(who, lambda: self.idle(who))

    def do(self, who: str, choice: int) -> list[str]:
        """One round of a process that begins each with a choice; what was seen on the way."""
        assert self.idle(who), f"{who} has not finished its last round"
        self.seen.clear()
        assert self.step(who, choice)
        self.finish(who)
        return list(self.seen)

    def blocks(self, who: str) -> None:
        """On until it has to wait for another process."""
        for _ in range(STEPS_MAX):
            if not self.step(who):
                return
        raise AssertionError(f"{who} goes on and on")
