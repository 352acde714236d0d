"""The search against a breadth-first search in plain Python, on graphs where both can count."""

from __future__ import annotations

import ctypes
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import llvmlite.binding as llvm
import pytest

from mmuwitness.explore import core_cache, search_memory, search_workers
from mmuwitness.explore.search import Progress, SearchResult, StopWhen, search

State = tuple[int, ...]
WIDTHS = (1, 2, 3, 5)


@dataclass(frozen=True)
class Step:
    """An edge of a graph."""

    target: State
    label: int = 0
    marks: int = 0


@dataclass
class Graph:
    """An explicit state graph, and what breadth-first search finds in it."""

    initial: State
    steps: dict[State, list[Step]]
    info: dict[State, tuple[int, int, int, int]] = field(default_factory=dict)

    def depths(self) -> dict[State, int]:
        depths, queue = {self.initial: 0}, deque([self.initial])
        while queue:
            state = queue.popleft()
            for step in self.steps[state]:
                if step.target not in depths:
                    depths[step.target] = depths[state] + 1
                    queue.append(step.target)
        return depths


class Model:
    """A native successor function, and what it needs to stay valid."""

    def __init__(self, text: str, *held: object) -> None:
        module = llvm.parse_assembly(text)
        code = bytes(core_cache.target_machine().emit_object(module))
        self.library, self.held = core_cache.Library(code), held
        self.address = self.library.address("successors")


def explicit_model(graph: Graph, node: Callable[[State], int], word: str) -> Model:
    """A model that looks the graph up. `word` is the LLVM text that finds a state's node number
    in %state; `node` does the same here."""
    nodes = sorted(graph.steps, key=node)
    assert [node(state) for state in nodes] == list(range(len(nodes)))
    width = len(graph.initial)
    steps = [step for state in nodes for step in graph.steps[state]]
    ends = list(itertools.accumulate((len(graph.steps[state]) for state in nodes), initial=0))
    offsets = words(ends)
    targets = words([value for step in steps for value in step.target] or [0])
    metas = words([value for step in steps for value in (step.label, step.marks)] or [0])
    infos = words([v for state in nodes for v in graph.info.get(state, (0, 0, 0, 0))])
    at = {name: ctypes.addressof(table) for name, table in
          (("o", offsets), ("t", targets), ("m", metas), ("i", infos))}  # fmt: skip
    text = f"""
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
define i64 @successors(ptr %state, ptr %out, ptr %meta, ptr %info) {{
{word}
  %o = inttoptr i64 {at["o"]} to ptr
  %t = inttoptr i64 {at["t"]} to ptr
  %m = inttoptr i64 {at["m"]} to ptr
  %i = inttoptr i64 {at["i"]} to ptr
  %first.at = getelementptr i64, ptr %o, i64 %node
  %end.at = getelementptr i64, ptr %first.at, i64 1
  %first = load i64, ptr %first.at
  %end = load i64, ptr %end.at
  %many = sub i64 %end, %first
  %t.first = mul i64 %first, {8 * width}
  %t.bytes = mul i64 %many, {8 * width}
  %t.at = getelementptr i8, ptr %t, i64 %t.first
  call void @llvm.memcpy.p0.p0.i64(ptr %out, ptr %t.at, i64 %t.bytes, i1 false)
  %m.first = mul i64 %first, 16
  %m.bytes = mul i64 %many, 16
  %m.at = getelementptr i8, ptr %m, i64 %m.first
  call void @llvm.memcpy.p0.p0.i64(ptr %meta, ptr %m.at, i64 %m.bytes, i1 false)
  %i.first = mul i64 %node, 32
  %i.at = getelementptr i8, ptr %i, i64 %i.first
  call void @llvm.memcpy.p0.p0.i64(ptr %info, ptr %i.at, i64 32, i1 false)
  ret i64 %many
}}"""
    return Model(text, offsets, targets, metas, infos)


def words(values: list[int]) -> ctypes.Array[ctypes.c_uint64]:
    return (ctypes.c_uint64 * len(values))(*values)


def in_word(position: int) -> str:
    return f"""
  %node.at = getelementptr i64, ptr %state, i64 {position}
  %node = load i64, ptr %node.at"""


def counter_model(processes: int, top: int, width: int) -> Model:
    """Each process counts from 0 to `top` in a byte of its own; the step of process p to the top
    executes mark p; claim 0 is violated where process 0 is at the top."""
    text = [
        "define i64 @successors(ptr %state, ptr %out, ptr %meta, ptr %info) {",
        "  store i64 0, ptr %info",
        *(f"  %i{n} = getelementptr i64, ptr %info, i64 {n}\n  store i64 0, ptr %i{n}"
          for n in (1, 2, 3)),
        *(f"  %s{w}.at = getelementptr i64, ptr %state, i64 {w}\n  %s{w} = load i64, ptr %s{w}.at"
          for w in range(width)),
        "  br label %p0",
    ]  # fmt: skip
    for p in range(processes):
        word, shift = p % width, 8 * (p // width)
        many = "0" if p == 0 else f"%n{p}"
        before = "" if p == 0 else f"  %n{p} = phi i64 [{many_before(p)}, %p{p - 1}], " \
            f"[%more{p - 1}, %step{p - 1}]"  # fmt: skip
        text += [
            f"p{p}:", before,
            f"  %v{p}.s = lshr i64 %s{word}, {shift}",
            f"  %v{p} = and i64 %v{p}.s, 255",
            f"  %can{p} = icmp ult i64 %v{p}, {top}",
            f"  br i1 %can{p}, label %step{p}, label %p{p + 1}",
            f"step{p}:",
        ]  # fmt: skip
        for w in range(width):
            text += [
                f"  %w{p}.{w} = add i64 %s{w}, {1 << shift if w == word else 0}",
                f"  %k{p}.{w} = mul i64 {many}, {width}",
                f"  %k{p}.{w}.n = add i64 %k{p}.{w}, {w}",
                f"  %o{p}.{w} = getelementptr i64, ptr %out, i64 %k{p}.{w}.n",
                f"  store i64 %w{p}.{w}, ptr %o{p}.{w}",
            ]
        text += [
            f"  %m{p}.n = mul i64 {many}, 2",
            f"  %m{p} = getelementptr i64, ptr %meta, i64 %m{p}.n",
            f"  store i64 {p}, ptr %m{p}",
            f"  %c{p} = getelementptr i64, ptr %m{p}, i64 1",
            f"  %last{p} = icmp eq i64 %v{p}, {top - 1}",
            f"  %mark{p} = select i1 %last{p}, i64 {1 << p}, i64 0",
            f"  store i64 %mark{p}, ptr %c{p}",
            f"  %more{p} = add i64 {many}, 1",
            f"  br label %p{p + 1}",
        ]
    p = processes
    text += [
        f"p{p}:",
        f"  %n = phi i64 [{many_before(p)}, %p{p - 1}], [%more{p - 1}, %step{p - 1}]",
        "  %dead = icmp eq i64 %n, 0",
        "  %dead.w = zext i1 %dead to i64",
        "  store i64 %dead.w, ptr %i1",
        f"  %bad = icmp eq i64 %v0, {top}",
        "  %bad.w = zext i1 %bad to i64",
        "  store i64 %bad.w, ptr %info",
        "  ret i64 %n",
        "}",
    ]
    return Model("\n".join(text))


def many_before(p: int) -> str:
    return "0" if p == 1 else f"%n{p - 1}"


# Two successors for each state, without end: word 0 is a number in binary.
TREE = """
define i64 @successors(ptr %state, ptr %out, ptr %meta, ptr %info) {
  %x = load i64, ptr %state
  %left = mul i64 %x, 2
  %right = or i64 %left, 1
  %out1 = getelementptr i64, ptr %out, i64 1
  store i64 %left, ptr %out
  store i64 %right, ptr %out1
  call void @llvm.memset.p0.i64(ptr %meta, i8 0, i64 32, i1 false)
  call void @llvm.memset.p0.i64(ptr %info, i8 0, i64 32, i1 false)
  ret i64 2
}
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
"""


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One cache for all of them, unless there is one: compiling takes seconds."""
    yield core_cache.cache_directory()


@pytest.fixture
def divide_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_workers, "DIVIDE_STATES", 20)
    monkeypatch.setattr(search_workers, "DIVIDE_FRONTIER", 1)
