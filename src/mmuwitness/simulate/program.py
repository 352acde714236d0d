"""Operations of the model, folded for one host and compiled over its arrays."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mmuwitness.model.host import Host
from mmuwitness.model.state import Kind, World
from mmuwitness.process.disk_cache import cached
from mmuwitness.process.ghosts import drop_ghosts
from mmuwitness.process.ir import Process, Reg
from mmuwitness.process.locks import never_waited_for
from mmuwitness.process.lowered import Lowered
from mmuwitness.process.native import Library, compile_ir, machine_key
from mmuwitness.process.program import prepare, uncollected
from mmuwitness.process.sleeping import mark_sleeps
from mmuwitness.process.steps import Steps, accesses_of, find_steps, locks_held
from mmuwitness.process.values import Dyn
from mmuwitness.simulate.arrays import Array, ArrayWorld
from mmuwitness.simulate.builder import ManyBuilder
from mmuwitness.simulate.lower import COSTS, COUNTS, FIELDS, Operation, Tables, lower_operation


@dataclass(frozen=True)
class Call:
    """What a task does: `function(*objects, *arguments)`, the latter numbers of the run."""

    name: str
    function: Any
    objects: tuple[Any, ...]
    arguments: Mapping[str, Kind] = field(default_factory=dict)


class ManyProgram:
    """Compiled operations; any number of tasks of any number of guests run them.

    A guest is what `tables` it is run with: `tables_of` makes them for another world that is wired
    alike.  priced: functions that take time.  alone: one task for each of the calls, and nothing
    else, changes the world: the processes of a scenario, in the steps of `explore`."""

    def __init__(
        self,
        host: Host,
        calls: Sequence[Call],
        priced: Collection[str] = (),
        alone: bool = False,
    ) -> None:
        world = host.world
        assert isinstance(world, ArrayWorld)
        self.host, self.lowered, self.tables = host, Lowered("", []), Tables(world)
        with uncollected():
            processes = [self.fold(call, pid, priced) for pid, call in enumerate(calls)]
            steps = steps_alone(processes, world) if alone else steps_of(processes)
        parts, self.operations = [], list[Operation]()
        for number, (call, each) in enumerate(zip(calls, steps, strict=True)):
            made, text = lower_operation(
                number, tuple(call.arguments), each, self.tables, self.lowered
            )
            self.operations.append(made)
            parts.append(text)
        self.lowered.text = "\n\n".join([*parts, "!0 = !{}"])
        key = (self.lowered.text, *machine_key())
        code = cached("operations", key, lambda: compile_ir(self.lowered.text, thorough=True))
        self.library = Library(code)
        self.addresses = [self.library.address(f"op{n}") for n in range(len(calls))]
        self.counts = np.zeros(max(1, len(self.tables.counters)), np.int64)
        self.costs = np.zeros(max(1, len(self.tables.costs)), np.int64)

    def fold(self, call: Call, pid: int, priced: Collection[str]) -> Process:
        host = self.host
        builder = ManyBuilder(host.world, host.has_feature, host.overrides, priced)
        arguments = [Dyn(Reg((), name, kind), kind) for name, kind in call.arguments.items()]
        return builder.build(call.name, pid, call.function, (*call.objects, *arguments))

    def tables_of(self, world: ArrayWorld) -> Array:
        """Addresses of the arrays of a guest, for its operations."""
        made = np.zeros(FIELDS + len(self.tables.fields), np.int64)
        made[COUNTS], made[COSTS] = self.counts.ctypes.data, self.costs.ctypes.data
        for position, each in enumerate(self.tables.fields.values()):
            array = world.array(each)
            if not len(array):
                raise ValueError(f"{each.key}: the index of {each.struct} is not wired here")
            made[FIELDS + position] = array.ctypes.data
        return made

    def counters(self) -> dict[str, int]:
        return dict(zip(self.tables.counters, map(int, self.counts), strict=False))

    def error(self, number: int) -> str:
        site = self.lowered.errors[number - 1]
        return f"{site.where}: {site.message}"


def steps_alone(processes: list[Process], world: World) -> list[Steps]:
    """Each of the processes runs once: their steps are those that `process.program` finds."""
    drop_ghosts(processes)
    prepare(processes, world)
    return find_steps(processes, never_waited_for(processes, ()))


def steps_of(processes: list[Process]) -> list[Steps]:
    """Any number of tasks run each operation, so each has itself beside it, too."""
    for process in processes:
        mark_sleeps(process)
    drop_ghosts(processes)
    beside = []
    for process in processes:
        process.held = locks_held(process)
        for access in accesses_of(process, process.held).values():
            beside.append(replace(access, pid=-1 - process.pid))
    return find_steps(processes, frozenset(), beside)
