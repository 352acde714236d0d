"""What is interchangeable, and what is not: shown by evaluating steps, never assumed."""

from __future__ import annotations

from collections import deque
from itertools import permutations
from pathlib import Path
from random import Random
from typing import Any

import pytest

from mmuwitness.model.state import Lock, OfValue, Ref, World
from mmuwitness.process.diagrams import Diagrams, TooLarge
from mmuwitness.process.native import NativeProgram, compile_ir
from mmuwitness.process.program import Program, fold
from tests.process.worlds import Actor, Predicate, declared, load

STATES_MAX = 4_000


class Shop:
    """A box, some items, and a process for each of some items, or for the box."""

    def __init__(self, module: Any, items: int, workers: int) -> None:
        self.world = World()
        self.items = self.world.add(module.Item, items)
        self.box = self.world.add(module.Box)[0]
        counters = self.world.add(module.Counter, items)
        self.overrides: dict[str, Any] = {}
        self.processes: list[Any] = [
            Actor(f"worker{n}", module.worker, (item,))
            for n, item in enumerate(self.items[:workers])
        ]
        self.box.count = items
        for item in self.items:
            item.box = self.box
            item.counter = counters[item.index]
            item.all = self.items
        self.box.items = self.items
        if hasattr(module, "clerk"):
            self.processes.append(Actor("clerk", module.clerk, (self.box,)))
        self.claims = [
            Predicate(name, getattr(module, name))
            for name in ("claim0", "claim1")
            if hasattr(module, name)
        ]

    def has_feature(self, name: str) -> bool:
        return False


def folded(directory: Path, code: str, items: int = 3, workers: int = 3) -> Program:
    module = load(directory, declared(code))
    return fold(Shop(module, items, workers), reduce=("items",))


WORKER = """
def worker(item):
    while True:
        with spin_lock(item.box.lk):
            item.n = choose(3)
        for other in item.all:
            if other.n == 2:
                item.box.flag = True
"""


@pytest.mark.parametrize(
    "code",
    [
        WORKER,
        WORKER + "def claim0(host):\n    return host.box.item is not host.box.leaf.item\n",
        # every one of them, in whatever order
        WORKER
        + "def claim0(host):\n"
        + "    for item in host.items:\n        if item.n == 1 and item.lk is None:\n"
        + "            return False\n    return True\n".replace(" and item.lk is None", ""),
    ],
)
def test_alike(tmp_path: Path, code: str) -> None:
    code = code.replace(" and item.lk is None", "")
    atomic = code.replace(
        "        for other", '        with atomic("one look"):\n         for other'
    ).replace("            if other.n", "             if other.n")
    assert folded(tmp_path, atomic).reduced == ["items"]


@pytest.mark.parametrize(
    "code",
    [
        # one after the other: who looks at the second has looked at the first
        WORKER,
        # one of them has a name
        "def worker(item):\n    item.all[1].n = choose(2)\n",
        "def worker(item):\n    item.n = choose(2)\n"
        "def claim0(host):\n    return host.items[0].n == 0\n",
        # each remembers a sequence of its own
        "def worker(item):\n    seen = item.counter.seq.snapshot()\n    item.n = 1\n"
        "    item.box.flag = item.counter.seq == seen\n"
        "def clerk(box):\n    box.items[0].counter.seq.bump()\n",
        # the first that fits
        "def worker(item):\n    item.n = choose(2)\n"
        "def clerk(box):\n    while True:\n        with atomic('one look'):\n"
        "            box.item = None\n            for item in box.items:\n"
        "                if box.item is None and item.n == 1:\n"
        "                    box.item = item\n",
    ],
)
def test_not_alike(tmp_path: Path, code: str) -> None:
    assert folded(tmp_path, code).reduced == []


def test_who_has_a_sequence_is_not_alike(tmp_path: Path) -> None:
    """A snapshot says of which object it is by the local that it is in."""
    code = "def clerk(box):\n    for item in box.items:\n        item.counter.seq.bump()\n"
    module = load(tmp_path, declared(code + "def worker(item):\n    item.n = choose(2)\n"))
    program = fold(Shop(module, 3, 3), reduce=("items", "counters"))
    assert program.reduced == ["items"]


def test_any_of_them_by_a_choice_is_alike(tmp_path: Path) -> None:
    """As the first free page is, where the search may begin at any."""
    code = """
def worker(item):
    item.n = choose(2)

def clerk(box):
    while True:
        first = box.items[choose(3)]
        with atomic("one look"):
            box.item = None
            if first.n == 1:
                box.item = first
            for item in box.items:
                if box.item is None and item.n == 1:
                    box.item = item
"""
    assert folded(tmp_path, code).reduced == ["items"]


def test_some_run_and_some_do_not(tmp_path: Path) -> None:
    """Not all instances have a process, so they differ."""
    assert folded(tmp_path, "def worker(item):\n    item.n = 1\n", workers=2).reduced == []


# Random programs

LINES = (
    "item.n = {n}",
    "item.arr[{i}] = {i}",
    "item.leaf = Leaf(odd=True, n={i}, item={who})",
    "item.box.item = {who}",
    "item.box.leaf = item.leaf",
    "item.box.n = item.n",
    "item.leaf = item.box.leaf",
    "item.leaf = item.leaf.replace(n=item.arr[{i}])",
    "item.box.seq.bump()",
    "cover('mark {n}')",
    "wait_until(item.box.n != {n})",
)
TESTS = (
    "item.n == {n}",
    "item.box.item is item",
    "item.box.item is not None",
    "item.leaf == item.box.leaf",
    "item.box.n < {n}",
    "item.leaf.odd",
)
CLAIMS = (
    "for item in host.items:\n        if item.n == {n} and item.leaf.odd:\n"
    "            return False\n    return True",
    "return host.box.item is None or host.box.n != {n}",
    "return host.items[0].n != {n}",
    "for item in host.items:\n        if host.box.item is item and item.n == {n}:\n"
    "            return False\n    return True",
)


class Maker:
    """A random worker, or a clerk who goes to two items, and two random claims."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.clerks = seed % 3 == 0

    def filled(self, text: str) -> str:
        who = self.rng.choice(["item", "item.box.item", "None"])
        return text.format(n=self.rng.randrange(4), i=self.rng.randrange(2), who=who)

    def block(self, depth: int, indent: str) -> list[str]:
        lines = []
        for _ in range(1 + self.rng.randrange(3)):
            kind = self.rng.randrange(10)
            if depth and kind < 2:
                lines.append(f"{indent}if {self.filled(self.rng.choice(TESTS))}:")
                lines += self.block(depth - 1, indent + "    ")
            elif depth and kind < 4:
                lock = self.rng.choice(["item.lk", "item.box.lk"])
                lines.append(f"{indent}with spin_lock({lock}):")
                lines.append(f"{indent}    {self.filled(self.rng.choice(LINES[:8]))}")
            else:
                lines.append(indent + self.filled(self.rng.choice(LINES)))
        return lines

    def code(self) -> str:
        if self.clerks:
            block = [line.replace("item.box", "box") for line in self.block(2, "    ")]
            body = ["def clerk(box):", "    item = box.items[choose(box.count)]", *block]
            body += ["    item = box.items[choose(box.count)]", *block]
        else:
            body = ["def worker(item):", *self.block(2, "    ")]
        claims = [
            f"def claim{n}(host):\n    {self.filled(self.rng.choice(CLAIMS))}" for n in range(2)
        ]
        return "\n".join([*body, *claims, ""])


def visited(program: Program, reduced: bool) -> tuple[set[Any], set[Any], NativeProgram] | None:
    """The states, and what is found in them: claims, marks, deadlock, errors."""
    native = NativeProgram(compile_ir(program.lowered.text), bool(program.reduced))
    first = tuple(program.initial)
    first = native.canonical(first) if reduced else first
    states, work, findings = {first}, deque([first]), set()
    while work:
        state = work.popleft()
        found, info = native.call(state, program.lowered.successors_max)
        if info[2]:
            return None  # it goes wrong: the search stops there
        findings |= {("claim", bit) for bit in range(2) if info[0] >> bit & 1}
        findings |= {("deadlock", info[1])}
        for _, marks, target in found:
            findings |= {("mark", bit) for bit in range(8) if marks >> bit & 1}
            kept = native.canonical(target) if reduced else target
            if kept not in states:
                states.add(kept)
                work.append(kept)
        if len(states) > STATES_MAX:
            return None
    return states, findings, native


def renamed(kind: Any, code: int, order: tuple[int, ...], sizes: dict[str, int]) -> int:
    """A coded value once the items have changed places."""
    if isinstance(kind, Ref):
        return order[code - 1] + 1 if code else 0
    if isinstance(kind, OfValue):
        parts = [
            (k, shift, (code >> shift) & ((1 << w) - 1)) for _, k, shift, w in kind.parts(sizes)
        ]
        return sum(renamed(k, part, order, sizes) << shift for k, shift, part in parts)
    return code


def exchanged(program: Program, words: tuple[int, ...], order: tuple[int, ...]) -> tuple[int, ...]:
    """The state with item k, and its worker, if it has one, in the place of order[k]."""
    layout, made = program.layout, [0] * program.layout.words
    sizes, workers = layout.world.sizes, range(len(layout.frames))
    moves = order if len(workers) > 1 else (0,)
    for of, slots in layout.shared():
        readers = layout.readers.get(of.key, [])
        length = len(slots) // len(layout.world.instances(of.struct))
        for number, slot in enumerate(slots):
            at, within = divmod(number, length)
            to = (order[at] if of.struct == "Item" else at) * length + within
            code = slot.get(words)
            if isinstance(of.kind, Lock):
                slots[to].put(made, moves[code - 1] + 1 if code else 0)
            else:
                slots[to].put(made, renamed(of.kind, code, order, sizes))
            if readers:
                mask = readers[number].get(words)
                readers[to].put(made, sum(1 << moves[p] for p in workers if mask >> p & 1))
    for pid in workers:
        old, new = layout.frames[pid], layout.frames[moves[pid]]
        pc = old.pc.get(words)
        new.pc.put(made, pc)
        for a, b in zip(old.snapshots.values(), new.snapshots.values(), strict=True):
            b.put(made, a.get(words))
        if pc < program.steps[pid].done:
            mine, its = old.live[pc], new.live[pc]
            for (reg, a), b in zip(mine.items(), its.values(), strict=True):
                b.put(made, renamed(reg.kind, a.get(words), order, sizes))
    return tuple(made)


def orbit(program: Program, words: tuple[int, ...]) -> set[tuple[int, ...]]:
    orders = permutations(range(len(program.layout.world.instances("Item"))))
    return {exchanged(program, words, order) for order in orders}


def compare(directory: Path, seed: int) -> str:
    maker, items = Maker(seed), Random(seed).choice([2, 3])
    program = folded(directory, maker.code(), items, 0 if maker.clerks else items)
    if not program.reduced:
        return "not alike"
    every, reduced = visited(program, False), visited(program, True)
    if every is None or reduced is None:
        return "not compared"
    states, findings, native = every
    assert reduced[1] == findings, (seed, reduced[1] ^ findings)
    for state in states:
        assert native.canonical(state) in orbit(program, state), (seed, state)
    alike = set().union(*(orbit(program, state) for state in states))
    assert alike == set().union(*(orbit(program, state) for state in reduced[0])), seed
    return "smaller" if len(reduced[0]) < len(states) else "same size"


@pytest.mark.parametrize("first", [0, pytest.param(100, marks=pytest.mark.slow)])
def test_random_programs_up_to_symmetry(tmp_path: Path, first: int) -> None:
    """The same findings, and of all states those that are kept."""
    results = [
        compare(tmp_path, seed) for seed in range(first, first + (24 if first == 0 else 200))
    ]
    assert results.count("smaller") >= len(results) // 4, results
    assert results.count("not alike") >= 2, results


# Diagrams


def test_diagrams_are_equal_if_functions_are() -> None:
    d = Diagrams([("x", (0, 1)), ("y", (0, 1, 2))])
    x, y = d.variable("x"), d.variable("y")
    one = d.apply(max, x, y)
    other = d.choose(d.apply(int.__gt__, x, y), x, y)
    assert one == other != d.apply(min, x, y)
    assert d.both(x, d.invert(x)) == d.false
    assert d.either(x, d.invert(x)) == d.true


def test_diagrams_have_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmuwitness.process.diagrams.NODES_MAX", 5)
    with pytest.raises(TooLarge):
        Diagrams([("x", range(20))]).variable("x")
