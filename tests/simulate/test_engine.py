"""Tasks in virtual time, with a text made up for it and costs chosen by hand."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from mmuwitness.model.era import Era
from mmuwitness.model.host import find_arch
from mmuwitness.model.mm.mm_types import MM
from mmuwitness.model.primitives import atomic, read_lock, spin_lock, write_lock
from mmuwitness.model.state import Bounded, Field, Struct
from mmuwitness.process.language import qualified_name
from mmuwitness.simulate.arrays import WRITER
from mmuwitness.simulate.engine import Engine, StepError
from mmuwitness.simulate.machine import Guest, Machine
from mmuwitness.simulate.program import Call, ManyProgram
from mmuwitness.simulate.records import Came

NEVER = 1 << 60


class Log(Struct):
    """What was done, in the order in which it was."""

    entry = Field(Bounded(0, 9), array=32)
    length = Field(Bounded(0, 32))
    few = Field(Bounded(0, 3))


def takes_time(mm):
    """1,000 ns, with the locks that the caller holds."""


def takes_300(log):
    """As long."""


def takes_500(log):
    """As long."""


def hold_ptl(mm):
    with spin_lock(mm.ptl):
        takes_time(mm)


def read_mmap(mm):
    with read_lock(mm.mmap_lock):
        takes_time(mm)


def write_mmap(mm):
    with write_lock(mm.mmap_lock):
        takes_time(mm)


def ptl_then_mmap(mm):
    with spin_lock(mm.ptl):
        takes_time(mm)
        with write_lock(mm.mmap_lock):
            takes_time(mm)


def mmap_then_ptl(mm):
    with write_lock(mm.mmap_lock):
        takes_time(mm)
        with spin_lock(mm.ptl):
            takes_time(mm)


def note(log, who):
    with atomic("one line of a log"):
        log.entry[log.length] = who
        log.length += 1


def notes_every_300(log):
    for _ in (1, 2, 3):
        takes_300(log)
        note(log, 3)


def notes_every_500(log):
    for _ in (1, 2):
        takes_500(log)
        note(log, 5)


def grows_out_of_its_range(log):
    takes_300(log)
    log.few += 3
    log.few += 1


TEXT = (
    *(hold_ptl, read_mmap, write_mmap, ptl_then_mmap, mmap_then_ptl),
    *(notes_every_300, notes_every_500, grows_out_of_its_range),
)
COSTS = {qualified_name(takes_time): 1000, qualified_name(takes_300): 300}
COSTS |= {qualified_name(takes_500): 500}


class Run:
    """One guest, and tasks that each run one operation once: (function, when it begins)."""

    def __init__(self, *tasks: tuple[Callable[..., Any], int]) -> None:
        machine = Machine(16, classes=2, max_page_sharing=256, smart_scan=False)
        sizes = {"addresses": 4, "slot_pages": 4}
        self.guest = Guest(machine, 0, Era("v6.1"), find_arch("x86-tdp"), {}, **sizes)
        self.log = self.guest.world.add(Log)[0]
        used = [each for each in TEXT if each in {function for function, _ in tasks}]
        calls = [Call(each.__name__, each, (self.argument(each),)) for each in used]
        self.program = ManyProgram(self.guest, calls, COSTS)
        for position, name in enumerate(self.program.tables.costs):
            self.program.costs[position] = COSTS[name]
        self.engine = Engine(self.program, [self.guest], len(tasks))
        self.tasks = [
            self.engine.add_daemon(
                function.__name__, 1, time=time, span=1, stride=1, batch=1, rest=NEVER
            )
            for function, time in tasks
        ]

    def argument(self, function: Callable[..., Any]) -> Any:
        return self.log if "log" in inspect.signature(function).parameters else self.guest.mm

    def until(self, time: int) -> None:
        assert self.engine.run(time) is Came.END

    def lock(self, field: Field) -> int:
        return int(self.guest.world.array(field)[0])

    def waited(self) -> list[tuple[int, int]]:
        """ns and times, of each task."""
        return [(int(task["waited"]), int(task["waits"])) for task in self.tasks]


def test_one_holds_a_lock_and_others_wait_as_long() -> None:
    run = Run((hold_ptl, 0), (hold_ptl, 100), (hold_ptl, 200))
    for time, holder in ((500, 0), (1500, 1), (2500, 2)):
        run.until(time)
        assert run.lock(MM.ptl) == WRITER + holder
    run.until(4000)
    assert run.lock(MM.ptl) == 0
    assert run.waited() == [(0, 0), (900, 1), (1800, 1)]
    assert [int(task["spent"]) for task in run.tasks] == [1000, 1000, 1000]
    assert [int(task["done"]) for task in run.tasks] == [1, 1, 1]
    counters = run.program.counters()
    assert counters["lock MM.ptl"] == 3
    assert counters["wait MM.ptl"] == 2


def test_readers_share_and_a_writer_waits_for_the_last_of_them() -> None:
    """A reader that comes while a writer waits is let in, as by a rwlock_t; a rwsem is fairer."""
    run = Run((read_mmap, 0), (read_mmap, 100), (write_mmap, 200), (read_mmap, 300))
    run.until(150)
    assert run.lock(MM.mmap_lock) == 2
    run.until(1050)
    assert run.lock(MM.mmap_lock) == 2
    run.until(2000)
    assert run.lock(MM.mmap_lock) == WRITER + 2
    run.until(3000)
    assert run.waited() == [(0, 0), (0, 0), (1100, 1), (0, 0)]
    assert run.program.counters()["wait MM.mmap_lock"] == 1


def test_readers_wait_for_a_writer_and_go_on_together() -> None:
    run = Run((write_mmap, 0), (read_mmap, 10), (read_mmap, 20))
    run.until(1500)
    assert run.lock(MM.mmap_lock) == 2
    assert run.waited() == [(0, 0), (990, 1), (980, 1)]


def test_different_locks_do_not_wait() -> None:
    run = Run((hold_ptl, 0), (write_mmap, 0))
    run.until(5000)
    assert run.waited() == [(0, 0), (0, 0)]


def test_steps_interleave_as_costs_say() -> None:
    """One notes at 300, 600 and 900, the other one, which begins at 50, at 550 and 1,050."""
    run = Run((notes_every_300, 0), (notes_every_500, 50))
    seen = []
    for time in (300, 301, 551, 601, 901, 1051):
        run.until(time)
        seen.append([run.log.entry[n] for n in range(run.log.length)])
    assert seen == [[], [3], [3, 5], [3, 5, 3], [3, 5, 3, 3], [3, 5, 3, 3, 5]]


def test_an_error_says_where_in_the_text() -> None:
    run = Run((grows_out_of_its_range, 0))
    lines, first = inspect.getsourcelines(grows_out_of_its_range)
    line = first + next(n for n, text in enumerate(lines) if "few += 1" in text)
    with pytest.raises(StepError, match=rf"test_engine\.py:{line}.*Log\.few") as raised:
        run.until(1000)
    assert "grows_out_of_its_range" in str(raised.value)


DEADLOCK = (
    "deadlock: ptl_then_mmap (task 0) waits for MM.mmap_lock, which mmap_then_ptl (task 1) holds;"
    " mmap_then_ptl (task 1) waits for MM.ptl, which ptl_then_mmap (task 0) holds"
)


def test_a_deadlock_says_who_waits_for_what() -> None:
    run = Run((ptl_then_mmap, 0), (mmap_then_ptl, 10))
    with pytest.raises(StepError) as raised:
        run.until(10_000)
    assert str(raised.value) == DEADLOCK


def test_a_deadlock_is_found_while_others_go_on() -> None:
    run = Run((ptl_then_mmap, 0), (mmap_then_ptl, 10), (notes_every_300, 0))
    with pytest.raises(StepError) as raised:
        run.until(10_000)
    assert str(raised.value) == DEADLOCK


def test_the_same_locks_in_turn_are_no_deadlock() -> None:
    run = Run((ptl_then_mmap, 0), (mmap_then_ptl, 5000))
    run.until(10_000)
    assert [int(task["done"]) for task in run.tasks] == [1, 1]
