"""Replay and explore are two executors of one text: they must agree on everything.

For every state of a small program, replay (CPython, the author's own lines) is driven along a
schedule to it and every step out of it is taken; the packed states, edges, claims' inputs and
cover marks must be those of the lowered program.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from mmuwitness.explore.replay import Replay
from mmuwitness.process.native import NativeProgram, compile_ir
from mmuwitness.process.program import Program


@dataclass
class Graph:
    """What one executor found."""

    states: set[tuple[int, ...]] = field(default_factory=set)
    edges: int = 0
    marks: set[str] = field(default_factory=set)


def explore_graph(program: Program, states_max: int) -> tuple[Graph, dict, NativeProgram]:
    """The lowered program's graph, with a schedule to each state."""
    native = NativeProgram(compile_ir(program.lowered.text))
    first = tuple(program.initial)
    graph, schedules = Graph({first}), {first: ()}
    work = deque([first])
    while work:
        words = work.popleft()
        found, info = native.call(words, program.lowered.successors_max)
        assert info[2] == 0, program.lowered.errors[info[2] - 1]
        graph.edges += len(found)
        for label, marks, target in found:
            graph.marks |= {m for bit, m in enumerate(program.lowered.marks) if marks >> bit & 1}
            if target not in schedules:
                schedules[target] = (*schedules[words], (label & 0xFF, label >> 8))
                graph.states.add(target)
                work.append(target)
        assert len(graph.states) <= states_max, "not a small program"
    return graph, schedules, native


def replayed(program: Program, make_host, schedule) -> Replay:
    replay = Replay(program, make_host)
    for pid, choice in schedule:
        assert replay.step(pid, choice), (schedule, pid, choice)
    return replay


def assert_executors_agree(program: Program, make_host, states_max: int) -> Graph:
    graph, schedules, native = explore_graph(program, states_max)
    edges, marks = 0, set()
    for words, schedule in schedules.items():
        expected, _ = native.call(words, program.lowered.successors_max)
        at = replayed(program, make_host, schedule)
        assert at.words() == words
        seen = []
        for pid in range(len(program.steps)):
            for choice in range(at.choices(pid)):
                replay = at if not seen else replayed(program, make_host, schedule)
                # `at` is reused for the first step only: a disabled step changes nothing
                if replay.step(pid, choice):
                    if replay is at:
                        at = replayed(program, make_host, schedule)
                    seen.append((pid | choice << 8, replay.words()))
                    marks |= replay.covered
        assert sorted(seen) == sorted((label, target) for label, _, target in expected)
        edges += len(seen)
    assert (edges, marks) == (graph.edges, graph.marks)
    return graph
