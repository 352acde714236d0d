"""Replay and explore are two executors of one text: they must agree on everything.

For every state of a small program, replay (CPython, the author's own lines) is driven along a
schedule to it and every step out of it is taken; the packed states, edges, claims' inputs and
cover marks must be those of the lowered program.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from mmuwitness.explore.explorer import explore
from mmuwitness.explore.programs import MERGED, Folding, compiled_program, fold_scenario
from mmuwitness.explore.replay import Replay
from mmuwitness.model.era import Era
from mmuwitness.model.host import ARCHES, find_arch
from mmuwitness.model.releases import RELEASES
from mmuwitness.model.scenarios import find_scenario
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
    graph = Graph({first})
    schedules: dict[tuple[int, ...], tuple[tuple[int, int], ...]] = {first: ()}
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


class Walker:
    """Walks a program's graph by replay: on from where it stands while there is an edge that
    nobody has taken, else from a state that has one, by a schedule to it."""

    def __init__(self, program: Program, make_host, schedules: dict) -> None:
        self.program, self.schedules, self.host = program, schedules, make_host()
        self.start = self.host.world.checkpoint()
        self.pending: dict[tuple[int, ...], list[tuple[int, int]]] = {}
        self.taken: dict[tuple[int, ...], list] = {}
        self.marks: set[str] = set()

    def fresh(self, schedule) -> Replay:
        self.host.world.restore(self.start)
        replay = Replay(self.program, lambda: self.host)
        for pid, choice in schedule:
            assert replay.step(pid, choice), (schedule, pid, choice)
        return replay

    def arrive(self, replay: Replay) -> tuple[int, ...]:
        words = replay.words()
        if words not in self.pending:
            pids = range(len(self.program.steps))
            self.pending[words] = [(p, c) for p in pids for c in range(replay.choices(p))]
            self.taken[words] = []
        return words

    def walk(self) -> None:
        replay = self.fresh(())
        words = self.arrive(replay)
        while True:
            if not self.pending[words]:
                left = [w for w, edges in self.pending.items() if edges]
                if not left:
                    return
                replay = self.fresh(self.schedules[left[-1]])
                words = self.arrive(replay)
                assert words == left[-1], "a schedule leads elsewhere when it is replayed"
            pid, choice = self.pending[words].pop()
            if replay.step(pid, choice):
                self.marks |= replay.covered
                target = self.arrive(replay)
                self.taken[words].append((pid | choice << 8, target))
                words = target
            else:
                assert replay.words() == words, "a disabled step changed the state"


def assert_executors_agree(program: Program, make_host, states_max: int) -> Graph:
    """Replay takes every step out of every state: the same targets, edges and marks."""
    graph, schedules, native = explore_graph(program, states_max)
    walker = Walker(program, make_host, schedules)
    walker.walk()
    assert set(walker.taken) == graph.states
    for words, taken in walker.taken.items():
        expected, _ = native.call(words, program.lowered.successors_max)
        assert sorted(taken) == sorted((label, target) for label, _, target in expected)
    assert walker.marks == graph.marks
    return graph


STATES_MAX = 3000
SMALL = ("uprobe_one", "dontneed_one", "reclaim_one", "migrate_one", "unmerge", "ksm_first",
         "memslot_delete", "memslot_dontneed", "mmap_hugetlb", "memslot_roots",
         "dirty_log", "memslot_flags", "memslot_alias",
         "memslot_spaces", "memslot_mmio", "pfncache", "pfncache_two", "pfncache_hva",
         "private_convert", "private_punch", "private_dontneed", "private_both",
         "hmm_dontneed", "hmm_open", "oom_reap",
         "oom_hmm", "exit_reclaim", "exit_aging", "exit_destroy", "mmap_aging",
         "mprotect", "mprotect_thread", "mremap", "zero_page",
         "pfnmap", "fault_once", "unmerge_once", "reclaim_once", "migrate_once", "numa_once",
         "fault_beside_window", "fault_in_storm", "memslot_in_storm",
         "memslot_beside_storm", "cache_once", "cache_beside_window",
         "cache_in_storm", "writeback", "cow_once", "drop_once", "zero_page_once",
         "mprotect_once", "permission_once", "log_once")  # fmt: skip
"""The scenarios that have programs of up to STATES_MAX states; test_pinned checks the list."""


def matches(era: Era, arch: str, features: dict[str, bool]) -> bool:
    return all(era.has(name, arch) == value for name, value in features.items())


def distinct_programs(scenario: str, arch: str) -> list[Era]:
    """A kernel for each distinct program of a scenario on an architecture."""
    seen: dict[str, Era] = {}
    known: list[dict[str, bool]] = []
    made = find_arch(arch)
    for era in (Era(name) for name in RELEASES):
        if find_scenario(scenario).absent(era, made) or any(
            all(era.has(n, made.kernel_arch) == v for n, v in features.items())
            for features in known
        ):
            continue
        compiled, _ = compiled_program(find_scenario(scenario), era, arch, MERGED)
        known.append(compiled.features)
        seen.setdefault(compiled.digest, era)
    return list(seen.values())


def some_of(arches: Iterable[str], every: int) -> list[Any]:
    """Each small scenario on each architecture; all but every so many-th are marked exhaustive."""
    return [
        pytest.param(name, arch, marks=[] if (n + m) % every == 0 else [pytest.mark.exhaustive])
        for n, name in enumerate(SMALL)
        for m, arch in enumerate(arches)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "arch"), some_of(ARCHES, 12))
def test_replay_and_explore_agree(name: str, arch: str) -> None:
    """Every distinct folded program of up to STATES_MAX states."""
    scenario, made = find_scenario(name), find_arch(arch)
    for era in distinct_programs(name, arch):
        if explore(scenario, era, arch).result.states <= STATES_MAX:
            program = fold_scenario(scenario, era, arch)
            host = partial(scenario.host, era, made)
            graph = assert_executors_agree(program, host, STATES_MAX)
            assert len(graph.states) == explore(scenario, era, arch).result.states


@pytest.mark.parametrize("arch", ["x86-tdp", "arm64"])
def test_one_small_program_quickly(arch: str) -> None:
    scenario = find_scenario("uprobe_one")
    program = fold_scenario(scenario, Era("v6.1"), arch)
    graph = assert_executors_agree(
        program, partial(scenario.host, Era("v6.1"), find_arch(arch)), 1000
    )
    assert graph.edges > len(graph.states) > 100


@pytest.mark.slow
@pytest.mark.parametrize(("name", "arch"), some_of(["x86-shadow", "arm64", "mips"], 8))
def test_merging_steps_changes_no_verdict(name: str, arch: str) -> None:
    """Each shared access a step is the reference that merged steps must agree with."""
    scenario = find_scenario(name)
    for era in (e for e in distinct_programs(name, arch) if e.name >= "v5"):
        merged = explore(scenario, era, arch)
        every = explore(scenario, era, arch, folding=Folding(every=True))
        assert every.complete and merged.complete
        assert every.result.states > merged.result.states
        assert set(every.violated()) == set(merged.violated())
        assert set(every.reached_marks()) == set(merged.reached_marks())


def test_a_wrong_program_is_noticed() -> None:
    """The check can fail: replay starts from another page content than the lowered program."""
    scenario, arch = find_scenario("uprobe_one"), find_arch("x86-shadow")
    program = fold_scenario(scenario, Era("v6.1"), "x86-shadow")

    def other_host():
        host = scenario.host(Era("v6.1"), arch)
        host.pages[0].content = 1
        return host

    with pytest.raises((AssertionError, KeyError)):
        assert_executors_agree(program, other_host, 1000)
