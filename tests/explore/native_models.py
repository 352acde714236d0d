"""Native successor functions for tests of the search, and breadth-first search in plain Python."""

from __future__ import annotations

import ctypes
import functools
import itertools
import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import llvmlite.binding as llvm

from mmuwitness.process import native

State = tuple[int, ...]
Info = tuple[int, int, int, int]


@dataclass(frozen=True)
class Step:
    """An edge of a graph."""

    target: State
    label: int = 0
    marks: int = 0


@dataclass
class Graph:
    """An explicit state graph. The word at `position` of each state is its number: 0, 1, ..."""

    initial: State
    position: int
    steps: dict[State, list[Step]]
    info: dict[State, Info] = field(default_factory=dict)

    def info_of(self, state: State) -> Info:
        return self.info.get(state, (0, 0, 0, 0))

    def depths(self) -> dict[State, int]:
        """All states that can be reached, with their depths."""
        depths, queue = {self.initial: 0}, deque([self.initial])
        while queue:
            state = queue.popleft()
            for step in self.steps[state]:
                if step.target not in depths:
                    depths[step.target] = depths[state] + 1
                    queue.append(step.target)
        return depths


def random_graph(seed: int, width: int, position: int, size: int = 400) -> Graph:
    """Any graph, self loops and double edges included. The words beside the number are few, so
    that states often differ in one word only."""
    rng = random.Random(seed)
    others = [rng.getrandbits(64) for _ in range(2)]
    states: list[State] = []
    for number in range(size):
        words = [rng.choice(others) for _ in range(width)]
        words[position] = number
        states.append(tuple(words))
    graph = Graph(states[0], position, {})
    for state in states:
        graph.steps[state] = [
            Step(
                rng.choice(states),
                rng.randrange(1 << 20),
                rng.choice((1, 6, 1 << 40, 1 << 63)) if rng.random() < 0.05 else 0,
            )
            for _ in range(rng.randrange(4))
        ]
        claims = rng.choice((1, 4, 1 << 61)) if rng.random() < 0.05 else 0
        graph.info[state] = (claims, int(not graph.steps[state]), 0, 0)
    graph.steps[states[0]] = [Step(state) for state in rng.sample(states, 3)]
    graph.info[states[0]] = (0, 0, 0, 0)
    return graph


class Model:
    """A native successor function. Its address is valid as long as the model is alive."""

    def __init__(self, text: str, *held: object) -> None:
        module = llvm.parse_assembly(text + LIBRARY)
        code = bytes(native.target_machine().emit_object(module))
        self.library, self.held = native.Library(code), held
        self.address = self.library.address("successors")


LIBRARY = """
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
"""


def words_of(values: Iterator[int]) -> ctypes.Array[ctypes.c_uint64]:
    listed = list(values) or [0]
    return (ctypes.c_uint64 * len(listed))(*listed)


def graph_model(graph: Graph) -> Model:
    """A model that looks everything up in tables."""
    nodes = sorted(graph.steps, key=lambda state: state[graph.position])
    assert [state[graph.position] for state in nodes] == list(range(len(nodes)))
    state_bytes = 8 * len(graph.initial)
    steps = [step for state in nodes for step in graph.steps[state]]
    firsts = words_of(itertools.accumulate((len(graph.steps[s]) for s in nodes), initial=0))
    targets = words_of(value for step in steps for value in step.target)
    metas = words_of(value for step in steps for value in (step.label, step.marks))
    infos = words_of(value for state in nodes for value in graph.info_of(state))
    text = f"""
define i64 @successors(ptr %state, ptr %out, ptr %meta, ptr %info) {{
  %node.at = getelementptr i64, ptr %state, i64 {graph.position}
  %node = load i64, ptr %node.at
  %firsts = inttoptr i64 {ctypes.addressof(firsts)} to ptr
  %first.at = getelementptr i64, ptr %firsts, i64 %node
  %end.at = getelementptr i64, ptr %first.at, i64 1
  %first = load i64, ptr %first.at
  %end = load i64, ptr %end.at
  %many = sub i64 %end, %first

  %targets = inttoptr i64 {ctypes.addressof(targets)} to ptr
  %target.first = mul i64 %first, {state_bytes}
  %target.bytes = mul i64 %many, {state_bytes}
  %target.at = getelementptr i8, ptr %targets, i64 %target.first
  call void @llvm.memcpy.p0.p0.i64(ptr %out, ptr %target.at, i64 %target.bytes, i1 false)

  %metas = inttoptr i64 {ctypes.addressof(metas)} to ptr
  %meta.first = mul i64 %first, 16
  %meta.bytes = mul i64 %many, 16
  %meta.at = getelementptr i8, ptr %metas, i64 %meta.first
  call void @llvm.memcpy.p0.p0.i64(ptr %meta, ptr %meta.at, i64 %meta.bytes, i1 false)

  %infos = inttoptr i64 {ctypes.addressof(infos)} to ptr
  %info.first = mul i64 %node, 32
  %info.at = getelementptr i8, ptr %infos, i64 %info.first
  call void @llvm.memcpy.p0.p0.i64(ptr %info, ptr %info.at, i64 32, i1 false)
  ret i64 %many
}}"""
    return Model(text, firsts, targets, metas, infos)


@functools.cache
def counter_model(processes: int, top: int, width: int) -> Model:
    """Each process counts from 0 to `top` in a byte of its own: process p in word p % width. Its
    step to the top has mark p; claim 0 is violated where process 0 is at the top."""
    return Model(f"""
define i64 @successors(ptr %state, ptr %out, ptr %meta, ptr %info) {{
entry:
  br label %process
process:
  %p = phi i64 [0, %entry], [%p.next, %next]
  %n = phi i64 [0, %entry], [%n.next, %next]
  %word = urem i64 %p, {width}
  %byte = udiv i64 %p, {width}
  %shift = mul i64 %byte, 8
  %value.at = getelementptr i64, ptr %state, i64 %word
  %value = load i64, ptr %value.at
  %shifted = lshr i64 %value, %shift
  %count = and i64 %shifted, 255
  %can = icmp ult i64 %count, {top}
  br i1 %can, label %step, label %next
step:
  %first = mul i64 %n, {width}
  %after = getelementptr i64, ptr %out, i64 %first
  call void @llvm.memcpy.p0.p0.i64(ptr %after, ptr %state, i64 {8 * width}, i1 false)
  %one = shl i64 1, %shift
  %larger = add i64 %value, %one
  %larger.at = getelementptr i64, ptr %after, i64 %word
  store i64 %larger, ptr %larger.at
  %twice = mul i64 %n, 2
  %label.at = getelementptr i64, ptr %meta, i64 %twice
  %marks.at = getelementptr i64, ptr %label.at, i64 1
  %last = icmp eq i64 %count, {top - 1}
  %mark = shl i64 1, %p
  %marks = select i1 %last, i64 %mark, i64 0
  store i64 %p, ptr %label.at
  store i64 %marks, ptr %marks.at
  %n.more = add i64 %n, 1
  br label %next
next:
  %n.next = phi i64 [%n, %process], [%n.more, %step]
  %p.next = add i64 %p, 1
  %more = icmp ult i64 %p.next, {processes}
  br i1 %more, label %process, label %end
end:
  call void @llvm.memset.p0.i64(ptr %info, i8 0, i64 32, i1 false)
  %word0 = load i64, ptr %state
  %count0 = and i64 %word0, 255
  %bad = icmp eq i64 %count0, {top}
  %bad.word = zext i1 %bad to i64
  store i64 %bad.word, ptr %info
  %dead = icmp eq i64 %n.next, 0
  %dead.word = zext i1 %dead to i64
  %dead.at = getelementptr i64, ptr %info, i64 1
  store i64 %dead.word, ptr %dead.at
  ret i64 %n.next
}}""")


@functools.cache
def tree_model() -> Model:
    """Two successors for each state, without end: x is followed by 2x and 2x + 1."""
    return Model("""
define i64 @successors(ptr %state, ptr %out, ptr %meta, ptr %info) {
  %x = load i64, ptr %state
  %left = mul i64 %x, 2
  %right = or i64 %left, 1
  %right.at = getelementptr i64, ptr %out, i64 1
  store i64 %left, ptr %out
  store i64 %right, ptr %right.at
  call void @llvm.memset.p0.i64(ptr %meta, i8 0, i64 32, i1 false)
  call void @llvm.memset.p0.i64(ptr %info, i8 0, i64 32, i1 false)
  ret i64 2
}""")


def token_ring(count: int) -> Graph:
    """Processes that are idle, want or own in turn, and own only with the token. Claim 0: no two
    own at once."""
    idle, wants, owns = range(3)

    def steps(state: State) -> Iterator[tuple[int, State]]:
        *modes, token = state
        for p, mode in enumerate(modes):
            if mode != wants or token == p:
                after = (*modes[:p], (mode + 1) % 3, *modes[p + 1 :])
                yield p, (*after, (token + 1) % count if mode == owns else token)
        if modes[token] == idle:
            yield count, (*modes, (token + 1) % count)

    initial = (idle,) * count + (0,)
    numbers, queue = {initial: 0}, deque([initial])
    graph = Graph((*initial, 0), count + 1, {})
    while queue:
        state = queue.popleft()
        found = []
        for label, target in steps(state):
            if target not in numbers:
                numbers[target] = len(numbers)
                queue.append(target)
            found.append(Step((*target, numbers[target]), label))
        graph.steps[(*state, numbers[state])] = found
        broken = state[:-1].count(owns) > 1
        graph.info[(*state, numbers[state])] = (int(broken), 0, 0, 0)
    return graph
