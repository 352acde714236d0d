"""Lassos: runs that go on for ever without what a claim says has to happen in the end.

An `eventually` claim is pending in some states.  It is violated by a run that, from some state on,
stays in pending states, and is fair:

  - weak fairness: a task that can take a step from some state on, always, takes one.  A task that
    waits, for a lock or a condition, cannot.
  - locks are fair: a task at a lock that is free again and again gets it.  (Ticket and queued
    spinlocks, rwsems and mutexes that hand over: see docs/decisions/.)

So it is looked for in the graph of the pending states: a strongly connected component in which each
task either takes a step, or can take none in some state, and is at no free lock in any.  Components
that fail by a lock alone are searched again without the states where that lock is free.  A pending
state in which nobody can run is a lasso whose loop is empty.
"""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from mmuwitness.explore.core_cache import lasso_core
from mmuwitness.explore.lasso_memory import NONE, Lassos
from mmuwitness.explore.programs import LockPoints
from mmuwitness.explore.search import SearchResult

CHUNK = 1 << 16  # states handled between two looks for Ctrl-C
STATE_BYTES, EDGE_BYTES = 96, 48  # about what the arrays and their passes take


def bytes_needed(states: int, edges: int) -> int:
    """About how much memory looking for lassos takes."""
    return STATE_BYTES * states + EDGE_BYTES * edges


@dataclass(frozen=True)
class Lasso:
    """states: the one where the loop begins, then one after each step of it, the last of which is
    the first again; tasks: whose each step is.  An empty loop: nobody can run."""

    states: tuple[int, ...]
    tasks: tuple[int, ...]


def at_lock(points: LockPoints, words: Any) -> Any:
    """Of many states, in which one task is at a lock."""
    word, shift, mask, *pcs = points
    pc = (words[:, word] >> np.uint64(shift)) & np.uint64(mask)
    return np.isin(pc, np.array(pcs, dtype=np.uint64))


def has(masks: Any, bit: int) -> Any:
    """Of many masks, which have a bit."""
    return (masks >> masks.dtype.type(bit)) & masks.dtype.type(1) != 0


def components_with(component: Any, many: int, states: Any) -> Any:
    """Which of the components have one of these states."""
    found = np.zeros(many, bool)
    found[component[states]] = True
    return found


class StateGraph:
    """The states of a complete search on one thread, and what can happen in each."""

    def __init__(
        self, successors_address: int, most: int, result: SearchResult, points: Sequence[LockPoints]
    ) -> None:
        width = len(result.state(0))
        words = np.frombuffer(result.packed(), np.uint64).reshape(-1, width)
        count = len(words)
        self.core, self.count, self.points = lasso_core(width), count, points
        self.arrays: dict[str, Any] = {}
        self.graph = Lassos(successors=successors_address, count=count, slot_count=2 * count + 1)
        self.add("states", words)
        self.add("out", np.zeros(most * width, np.uint64))
        self.add("meta", np.zeros(2 * most, np.uint64))
        self.add("info", np.zeros(4, np.uint64))
        self.add("slots", np.zeros(2 * count + 1, np.uint32))
        for name in ("enabled", "degree", "active", "component", "number", "low", "stack", "calls"):
            self.add(name, np.zeros(count, np.uint32))
        self.add("violated", np.zeros(count, np.uint64))
        self.add("next", np.zeros(count, np.int64))
        self.add("first", np.zeros(count + 1, np.int64))
        self.each_chunk(self.core.note)
        self.at_lock = np.zeros(count, np.uint32)  # masks of the tasks that may take a lock
        for task, where in enumerate(points):
            self.at_lock |= at_lock(where, words).astype(np.uint32) << np.uint32(task)
        self.at_lock &= self.arrays["enabled"]

    @property
    def address(self) -> int:
        return ctypes.addressof(self.graph)

    def add(self, name: str, array: Any) -> None:
        self.arrays[name] = array
        setattr(self.graph, name, array.ctypes.data)

    def each_chunk(self, loop: Any) -> None:
        for first in range(0, self.count, CHUNK):
            loop(self.address, first, min(first + CHUNK, self.count))

    def lasso(self, claim: int, fair_locks: bool = True) -> Lasso | None:
        """A fair run in which the claim of that number is pending for ever: one that gets there in
        the fewest steps; None if there is none."""
        pending = has(self.arrays["violated"], claim)
        self.connect(pending)
        stuck = np.flatnonzero(pending & (self.arrays["enabled"] == 0))
        fair = self.fair_states(pending, fair_locks)
        found = [int(states[0]) for states in (stuck, np.flatnonzero(fair)) if len(states)]
        if not found:
            return None
        start = min(found)  # states are numbered in order of depth
        if not fair[start]:
            return Lasso((start,), ())
        return Loops(self, fair, fair_locks).lasso(start)

    def connect(self, active: Any) -> None:
        """The steps between active states."""
        room = int(self.arrays["degree"][active].sum())
        self.add("targets", np.zeros(room, np.uint32))
        self.add("tasks", np.zeros(room, np.uint32))
        self.add("active", active.astype(np.uint32))
        self.graph.edges = 0
        self.each_chunk(self.core.connect)

    def fair_states(self, active: Any, fair_locks: bool) -> Any:
        """The states of all components in which a fair run may stay; `component` numbers them."""
        fair = np.zeros(self.count, bool)
        edges = self.graph.edges
        first, enabled = self.arrays["first"], self.arrays["enabled"]
        targets, tasks = self.arrays["targets"][:edges], self.arrays["tasks"][:edges]
        sources = np.repeat(np.arange(self.count, dtype=np.uint32), np.diff(first))
        while active.any():
            self.add("active", active.astype(np.uint32))
            many = self.core.components(self.address)
            component = self.arrays["component"]
            inside = active[sources] & active[targets]
            inside &= component[sources] == component[targets]
            some = partial(components_with, component, many)
            holds = some(sources[inside])
            overtaken = np.zeros(self.count, bool)
            for task in range(len(self.points)):
                steps = some(sources[inside & (tasks == task)])
                holds &= steps | some(active & ~has(enabled, task))
                if fair_locks:
                    waits = np.flatnonzero(active & has(self.at_lock, task))
                    overtaken[waits] |= ~steps[component[waits]]
            # without the states where someone is overtaken what is left may be fair
            members = np.flatnonzero(active)
            ends = holds & ~some(overtaken)
            fair[members] |= ends[component[members]]
            active = active.copy()
            active[members] = (holds & ~ends)[component[members]]
            active &= ~overtaken
        return fair


class Loops:
    """Short loops in the components that are fair.  A loop begins as a shortest one; then it goes
    out of its way for each task that it would treat unfairly."""

    def __init__(self, graph: StateGraph, fair: Any, fair_locks: bool) -> None:
        self.first, self.fair_locks = graph.arrays["first"], fair_locks
        self.targets, self.tasks = graph.arrays["targets"], graph.arrays["tasks"]
        self.enabled, self.at_lock, self.fair = graph.arrays["enabled"], graph.at_lock, fair
        self.count = len(graph.points)
        graph.add("active", fair.astype(np.uint32))
        graph.core.components(graph.address)
        self.component = graph.arrays["component"]

    def steps(self, state: int) -> Iterator[tuple[int, int]]:
        """(task, state) of each step that stays in the component."""
        for edge in range(self.first[state], self.first[state + 1]):
            target = int(self.targets[edge])
            if self.fair[target] and self.component[target] == self.component[state] != NONE:
                yield int(self.tasks[edge]), target

    def lasso(self, start: int) -> Lasso:
        to_serve: dict[int, bool] = {}  # task: whether only a step of its own will do
        while True:
            states, tasks = self.tour(start, to_serve)
            unfair = self.unfair(states, tasks)
            if not unfair:
                return Lasso(tuple(states), tuple(tasks))
            for task in unfair:
                to_serve[task] = task in to_serve or self.is_overtaken(task, states)

    def tour(self, start: int, to_serve: dict[int, bool]) -> tuple[list[int], list[int]]:
        states: list[int] = [start]
        tasks: list[int] = []
        left = dict(to_serve)
        while left or not tasks:
            for task, state in self.way(states[-1], start, left):
                states.append(state)
                tasks.append(task)
                left = {t: own for t, own in left.items() if not self.serves(t, own, task, state)}
        if states[-1] != start:
            for task, state in self.way(states[-1], start, {}):
                states.append(state)
                tasks.append(task)
        return states, tasks

    def serves(self, wanted: int, own: bool, task: int, state: int) -> bool:
        return task == wanted or not (own or self.enabled[state] >> wanted & 1)

    def way(self, state: int, start: int, left: dict[int, bool]) -> list[tuple[int, int]]:
        """The fewest steps that serve one of the tasks; if none is left, that lead to the start."""
        came: dict[int, tuple[int, int]] = {}
        work = deque([state])
        while work:
            at = work.popleft()
            for task, target in self.steps(at):
                served = any(self.serves(t, own, task, target) for t, own in left.items())
                if served or (not left and target == start):
                    return [*steps_to(at, state, came), (task, target)]
                if target not in came and target != state:
                    came[target] = (task, at)
                    work.append(target)
        raise AssertionError("a component is strongly connected, and fair")

    def unfair(self, states: list[int], tasks: list[int]) -> list[int]:
        return [
            task
            for task in range(self.count)
            if task not in tasks
            and (
                self.is_overtaken(task, states)
                or all(self.enabled[state] >> task & 1 for state in states)
            )
        ]

    def is_overtaken(self, task: int, states: list[int]) -> bool:
        return self.fair_locks and any(self.at_lock[state] >> task & 1 for state in states)


def steps_to(at: int, start: int, came: dict[int, tuple[int, int]]) -> list[tuple[int, int]]:
    """The steps from start to a state, by how each state was come to."""
    steps = []
    while at != start:
        task, before = came[at]
        steps.append((task, at))
        at = before
    return steps[::-1]
