"""Lassos against a checker that knows no components: a run stays for ever in a set of states, so
every set of pending states is tried."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import pytest

from mmuwitness.explore.lasso import Lasso, StateGraph
from mmuwitness.explore.search import SearchResult, search
from tests.explore.native_models import Graph, Step, graph_model

TASKS = 3
PENDING = 0b100
"""The claim that is asked about is number 2."""
POINTS = [[1, 4 * task, 15, 1, 3] for task in range(TASKS)]
"""Word 1 of a state holds a pc for each task: at 1 and 3 it stands at a lock."""

State = tuple[int, ...]


def made(seed: int) -> Graph:
    """Few states, many of them pending; who can run differs from state to state."""
    rng = random.Random(seed)
    size = rng.randrange(2, 10)
    states = [(n, rng.getrandbits(4 * TASKS), 7) for n in range(size)]
    graph = Graph(states[0], 0, {})
    likely = rng.choice((0.3, 0.5, 0.8))
    for state in states:
        steps = []
        for task in range(TASKS):
            if rng.random() < likely:
                for choice in range(rng.choice((1, 1, 2))):
                    steps.append(Step(rng.choice(states), task | choice << 8))
        graph.steps[state] = steps
        noise = rng.choice((0, 1, 2))
        graph.info[state] = (noise | (PENDING if rng.random() < 0.8 else 0), 0, 0, 0)
    return graph


def enabled(graph: Graph, state: State) -> set[int]:
    return {step.label & 0xFF for step in graph.steps[state]}


def at_lock(state: State, task: int) -> bool:
    return state[1] >> 4 * task & 15 in (1, 3)


def may_stay(graph: Graph, states: set[State], fair_locks: bool) -> bool:
    """Whether a fair run goes through all of these states for ever, and through no others."""
    inside = {s: [step for step in graph.steps[s] if step.target in states] for s in states}
    for start in states:
        seen: set[State] = set()
        work = [start]
        while work:
            for step in inside[work.pop()]:
                if step.target not in seen:
                    seen.add(step.target)
                    work.append(step.target)
        if seen != states:
            return False
    for task in range(TASKS):
        if any(step.label & 0xFF == task for steps in inside.values() for step in steps):
            continue
        able = [state for state in states if task in enabled(graph, state)]
        if len(able) == len(states):
            return False
        if fair_locks and any(at_lock(state, task) for state in able):
            return False
    return True


def pending_sets(graph: Graph) -> Iterator[set[State]]:
    pending = [state for state in graph.depths() if graph.info_of(state)[0] & PENDING]
    for size in range(1, len(pending) + 1):
        yield from map(set, itertools.combinations(pending, size))


def lasso_of(graph: Graph, fair_locks: bool) -> tuple[SearchResult, Lasso | None]:
    model = graph_model(graph)
    most = max(1, *map(len, graph.steps.values()))
    result = search(model.address, graph.initial, most)
    found = StateGraph(model.address, most, result, POINTS).lasso(2, fair_locks)
    return result, found


@pytest.mark.parametrize("fair_locks", [True, False])
def test_finds_what_trying_all_sets_finds(fair_locks: bool) -> None:
    violated = 0
    for seed in range(400):
        graph = made(seed)
        depths = graph.depths()
        staying = [s for s in pending_sets(graph) if may_stay(graph, s, fair_locks)]
        ends = [s for s in depths if graph.info_of(s)[0] & PENDING and not graph.steps[s]]
        result, lasso = lasso_of(graph, fair_locks)
        starts = [*ends, *(state for states in staying for state in states)]
        assert (lasso is not None) == bool(starts), seed
        if lasso is not None:
            violated += 1
            first = result.state(lasso.states[0])
            assert depths[first] == min(depths[state] for state in starts), seed
            assert_fair(graph, [result.state(at) for at in lasso.states], lasso, fair_locks)
    assert 100 < violated < 350


def assert_fair(graph: Graph, states: list[State], lasso: Lasso, fair_locks: bool) -> None:
    """The loop can be taken, comes back, stays pending, and treats everybody fairly."""
    assert all(graph.info_of(state)[0] & PENDING for state in states)
    if not lasso.tasks:
        assert graph.steps[states[0]] == []
        return
    assert states[0] == states[-1]
    for (a, b), task in zip(itertools.pairwise(states), lasso.tasks, strict=True):
        assert (task, b) in [(step.label & 0xFF, step.target) for step in graph.steps[a]]
    for task in set(range(TASKS)) - set(lasso.tasks):
        able = [state for state in states if task in enabled(graph, state)]
        assert len(able) < len(states)
        assert not (fair_locks and any(at_lock(state, task) for state in able))


def ring(steps: dict[int, list[tuple[int, int]]], locks: dict[int, int]) -> Graph:
    """All states pending; steps: (task, target) by state; locks: which pcs, by state."""
    states = {n: (n, locks.get(n, 0), 0) for n in steps}
    graph = Graph(states[0], 0, {})
    for n, each in steps.items():
        graph.steps[states[n]] = [Step(states[target], task) for task, target in each]
        graph.info[states[n]] = (PENDING, 0, 0, 0)
    return graph


def test_a_task_that_could_always_run_is_served_or_there_is_no_lasso() -> None:
    starving = ring({0: [(0, 1), (1, 2)], 1: [(0, 0), (1, 2)], 2: []}, {})
    starving.info[(2, 0, 0)] = (0, 0, 0, 0)
    assert lasso_of(starving, True)[1] is None
    # in one state it waits: then it may wait again and again
    waiting = ring({0: [(0, 1), (1, 2)], 1: [(0, 0)], 2: []}, {})
    waiting.info[(2, 0, 0)] = (0, 0, 0, 0)
    lasso = lasso_of(waiting, True)[1]
    assert lasso is not None and lasso.tasks == (0, 0)


def test_who_waits_for_a_lock_gets_it_if_locks_are_fair() -> None:
    overtaken = ring({0: [(0, 1), (1, 2)], 1: [(0, 0)], 2: []}, {0: 1 << 4, 1: 1 << 4})
    overtaken.info[(2, 0, 0)] = (0, 0, 0, 0)
    assert lasso_of(overtaken, True)[1] is None
    lasso = lasso_of(overtaken, False)[1]
    assert lasso is not None and lasso.tasks == (0, 0)


def test_a_loop_goes_out_of_its_way_for_those_it_owes() -> None:
    graph = ring({0: [(0, 0), (1, 1)], 1: [(0, 2)], 2: [(0, 0), (1, 2)]}, {})
    lasso = lasso_of(graph, True)[1]
    assert lasso == Lasso((0, 1, 2, 0), (1, 0, 0))
