"""Tasks of a machine in virtual time: what `engine_core` runs, made and read from Python."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from mmuwitness.explore.loops import NativeLoops
from mmuwitness.model.kvm.kvm_host import KVM
from mmuwitness.model.mm.mm_types import Page
from mmuwitness.simulate.arrays import WRITER
from mmuwitness.simulate.kernel.indexed import Kicks
from mmuwitness.simulate.kernel.ksm import Ksm
from mmuwitness.simulate.lower import Context
from mmuwitness.simulate.machine import Guest
from mmuwitness.simulate.program import ManyProgram
from mmuwitness.simulate.records import (
    AHEAD,
    NEVER,
    OPERATION,
    RUN,
    TASK,
    Came,
    Kind,
    State,
    record,
)

SOURCES = (
    *("simulate/engine_core.py", "simulate/engine_touch.py", "simulate/records.py"),
    *("simulate/lower.py", "simulate/arrays.py"),
    "process/lower.py",
)

BROADCASTS = ("arm64", "powerpc")
"""Where hardware flushes the TLBs of other CPUs, and interrupts nobody."""


@cache
def loops() -> NativeLoops:
    return NativeLoops("mmuwitness.simulate.engine_core", SOURCES, {"simulate": 1})


class StepError(Exception):
    """An operation met an error of the model: where and what."""


class Engine:
    """Guests of one kind, and the tasks that work on them.  tasks: a record array (see TASK)."""

    def __init__(
        self, program: ManyProgram, guests: Sequence[Guest], tasks: int, kick_ns: int = 0
    ) -> None:
        """tasks: room for so many.  kick_ns: what a vCPU loses that is interrupted for a flush."""
        self.program, self.guests, self.kick_ns = program, guests, kick_ns
        self.tasks = record(TASK, tasks)
        self.made = 0
        self.first_vcpus: dict[int, Any] = {}
        self.run_record, self.operations = record(RUN), record(OPERATION, len(program.operations))
        self.context = np.zeros(len(Context), np.int64)
        for made, operation, address in zip(
            self.operations, program.operations, program.addresses, strict=True
        ):
            places = [operation.arguments.get(name, 0) for name in operation.parameters]
            first, second, *_ = (*places, 0, 0)
            made["function"], made["start"] = address, operation.steps.initial
            made["first"], made["second"] = first, second
        self.tables = [program.tables_of(guest.world) for guest in guests]
        self.table_addresses = np.array([each.ctypes.data for each in self.tables], np.int64)
        words = max(operation.frame_words for operation in program.operations)
        self.frames = np.zeros((tasks, words), np.int64)
        self.stalls = np.zeros((tasks, 64), np.int64)
        self.aimed = np.zeros((tasks, AHEAD), np.int64)
        self.places = 1 << (tasks - 1).bit_length()
        self.turns = np.full(2 * self.places, NEVER, np.int64)
        self.wire_run()

    def wire_run(self) -> None:
        run = self.run_record[0]
        run["tasks"], run["operations"] = self.tasks.ctypes.data, self.operations.ctypes.data
        run["context"], run["quantum"] = self.context.ctypes.data, 1_000_000
        run["turns"], run["places"] = self.turns.ctypes.data, self.places
        shared = self.guests[0].machine.world
        run["next_operation"] = shared.array(Ksm.next_operation).ctypes.data
        run["next_guest"] = shared.array(Ksm.next_guest).ctypes.data
        run["next_argument"] = shared.array(Ksm.next_argument).ctypes.data

    def number_of(self, name: str) -> int:
        return next(n for n, each in enumerate(self.program.operations) if each.name == name)

    def add(self, name: str, kind: Kind, guest: int, seed: int, **words: int) -> Any:
        """A task that begins with an operation, of a guest (a daemon: from that one on)."""
        task = self.tasks[self.made]
        task["own"], task["kind"], task["guest"] = self.number_of(name), kind, guest
        task["frame"] = self.frames[self.made].ctypes.data
        task["tables"] = self.table_addresses[guest]
        task["random"] = seed * 1_000_003 + self.made
        task["blocked"] = task["missed"] = -1
        for word, value in words.items():
            task[word] = value
        self.made += 1
        self.run_record["count"] = self.made
        return task

    @property
    def address(self) -> int:
        """Of the task that was made last."""
        return int(self.tasks.ctypes.data) + (self.made - 1) * self.tasks.itemsize

    def add_vcpu(self, name: str, guest: int, seed: int, **words: int) -> Any:
        """A vCPU; see TASK for the words."""
        host = self.guests[guest]
        world = host.world
        parts = {part: (shift, width) for part, _, shift, width in KVM.spte.kind.parts(world.sizes)}
        sptes = world.array(KVM.spte)
        shift, width = parts["page"]
        task = self.add(name, Kind.VCPU, guest, seed, **words)
        task["sptes"], task["spte_bytes"] = sptes.ctypes.data, sptes.itemsize
        task["present"], task["writable"] = 1 << parts["present"][0], 1 << parts["write"][0]
        aged_shift, aged_width = parts["aged"]
        task["aged"] = (1 << aged_width) - 1 << aged_shift
        task["tracked"] = int(host.kvm.access_tracking)
        task["page_shift"], task["page_mask"] = shift, (1 << width) - 1
        task["contents"] = host.machine.world.array(Page.content).ctypes.data
        task["mapped"] = host.mapped.ctypes.data
        task["merged"] = host.machine.world.array(Page.ksm).ctypes.data
        task["kicks"] = world.array(Kicks.count).ctypes.data
        if host.arch.kernel_arch not in BROADCASTS:
            task["kick_ns"] = self.kick_ns
        task["stalls"] = self.stalls[self.made - 1].ctypes.data
        task["aimed"], task["next"] = self.aimed[self.made - 1].ctypes.data, AHEAD
        first = self.first_vcpus.setdefault(guest, task)
        task["peer"] = first["peer"] or self.address
        first["peer"] = self.address
        return task

    def add_daemon(self, name: str, seed: int, **words: int) -> Any:
        """A daemon over all guests, unless `words` say which."""
        task = self.add(name, Kind.DAEMON, words.get("first_guest", 0), seed, **words)
        task["guests"] = self.table_addresses.ctypes.data
        if not task["guest_count"]:
            task["guest_count"] = len(self.guests)
        task["peer"] = self.run_record["daemons"][0]
        self.run_record["daemons"] = self.address
        return task

    def run(self, until: int) -> Came:
        """Go on until a time, or until a daemon has finished a pass that it reports."""
        self.run_record["end"] = until
        came = Came(loops()["simulate"](self.run_record.ctypes.data))
        if came is Came.ERROR:
            raise StepError(self.program.error(int(self.context[Context.AUX])))
        if came is Came.STUCK or self.waits_in_a_ring():
            waiting = np.flatnonzero(self.tasks["state"][: self.made] == State.BLOCKED)
            raise StepError("deadlock: " + "; ".join(self.wait_of(int(n)) for n in waiting))
        return came

    def waits_in_a_ring(self) -> bool:
        """Some task waits for one that waits ... for itself."""
        for start in np.flatnonzero(self.tasks["state"][: self.made] == State.BLOCKED):
            seen, task = {-1}, int(start)
            while task not in seen:
                seen.add(task)
                task = self.lock_of(task)[1]
            if task == start:
                return True
        return False

    def lock_of(self, number: int) -> tuple[str, int]:
        """The lock that a task waits for, and the task that holds it alone; -1: nobody, or who
        holds it shares it."""
        task = self.tasks[number]
        if task["state"] != State.BLOCKED:
            return "", -1
        guest = self.guests[self.guest_of(number)]
        for world in (guest.world, guest.machine.world):
            for key, array in world.arrays.items():
                place = int(task["lock"]) - array.ctypes.data
                if 0 <= place < array.nbytes:
                    held = int(array[place // array.itemsize])
                    name = key if len(array) == 1 else f"{key} of {place // array.itemsize}"
                    return name, held - WRITER if held >= WRITER else -1
        raise AssertionError("a task waits for what is no lock")

    def guest_of(self, number: int) -> int:
        """The guest that a task works on now: an operation may go on in another one."""
        tables = int(self.tasks[number]["tables"])
        return int(np.flatnonzero(self.table_addresses == tables)[0])

    def wait_of(self, number: int) -> str:
        lock, holder = self.lock_of(number)
        held = f"which {self.name_of(holder)} holds" if holder >= 0 else "which others share"
        return f"{self.name_of(number)} waits for {lock}, {held}"

    def name_of(self, number: int) -> str:
        own = int(self.tasks[number]["own"])
        return f"{self.program.operations[own].name} (task {number})"

    @property
    def now(self) -> int:
        return int(self.run_record["now"][0])
