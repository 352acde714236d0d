"""The loops that look for lassos: Python source that numba compiles once, as search_core's.

A search keeps states, not steps.  `note` calls the model for each state again and enters the state
into a table; `connect` does once more for those in which a claim is pending, and keeps the steps
between them; `components` finds the strongly connected components of what is left active.  The
words of a `Lassos` (lasso_memory) say where everything is.  Room is made before: as many steps as
the pending states have.
"""
# mypy: ignore-errors
# (numba infers these types itself, and knows its intrinsics where mypy does not)

from __future__ import annotations

from numba import int64, njit

from mmuwitness.explore.lasso_memory import NONE, offsets
from mmuwitness.explore.search_table import NATIVE, emit_loops, hash_of, same
from mmuwitness.explore.search_words import (
    call_model,
    load,
    load_half,
    scale,
    store,
    store_half,
)

SUCCESSORS, META, INFO, OUT, STATES, COUNT, SLOTS, SLOT_COUNT = offsets(
    "successors meta info out states count slots slot_count"
)
VIOLATED, ENABLED, DEGREE, ACTIVE, FIRST, TARGETS, TASKS, EDGES = offsets(
    "violated enabled degree active first targets tasks edges"
)
COMPONENT, NUMBER, LOW, STACK, CALLS, NEXT = offsets("component number low stack calls next")


@njit(**NATIVE)
def place_of(graph, width, state):
    """Address of the slot of a state in the table: that with its number + 1, or the empty one where
    it would be.  The table is never full."""
    slots, slot_count, states = load(graph + SLOTS), load(graph + SLOT_COUNT), load(graph + STATES)
    slot = scale(hash_of(state, width), slot_count)
    while True:
        known = load_half(slots + 4 * slot)
        if known == 0 or same(states + (known - 1) * 8 * width, state, width):
            return slots + 4 * slot
        slot += 1
        if slot == slot_count:
            slot = int64(0)


@njit(**NATIVE)
def call(graph, width, state):
    return call_model(
        load(graph + SUCCESSORS),
        load(graph + STATES) + state * 8 * width,
        load(graph + OUT),
        load(graph + META),
        load(graph + INFO),
    )


@njit(**NATIVE)
def note(graph, width, first, end):
    """Of the states first .. end - 1: which claims they violate, who can take a step."""
    states, meta = load(graph + STATES), load(graph + META)
    for state in range(first, end):
        store_half(place_of(graph, width, states + state * 8 * width), state + 1)
        many = call(graph, width, state)
        enabled = int64(0)
        for k in range(many):
            enabled |= int64(1) << (load(meta + 16 * k) & 255)
        store(load(graph + VIOLATED) + 8 * state, load(load(graph + INFO)))
        store_half(load(graph + ENABLED) + 4 * state, enabled)
        store_half(load(graph + DEGREE) + 4 * state, many)
    return end


@njit(**NATIVE)
def connect(graph, width, first, end):
    """The steps from active states among first .. end - 1 to active ones."""
    meta, out, active = load(graph + META), load(graph + OUT), load(graph + ACTIVE)
    edges = load(graph + EDGES)
    for state in range(first, end):
        store(load(graph + FIRST) + 8 * state, edges)
        if load_half(active + 4 * state) != 0:
            many = call(graph, width, state)
            for k in range(many):
                target = load_half(place_of(graph, width, out + k * 8 * width)) - 1
                if load_half(active + 4 * target) != 0:
                    store_half(load(graph + TARGETS) + 4 * edges, target)
                    store_half(load(graph + TASKS) + 4 * edges, load(meta + 16 * k) & 255)
                    edges += 1
    store(load(graph + FIRST) + 8 * end, edges)
    store(graph + EDGES, edges)
    return edges


@njit(**NATIVE)
def visit(graph, root, found, numbered):
    """Tarjan's algorithm from one state, without recursion.  Returns how many components there are
    now, and how many states have a number."""
    first, targets = load(graph + FIRST), load(graph + TARGETS)
    component, number, low = load(graph + COMPONENT), load(graph + NUMBER), load(graph + LOW)
    stack, calls, following = load(graph + STACK), load(graph + CALLS), load(graph + NEXT)
    active = load(graph + ACTIVE)
    depth, height = int64(0), int64(0)
    state = root
    entering = True
    while True:
        if entering:
            numbered += 1
            store_half(number + 4 * state, numbered)
            store_half(low + 4 * state, numbered)
            store_half(stack + 4 * height, state)
            height += 1
            store(following + 8 * state, load(first + 8 * state))
            entering = False
        edge = load(following + 8 * state)
        if edge < load(first + 8 * state + 8):
            store(following + 8 * state, edge + 1)
            target = load_half(targets + 4 * edge)
            if load_half(active + 4 * target) == 0:
                continue
            seen = load_half(number + 4 * target)
            if seen == 0:
                store_half(calls + 4 * depth, state)
                depth += 1
                state = target
                entering = True
            elif load_half(component + 4 * target) == NONE:
                store_half(low + 4 * state, min(load_half(low + 4 * state), seen))
            continue
        lowest = load_half(low + 4 * state)
        if lowest == load_half(number + 4 * state):
            while True:
                height -= 1
                member = load_half(stack + 4 * height)
                store_half(component + 4 * member, found)
                if member == state:
                    break
            found += 1
        if depth == 0:
            return found, numbered
        depth -= 1
        child, state = state, load_half(calls + 4 * depth)
        low_child = load_half(low + 4 * child)
        store_half(low + 4 * state, min(load_half(low + 4 * state), low_child))


@njit(**NATIVE)
def components(graph, width):
    """Give each active state the number of its component; returns how many there are."""
    component, number = load(graph + COMPONENT), load(graph + NUMBER)
    active, count = load(graph + ACTIVE), load(graph + COUNT)
    for state in range(count):
        store_half(component + 4 * state, int64(NONE))
        store_half(number + 4 * state, int64(0))
    found, numbered = int64(0), int64(0)
    for state in range(count):
        if load_half(active + 4 * state) != 0 and load_half(number + 4 * state) == 0:
            found, numbered = visit(graph, state, found, numbered)
    return found


def emit() -> str:
    """The entries as LLVM text."""
    return emit_loops(((note, 4), (connect, 4), (components, 2)))
