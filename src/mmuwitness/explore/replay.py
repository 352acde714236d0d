"""Replay: one schedule in CPython, on the author's own lines.

`Replay` runs the processes of a host as generators and stops each where the folded program says
that a step begins.  Its packed state is built from the Python objects and the generators' own
locals, so that it can be compared, bit for bit, with what the lowered program computes.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from mmuwitness.model.primitives import SLEEPS, FeatureNames
from mmuwitness.model.state import (
    Cells,
    Kind,
    Local,
    LockState,
    RangeError,
    SequenceState,
    SnapshotValue,
    Value,
    check,
)
from mmuwitness.process.ir import Context, Reg
from mmuwitness.process.language import qualified_name
from mmuwitness.process.layout import Layout, codes_of
from mmuwitness.process.program import Program
from mmuwitness.process.rewrite import BLOCKED, generator_code

ATOM = re.compile(r"^(\w+)|\.(\w+)|\[(\d+)\]")


class ModelError(Exception):
    """The model itself went wrong in a step: a BUG_ON, a None, a value out of range."""


class HostFeatures:
    """`feature` as process code sees it in replay."""

    def __init__(self, has: Callable[[str], bool]) -> None:
        self._has = has

    def __getattr__(self, name: str) -> bool:
        return self._has(name)


class Twins:
    """The generator functions of one program: what its model functions are replayed by.

    They are shared by all replays of the program, so `_mw` stands for whichever process runs."""

    def __init__(self, program: Program) -> None:
        self.overrides = program.host.overrides
        self.features = HostFeatures(program.host.has_feature)
        boundaries = [b for each in program.steps for b in each.boundaries]
        self.places: dict[types.FunctionType, set[int]] = {}
        for boundary in boundaries:
            if boundary.site and boundary.op:
                here = self.places.setdefault(boundary.op.source.function, set())
                here.add(boundary.site.number)
        self.sites = [
            {(b.site.context, b.site.number): b for b in each.boundaries if b.site}
            for each in program.steps
        ]
        self.numbers = {number for sites in self.sites for _, number in sites}
        self.current: ReplayProcess | None = None
        self.made: dict[types.FunctionType, Callable[..., Any]] = {}
        self.scopes: dict[int, dict[str, Any]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.current, name)

    def twin(self, function: types.FunctionType) -> Callable[..., Any]:
        """The generator function that replays `function`, under the host's overrides."""
        if function not in self.made:
            chosen = self.overrides.get(qualified_name(function), function)
            scope = self.scope_of(chosen.__globals__)
            code = generator_code(chosen, frozenset(self.places.get(chosen, ())))
            made = types.FunctionType(code, scope, chosen.__name__, chosen.__defaults__)
            self.made[function] = made
        return self.made[function]

    def scope_of(self, names: dict[str, Any]) -> dict[str, Any]:
        """A module's globals, with the host's features and the runtime in them."""
        if id(names) not in self.scopes:
            scope = {
                n: self.features if isinstance(v, FeatureNames) else v for n, v in names.items()
            }
            self.scopes[id(names)] = scope | {"_mw": self}
        return self.scopes[id(names)]


@cache
def twins_of(program: Program) -> Twins:
    return Twins(program)


class ReplayProcess:
    """One process as a generator, and the runtime (`_mw`) that its functions call."""

    def __init__(self, replay: Replay, pid: int) -> None:
        self.replay, self.pid = replay, pid
        self.twins = twins_of(replay.program)
        self.steps = replay.program.steps[pid]
        self.stack: list[tuple[int, int]] = []
        self.bases: list[Context] = []
        self.frames: dict[Context, Any] = {}
        self.sites = self.twins.sites[pid]
        self.pc = 0
        self.choices = 0
        self.waits_for = 0
        self.waits_at: LockState | None = None
        self.spinning = self.non_blocking = 0  # locks that spin, and regions: it must not sleep
        spec = replay.host.processes[pid]
        self.declared = self.steps.process.declared
        self.generator = self.call(-1, spec.function, spec.arguments, {})
        self.stack.clear()
        if self.steps.boundaries[0].site is not None:
            self.run(None)

    # -- driving ---------------------------------------------------------------------------

    @property
    def done(self) -> bool:
        return self.pc == self.steps.done

    def run(self, send: int | None) -> bool:
        """Go on to the next boundary; False if the step is disabled (nothing has changed)."""
        self.waits_for, self.waits_at = 0, None
        self.twins.current = self
        try:
            value = self.generator.send(send)
            while True:
                if value is BLOCKED:
                    return False
                if value in self.twins.numbers:
                    boundary = self.sites.get((tuple(self.stack), value))
                    if boundary is not None:
                        self.pc = boundary.pc
                        return True
                value = self.generator.send(None)
        except StopIteration:
            self.pc = self.steps.done
            return True
        except (RangeError, AttributeError, TypeError) as error:
            raise ModelError(str(error)) from error

    # -- what rewritten code calls -----------------------------------------------------------

    def call(
        self, number: int, function: Any, arguments: Any, keywords: Any
    ) -> Generator[Any, Any, Any]:
        if isinstance(function, types.MethodType) and isinstance(function.__self__, SequenceState):
            yield number * 16
            return function()
        if isinstance(function, types.MethodType):
            arguments = (function.__self__, *arguments)
            function = function.__func__
            if function is Value.replace:
                return self.checked(function(*arguments, **keywords))
        if not isinstance(function, types.FunctionType):
            return self.checked(function(*arguments, **keywords))
        self.replay.entered.append(function)
        depth = len(self.stack)
        if number >= 0:
            self.stack.append((number, -1))
        context = tuple(self.stack)
        generator = self.twins.twin(function)(*arguments, **keywords)
        outer = self.frames.get(context)
        self.frames[context] = generator
        self.bases.append(context)
        result = yield from generator
        self.bases.pop()
        del self.stack[depth:]
        if outer is None:
            del self.frames[context]
        return result

    def checked(self, made: Any) -> Any:
        """A new value or record, of which every part is in its range."""
        if isinstance(made, Value | Local):
            for part, kind in made.kinds.items():
                self.check(kind, getattr(made, part), f"{type(made).__name__}.{part}")
        return made

    def check(self, kind: Kind, value: Any, what: str) -> None:
        if not isinstance(value, SnapshotValue):
            check(kind, value, self.replay.host.world.sizes, what)

    def at(self, items: Any, index: Any) -> Any:
        """items[index]; unlike Python's, an index does not count from the end."""
        if isinstance(items, list | tuple) and not 0 <= index < len(items):
            raise RangeError(f"index: {index} is outside 0..{len(items) - 1}")
        return items[index]

    def fit(self, local: str, value: Any) -> Any:
        """A value for a local that has a declared range."""
        kind = self.declared.get((self.bases[-1], local))
        if kind is not None:  # its declaration was folded, too
            self.check(kind, value, local)
        return value

    def store(self, of: Any, name: str, value: Any) -> None:
        """of.name = value: shared state checks itself, a record is checked here."""
        if isinstance(of, Local):
            self.check(of.kinds[name], value, f"{type(of).__name__}.{name}")
        setattr(of, name, value)

    def choose(self, number: int, n: int) -> Generator[Any, Any, int]:
        if n == 1:
            return 0
        self.choices = n
        chosen: int = yield number
        self.choices = 0
        return chosen

    def might_sleep(self) -> None:
        if self.spinning or self.non_blocking:
            self.cover(SLEEPS)

    @contextmanager
    def non_block(self) -> Iterator[None]:
        self.non_blocking += 1
        yield
        self.non_blocking -= 1

    def acquire(self, number: int, lock: LockState, mode: str) -> Generator[Any, Any, None]:
        if not lock.spins:
            self.might_sleep()
        yield number
        while True:
            owner = 0 if lock.owner is None else 1 << lock.owner
            readers = sum(1 << r for r in lock.readers) if mode == "w" else 0
            self.waits_for = owner | readers
            if not self.waits_for:
                break
            self.waits_at = lock
            yield BLOCKED
        if mode == "w":
            lock.owner = self.pid
        else:
            lock.readers.add(self.pid)
        self.spinning += lock.spins

    def trylock(self, number: int, lock: LockState) -> Generator[Any, Any, bool]:
        yield number
        if lock.owner is not None or lock.readers:
            return False
        lock.owner = self.pid
        self.spinning += lock.spins
        return True

    def release(self, lock: LockState, mode: str) -> None:
        self.spinning -= lock.spins
        if mode == "r":
            lock.readers.discard(self.pid)
        elif lock.owner != self.pid:
            raise RangeError(f"{lock.name} is released by one who does not hold it")
        else:
            lock.owner = None

    def depth(self) -> int:
        return len(self.stack)

    def unwind(self, depth: int) -> None:
        del self.stack[depth:]

    def iterate(self, number: int, over: Any) -> Iterator[Any]:
        depth = len(self.stack)
        for position, item in enumerate(over):
            self.stack[depth:] = [(number, position)]
            yield item

    def cover(self, text: str) -> None:
        self.replay.covered.add(text)

    def warn_on(self, condition: Any, function: str) -> None:
        if condition:
            self.cover(f"WARN_ON in {function}()")

    def bug_on(self, condition: Any, function: str) -> None:
        if condition:
            raise RangeError(f"BUG_ON in {function}()")

    def trace(self, tracepoint: str, *arguments: Any) -> None:
        self.replay.traced.append((self.pid, tracepoint, arguments))

    # -- locals ----------------------------------------------------------------------------

    def value_of(self, reg: Reg) -> Any:
        """The value of a register, read from the local variables of the frame it belongs to."""
        frame = self.frames[reg.context].gi_frame
        value: Any = None
        for variable, attribute, index in ATOM.findall(reg.name):
            if variable:
                value = frame.f_locals[variable]
            else:
                value = getattr(value, attribute) if attribute else value[int(index)]
        return value


class Replay:
    """A host being replayed under a folded program.  `step` takes one step of the schedule.

    Of the last step: covered, its marks; traced, its tracepoints; entered, the functions that it
    called (those of the model, whatever stands in their place)."""

    def __init__(self, program: Program, make_host: Callable[[], Any]) -> None:
        self.program, self.host = program, make_host()
        self.host.world.ghosts = bool(program.claims)
        self.covered: set[str] = set()
        self.traced: list[tuple[int, str, tuple[Any, ...]]] = []
        self.entered: list[types.FunctionType] = []
        count = len(self.host.processes)
        self.processes = [ReplayProcess(self, pid) for pid in range(count)]

    def step(self, pid: int, choice: int) -> bool:
        """One step of a process; False if it is disabled or the process has finished.  ModelError
        if the model goes wrong."""
        process = self.processes[pid]
        self.covered.clear()
        self.traced.clear()
        self.entered.clear()
        if process.done:
            return False
        return process.run(choice if process.choices else None)

    def choices(self, pid: int) -> int:
        """How many ways the next step of a process has: 0 once it has finished."""
        process = self.processes[pid]
        return 0 if process.done else process.choices or 1

    def words(self) -> tuple[int, ...]:
        """The packed state, from the objects and the generators' locals."""
        layout = self.program.layout
        words = [0] * layout.words
        put_shared(layout, self.host.world, words)
        for process, frame in zip(self.processes, layout.frames, strict=True):
            frame.pc.put(words, process.pc)
            if process.done:
                continue
            for reg, slot in frame.live[process.pc].items():
                slot.put(words, encode(reg, process.value_of(reg), self.host.world.sizes))
            for reg, slot in frame.snapshots.items():
                if reg in process.steps.boundaries[process.pc].live:
                    slot.put(words, encode(reg, process.value_of(reg), self.host.world.sizes))
        return tuple(words)


def put_shared(layout: Layout, world: Any, words: list[int]) -> None:
    for declared, slots in layout.shared():
        instances = world.instances(declared.struct)
        for slot, code in zip(slots, codes_of(declared, instances, world), strict=True):
            slot.put(words, code)
        for slot, instance in zip(layout.readers.get(declared.key, ()), instances, strict=False):
            mask = sum(1 << pid for pid in instance.cells[declared.name].readers)
            slot.put(words, mask)


def encode(reg: Reg, value: Any, sizes: dict[str, int]) -> int:
    if isinstance(value, SnapshotValue):
        return int(value.fresh)
    if isinstance(value, LockState | Cells):
        return int(value.holder.index) + 1
    if isinstance(value, SequenceState):
        return 1  # of the only instance
    return reg.kind.encode(value, sizes)
