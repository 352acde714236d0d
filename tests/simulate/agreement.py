"""One text, three executors: replay, explore's lowering and that over arrays, in lockstep.

All take the same schedule.  After each step they have the same state, and every function of the
model, every lock, mark and tracepoint has been counted as often by each that counts it.
"""

from __future__ import annotations

import ctypes
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest

from mmuwitness.explore.replay import ModelError, Replay, ReplayProcess, encode
from mmuwitness.model.era import Era
from mmuwitness.model.host import Host, find_arch
from mmuwitness.model.kvm.kvm_host import KVM
from mmuwitness.model.scenarios import scenario
from mmuwitness.model.scenarios.scenario import Scenario
from mmuwitness.model.state import Cells, Lock, Sequence, SnapshotValue
from mmuwitness.process.language import qualified_name
from mmuwitness.process.layout import codes_of
from mmuwitness.process.lower import BLOCKED, DONE, ERROR, STEPPED
from mmuwitness.process.native import Library, compile_ir
from mmuwitness.process.program import Program, fold
from mmuwitness.process.steps import Steps
from mmuwitness.simulate.arrays import WRITER, ArrayWorld
from mmuwitness.simulate.builder import ManyBuilder
from mmuwitness.simulate.program import Call, ManyProgram
from tests.simulate.driver import Frame

WORD = ctypes.c_int64
Count = Counter[str]


class ArrayHost(Host):
    """A host of a scenario whose state is in arrays."""

    make_world = ArrayWorld


class Replayed:
    """The schedule in CPython.  counts: entries by name, and what is done with locks."""

    def __init__(self, program: Program, host: Any) -> None:
        self.counts: Count = Counter()
        with counting(self.counts):
            self.replay = Replay(program, lambda: host)
        self.count_entries()
        self.waiting: set[int] = set()

    def count_entries(self) -> None:
        self.counts.update(qualified_name(each) for each in self.replay.entered)
        self.replay.entered.clear()

    def step(self, pid: int, choice: int) -> int:
        process = self.replay.processes[pid]
        with counting(self.counts):
            done, code = process.done, STEPPED
            try:
                if not self.replay.step(pid, choice):
                    code = DONE if done else BLOCKED
            except ModelError:
                return ERROR
        self.count_entries()
        self.counts.update(f"mark {mark}" for mark in self.replay.covered)
        self.counts.update(f"trace {name}" for _, name, _ in self.replay.traced)
        if process.waits_at is not None and pid not in self.waiting:
            self.counts[f"wait {process.waits_at.name}"] += 1
        self.waiting = self.waiting | {pid} if code == BLOCKED else self.waiting - {pid}
        return code


@contextmanager
def counting(counts: Count) -> Iterator[None]:
    """`lock KEY`: how often a lock was taken; `spte zapped`: SPTEs that were present."""

    def acquire(self: Any, number: int, lock: Any, mode: str) -> Any:
        yield from waits(self, number, lock, mode)
        counts[f"lock {lock.name}"] += 1

    def trylock(self: Any, number: int, lock: Any) -> Any:
        got = yield from tries(self, number, lock)
        counts[f"lock {lock.name}"] += got
        return got

    def put(self: Any, index: int, value: Any) -> None:
        if self.field is KVM.spte:
            counts["spte zapped"] += self[index].present and not value.present
        puts(self, index, value)

    waits, tries, puts = ReplayProcess.acquire, ReplayProcess.trylock, Cells.__setitem__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ReplayProcess, "acquire", acquire)
        patch.setattr(ReplayProcess, "trylock", trylock)
        patch.setattr(Cells, "__setitem__", put)
        yield


class Explored:
    """The same in explore's machine code: one process, stepped in one way."""

    def __init__(self, program: Program) -> None:
        self.names = program.lowered.counters
        text = program.lowered.text.replace("define internal", "define")
        self.library = Library(compile_ir(text))
        self.state = (WORD * program.layout.words)()
        self.put(program.initial)
        self.functions = [
            ctypes.CFUNCTYPE(WORD, *[ctypes.c_void_p] * 2, WORD, ctypes.c_void_p)(
                self.library.address(f"process{pid}")
            )
            for pid in range(len(program.steps))
        ]

    def put(self, words: Any) -> None:
        self.state[:] = [w - (1 << 64) if w >> 63 else w for w in words]

    def step(self, pid: int, choice: int) -> int:
        out, aux = (WORD * len(self.state))(), WORD()
        code: int = self.functions[pid](self.state, out, choice, ctypes.byref(aux))
        if code == STEPPED:
            self.state = out
        return code

    @property
    def words(self) -> tuple[int, ...]:
        return tuple(word & (1 << 64) - 1 for word in self.state)

    @property
    def counts(self) -> Count:
        table = np.frombuffer(self.library.read("counts", 8 * len(self.names)), np.int64)
        return Counter(dict(zip(self.names, map(int, table), strict=True)))


class Arrays:
    """The same over arrays."""

    def __init__(self, host: Host) -> None:
        self.world = host.world
        calls = [Call(each.name, each.function, each.arguments) for each in host.processes]
        self.program = ManyProgram(host, calls, alone=True)
        self.frames = [Frame(self.program, pid, self.world, pid) for pid in range(len(calls))]

    def step(self, pid: int, choice: int) -> int:
        return self.frames[pid].step(choice)

    @property
    def counts(self) -> Count:
        counted = Counter(self.program.counters())
        del counted["window empty"]  # which stands for no function
        return counted


def check_lockstep(found: Scenario, era: Era, arch: str, steps: int, seed: int) -> Count:
    """Walk one schedule of a scenario with all three; what was counted."""
    make_host = partial(found.host, era, find_arch(arch), claims=False)
    program = fold(make_host(), builder=ManyBuilder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenario, "Host", ArrayHost)
        arrays = Arrays(make_host())
    over_arrays = [each.steps for each in arrays.program.operations]
    assert places(program.steps) == places(over_arrays)
    assert places(fold(make_host()).steps) == places(program.steps), "counting moves steps"
    replayed = Replayed(program, make_host())
    explored = Explored(program)
    rng, taken = random.Random(seed), []
    compare(replayed, explored, arrays, taken)
    for _ in range(steps):
        pid = rng.randrange(len(program.steps))
        choice = rng.randrange(replayed.replay.choices(pid) or 1)
        taken.append((pid, choice))
        codes = [each.step(pid, choice) for each in (replayed, explored, arrays)]
        assert codes[0] == codes[1] == codes[2], (taken, codes)
        if ERROR in codes:  # the model has gone wrong: with this the schedule ends
            break
        compare(replayed, explored, arrays, taken)
    return replayed.counts


def places(steps: list[Steps]) -> list[Any]:
    """Where each process may be found between two steps, and the locals that it needs there.  (One
    that has done nothing yet may have entered a function.)"""
    return [
        [(b.site, [(r.context, r.name) for r in b.live]) for b in each.boundaries if b.site]
        for each in steps
    ]


def compare(replayed: Replayed, explored: Explored, arrays: Arrays, taken: Any) -> None:
    replay = replayed.replay
    assert replay.words() == explored.words, taken
    for field, instances in replay.host.world.fields():
        if not field.ghost:
            assert element_codes(replay.host.world, field, instances) == [
                int(code) + (0 if isinstance(field.kind, Lock | Sequence) else field.kind.lo)
                for code in arrays.world.array(field)
            ], (taken, field.key)
    for process, frame in zip(replay.processes, arrays.frames, strict=True):
        assert frame.words[0] == process.pc, taken
        if not process.done:
            for reg in process.steps.boundaries[process.pc].live:
                mine = next(at for r, at in frame.operation.registers.items() if same(r, reg))
                assert frame.words[mine] == code_of(reg, process, replay), (taken, reg)
    seen = replayed.counts
    same_counts(seen, arrays.counts, taken)
    entered = Counter({name: n for name, n in seen.items() if " " not in name})
    same_counts(entered, explored.counts, taken)


def same_counts(expected: Count, found: Count, taken: Any) -> None:
    wrong = {
        name: (expected[name], found[name])
        for name in expected | found
        if expected[name] != found[name]
    }
    assert not wrong, (wrong, taken)


def same(a: Any, b: Any) -> bool:
    return (a.context, a.name) == (b.context, b.name)


def code_of(reg: Any, process: ReplayProcess, replay: Replay) -> int:
    """The value of a local, as it is in a frame over arrays: snapshots are the numbers taken."""
    value = process.value_of(reg)
    if isinstance(value, SnapshotValue):
        return value.taken
    return encode(reg, value, replay.host.world.sizes)


def element_codes(world: Any, field: Any, instances: Any) -> list[int]:
    """Every element of a field in replay, as arrays have it."""
    if isinstance(field.kind, Sequence):
        return [each.cells[field.name].value for each in instances]
    if isinstance(field.kind, Lock):
        return [lock_code(each.cells[field.name]) for each in instances]
    return list(codes_of(field, instances, world))


def lock_code(lock: Any) -> int:
    return len(lock.readers) if lock.owner is None else WRITER + lock.owner
