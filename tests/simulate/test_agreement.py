"""Simulate runs the text that explore explores: in lockstep, with what is counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmuwitness.model.bugs.bug import corpus
from mmuwitness.model.era import Era
from mmuwitness.model.host import ARCHES, find_arch
from mmuwitness.model.scenarios import SCENARIOS, find_scenario
from mmuwitness.process import lower
from mmuwitness.process.lower import ProcessBody
from mmuwitness.simulate.builder import ManyBuilder
from mmuwitness.simulate.lower import ArrayBody
from tests.simulate.agreement import check_lockstep

ERAS = ("v2.6.32", "v3.6", "v4.14", "v5.4", "v5.12", "v6.1", "v6.12")
STEPS = 250

QUICK = (
    ("ksm", "v6.1", "arm64"),
    ("ksm_first", "v3.6", "x86-tdp"),
    ("unmerge", "v6.12", "x86-shadow"),
    ("cow", "v6.1", "x86-tdp"),
    ("cow_smp", "v5.4", "mips"),
    ("dontneed", "v5.12", "riscv"),
    ("migrate", "v4.14", "powerpc-hv"),
    ("reclaim_thread", "v5.4", "arm64"),
    ("numa", "v6.12", "x86-tdp"),
    ("fork", "v5.12", "loongarch"),
    ("thp", "v6.1", "x86-tdp"),
    ("hugetlb_shared", "v4.14", "x86-tdp"),
    ("memslot_roots", "v6.1", "x86-tdp"),
    ("dirty_log", "v5.4", "x86-shadow"),
)


def each_scenario() -> Iterator[Any]:
    """Every scenario, on two architectures and kernels that it has something to say about."""
    arches = list(ARCHES)
    for n, name in enumerate(SCENARIOS):
        for turn in range(2):
            arch, era = arches[(n + 3 * turn) % len(arches)], ERAS[(n + 2 * turn) % len(ERAS)]
            if not find_scenario(name).absent(Era(era), find_arch(arch)):
                yield name, era, arch


@pytest.mark.parametrize(("name", "era", "arch"), QUICK)
def test_three_executors_agree(name: str, era: str, arch: str) -> None:
    counted = check_lockstep(find_scenario(name), Era(era), arch, STEPS, seed=1)
    assert sum(counted.values()) > STEPS, "the schedule does something"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "era", "arch"), list(each_scenario()))
def test_they_agree_on_every_scenario(name: str, era: str, arch: str) -> None:
    check_lockstep(find_scenario(name), Era(era), arch, STEPS, seed=2)


@pytest.mark.slow
@given(
    st.sampled_from(QUICK),
    st.sampled_from(ERAS),
    st.sampled_from(list(ARCHES)),
    st.integers(0, 1 << 32),
)
@settings(max_examples=30)
def test_they_agree_on_any_kernel_and_schedule(which: Any, era: str, arch: str, seed: int) -> None:
    scenario = find_scenario(which[0])
    if not scenario.absent(Era(era), find_arch(arch)):
        check_lockstep(scenario, Era(era), arch, STEPS, seed)


@pytest.mark.parametrize("bug", [name for name, bug in corpus().items() if bug.broken])
def test_what_stands_in_the_place_of_a_function_is_counted_under_its_name(bug: str) -> None:
    found = corpus()[bug]
    counted = check_lockstep(found.broken_scenario, found.broken_era, found.arch, STEPS, seed=3)
    assert all(counted[name] for name in found.broken)


def nothing(*arguments: Any) -> None:
    pass


def twice(method: Callable[..., Any]) -> Callable[..., Any]:
    def both(*arguments: Any) -> None:
        method(*arguments)
        method(*arguments)

    return both


def iterated_twice(self: Any, node: Any) -> None:
    self.expr(node.iter)
    Unmutated.stmt_For(self, node)


class Unmutated:
    stmt_For = ManyBuilder.stmt_For


MUTATIONS: dict[str, tuple[Any, str, Any]] = {
    "a sequence is never bumped": (ArrayBody, "op_bump", nothing),
    "a function is counted twice": (ArrayBody, "op_count", twice(ArrayBody.op_count)),
    "explore counts a function twice": (ProcessBody, "op_count", twice(ProcessBody.op_count)),
    "a lock is not taken": (ArrayBody, "op_acquire", nothing),
    "a lock is never dropped": (ArrayBody, "op_release", nothing),
    "a snapshot is always the same": (
        ArrayBody,
        "op_fresh",
        lambda self, op: self.result(op, "1"),
    ),
    "the wrong choice": (ArrayBody, "op_choose", lambda self, op: self.result(op, "0")),
    "an argument of a loop is evaluated twice": (ManyBuilder, "stmt_For", iterated_twice),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_wrong_lowering_is_noticed(mutation: str, monkeypatch: Any) -> None:
    name = "hugetlb_shared" if "loop" in mutation else "ksm"
    monkeypatch.setattr(*MUTATIONS[mutation])
    with pytest.raises(AssertionError):
        check_lockstep(find_scenario(name), Era("v5.12"), "x86-tdp", 1000, seed=1)


def test_a_wrong_comparison_is_noticed(monkeypatch: Any) -> None:
    """Of both lowerings, so that only replay is right."""
    monkeypatch.setitem(lower.COMPARISONS, "le", "slt")
    with pytest.raises(AssertionError):
        check_lockstep(find_scenario("ksm"), Era("v6.1"), "arm64", 1000, seed=1)
