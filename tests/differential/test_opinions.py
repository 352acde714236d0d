"""SPIN finds of every program, in Promela, what mmuwitness finds: the states, the steps, the claims
that are violated, the marks that are reached, the deadlocks.  `make diff` compares all there is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from mmuwitness.explore.programs import fold_scenario
from mmuwitness.model.bugs.bug import corpus, find_bug
from mmuwitness.model.era import Era
from mmuwitness.model.scenarios import find_scenario
from mmuwitness.process.program import Program, fold
from mmuwitness.report.promela.model import promela_text
from tests.differential.diff import Case, compare
from tests.differential.opinions import (
    WRONG,
    Opinion,
    opinion_of_text,
    our_opinion,
    spins_opinion,
)
from tests.differential.verifier import MISSING, pan_report
from tests.explore.test_pinned import entries
from tests.process.worlds import SmallHost, declared, fold_code, load
from tests.properties.programs import Text
from tests.properties.test_executors import STATES_MAX, folded, programs, small

pytestmark = [
    pytest.mark.slow,
    pytest.mark.spin,
    pytest.mark.skipif(bool(MISSING), reason=f"{' and '.join(MISSING)} not found"),
]

QUICK = 20_000
"""Programs of at most so many states are compared here; `make diff` compares all."""


def chosen() -> list[Any]:
    """Of each scenario the largest program that is quick."""
    found: dict[str, tuple[int, str, str]] = {}
    for scenario, arch, eras, entry in entries():
        if entry["states"] <= QUICK:
            here = (entry["states"], arch, eras.split()[0])
            found[scenario] = max(here, found.get(scenario, here))
    return [
        pytest.param(
            Case(scenario, arch, era), id=f"{scenario}-{arch}-{era}", marks=marks_of(number)
        )
        for number, (scenario, (_, arch, era)) in enumerate(found.items())
    ]


def marks_of(number: int) -> list[Any]:
    """Every fourth is compared each time: it takes seconds to compile SPIN's verifier."""
    return [] if number % 4 == 0 else [pytest.mark.exhaustive]


@pytest.mark.parametrize("case", chosen())
def test_spin_agrees(case: Case) -> None:
    compared = compare(case)
    assert compared.ours == compared.spins


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=marks_of(n)) for n, name in enumerate(corpus())]
)
def test_spin_agrees_on_bugs(name: str) -> None:
    bug = find_bug(name)
    for scenario, era in (
        (bug.broken_scenario, bug.broken_era),
        (bug.fixed_scenario, bug.fixed_era),
    ):
        compared = compare(Case(scenario.name, bug.arch, era.name, era.changes), QUICK)
        assert compared.spins is None or compared.ours == compared.spins


@settings(max_examples=25)
@given(text=programs)
def test_spin_agrees_on_random_programs(
    text: Text, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("program")
    made = folded(text, directory)
    if made is not None and small(made[1], STATES_MAX) is not None:
        assert our_opinion(made[1]) == spins_opinion(made[1], directory, STATES_MAX)


# What opinions consist of


def both(directory: Path, code: str, needs: tuple[tuple[str, ...], ...] = ()) -> Opinion:
    """What both find of a small program."""
    program = fold_code(directory, code, needs)
    ours = our_opinion(program)
    assert ours == spins_opinion(program, directory, STATES_MAX)
    return ours


OPPOSITE = """
def p0(host):
    with spin_lock(host.box.lk):
        with spin_lock(host.items[0].lk):
            host.box.n = 1

def p1(host):
    with spin_lock(host.items[0].lk):
        with spin_lock(host.box.lk):
            host.box.n = 2
"""
LEFT_HELD = """
def p0(host):
    lock(host.box.lk)

def p1(host):
    with spin_lock(host.box.lk):
        host.box.n = 2
"""
NEVER_TRUE = """
def p0(host):
    wait_until(host.box.n == 2)
    host.box.n = 0

def p1(host):
    host.box.n = 1
"""


@pytest.mark.parametrize("code", [OPPOSITE, LEFT_HELD, NEVER_TRUE])
def test_a_deadlock(code: str, tmp_path: Path) -> None:
    assert both(tmp_path, code).deadlock


def test_a_model_that_goes_wrong(tmp_path: Path) -> None:
    code = """
def p0(host):
    host.box.n = 1
    host.box.n = 2

def p1(host):
    bug_on(host.box.n == 2)
"""
    assert both(tmp_path, code) == WRONG


def test_claims_are_read_when_their_locks_are_free(tmp_path: Path) -> None:
    code = """
def p0(host):
    with write_lock(host.box.rw):
        host.box.n = 1
        cover("changed")
        host.box.arr[0] = 1

def p1(host):
    with read_lock(host.box.rw):
        host.box.arr[host.box.arr[0]] = host.box.n
        host.box.neg = -2
    with spin_lock(host.box.lk):
        host.box.one = 3

def claim0(host):
    return host.box.n == host.box.arr[0]

def claim1(host):
    return host.box.n == host.box.arr[0]
"""
    found = both(tmp_path, code, ((), ("rw",)))
    assert found.claims == {"claim0"} and found.marks == {"changed"} and not found.deadlock


def test_a_test_that_indexes_an_array_with_itself(tmp_path: Path) -> None:
    code = """
def p0(host):
    wait_until(host.box.arr[host.box.arr[0]] == 2)
    host.box.flag = True

def p1(host):
    host.box.arr[0] = 1
    host.box.arr[1] = 2
"""
    assert both(tmp_path, code).states > 3


def test_a_snapshot_is_stale_in_every_process_after_a_bump(tmp_path: Path) -> None:
    code = """
def p0(host):
    seen = host.box.seq.snapshot()
    host.box.n = 1
    if host.box.seq == seen:
        cover("fresh")
    else:
        cover("stale")

def p1(host):
    mine = host.box.seq.snapshot()
    host.box.seq.bump()
    if host.box.seq == mine:
        cover("fresh after a bump")
"""
    assert both(tmp_path, code).marks == {"fresh", "stale"}


# That a comparison can fail


def some_program() -> Program:
    return fold_scenario(find_scenario("dontneed_one"), Era("v6.1"), "x86-tdp")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("KVM_mmu_invalidate_in_progress + 1", "KVM_mmu_invalidate_in_progress + 0"),  # sum
        (" && (KVM_mmu_lock == 0", " && (true"),  # guard
        ("vcpu0_mmu_seq = 0;", "skip;"),  # bump, and a dead local
        ("MM_pte = 0;", "MM_pte = 1;"),  # constant
    ],
)
def test_a_changed_model_gets_another_opinion(old: str, new: str, tmp_path: Path) -> None:
    program = some_program()
    text = promela_text(program, "changed")
    assert old in text
    ours = our_opinion(program)
    assert ours == opinion_of_text(text, program, tmp_path, 10 * ours.states)
    assert ours != opinion_of_text(text.replace(old, new), program, tmp_path, 10 * ours.states)


def test_without_sets_a_violated_claim_is_an_assertion(tmp_path: Path) -> None:
    module = load(tmp_path, declared(WRONG_CLAIM))
    model = tmp_path / "model.pml"
    model.write_text(promela_text(fold(SmallHost(module)), "a claim"), encoding="utf-8")
    assert "assertion violated" in pan_report(model, [], tmp_path, "-m1000")
    assert (tmp_path / "model.pml.trail").exists()


WRONG_CLAIM = """
def p0(host):
    host.box.n = 1

def claim0(host):
    return host.box.n == 0
"""
