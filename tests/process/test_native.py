"""The lowered program as machine code: quick and thorough code agree; deadlocks are found."""

from __future__ import annotations

from functools import cache

import pytest

from mmuwitness.explore.programs import Folding, fold_scenario
from mmuwitness.model.era import Era
from mmuwitness.model.scenarios import find_scenario
from mmuwitness.process.native import NativeProgram, compile_ir
from mmuwitness.process.program import Program
from tests.process.worlds import Explored, explored, fold_code


@cache
def shipped(scenario: str, arch: str, claims: bool) -> Program:
    return fold_scenario(find_scenario(scenario), Era("v6.1"), arch, Folding(claims=claims))


@pytest.mark.slow
@pytest.mark.parametrize("claims", [True, False], ids=["claims", "marks"])
@pytest.mark.parametrize("arch", ["x86-tdp", "arm64"])
@pytest.mark.parametrize("scenario", ["uprobe_one", "dontneed_one", "reclaim_one"])
def test_quick_and_thorough_code_agree(scenario: str, arch: str, claims: bool) -> None:
    program = shipped(scenario, arch, claims)
    graph = explored(program, states_max=20_000)
    thorough = NativeProgram(compile_ir(program.lowered.text, thorough=True))
    assert len(graph.found) > 20
    for words, found in graph.found.items():
        assert thorough.call(words, program.lowered.successors_max) == (found, graph.info[words])


def test_folding_twice_gives_one_program() -> None:
    texts = {shipped.__wrapped__("uprobe_one", "arm64", True).lowered.text for _ in range(2)}
    assert len(texts) == 1


def taking(*locks: str) -> str:
    """A process that takes locks, one inside the other."""
    lines = [f"{'    ' * depth}with {lock}:" for depth, lock in enumerate(locks, 1)]
    return "\n".join([*lines, "    " * (len(locks) + 1) + "host.box.n = 1", ""])


A, B = "spin_lock(host.items[0].lk)", "spin_lock(host.items[1].lk)"
READ, WRITE = "read_lock(host.box.rw)", "write_lock(host.box.rw)"
FOREVER = "    while True:\n        wait_until(host.box.n < 3)\n"
FLAG, SET = "    wait_until(host.box.flag)\n", "    host.box.flag = True\n"


def run(directory, *processes: str) -> Explored:
    """A program of these processes, each the text of its statements."""
    code = [f"\ndef p{number}(host):\n{text}" for number, text in enumerate(processes)]
    return explored(fold_code(directory, "".join(code)))


@pytest.mark.parametrize(
    ("processes", "expected"),
    [
        pytest.param([taking(A, B), taking(B, A)], True, id="opposite order"),
        pytest.param([taking(A, B), taking(A, B)], False, id="one order"),
        pytest.param([taking(A, B), taking(B, A), FOREVER], True, id="and a third goes on"),
        pytest.param([taking(A, B), taking(A, B), FOREVER], False, id="one order, a third goes on"),
        pytest.param(
            [
                taking(A, B),
                taking(B, "spin_lock(host.box.lk)"),
                taking("spin_lock(host.box.lk)", A),
            ],
            True,
            id="a circle of three",
        ),
        pytest.param([taking(A, A), taking(A)], True, id="twice"),
        pytest.param([FLAG, taking(A)], True, id="a wait that never ends"),
        pytest.param([FLAG, SET], False, id="a wait that ends"),
        pytest.param([FLAG, FOREVER], False, id="a wait while somebody goes on"),
        pytest.param(["    pass\n", "    pass\n"], False, id="all have finished"),
        pytest.param([taking(A), taking(A)], False, id="a lock is waited for"),
        pytest.param([f"    lock({A[10:-1]})\n", taking(A)], True, id="finished with a lock"),
        pytest.param([taking(A) + FLAG, taking(A)], True, id="one has finished, one waits"),
        pytest.param(
            [taking(A).replace("host.box.n = 1", "wait_until(host.box.flag)"), taking(A) + SET],
            True,
            id="a wait under a lock that the other needs first",
        ),
        pytest.param([taking(READ, A), taking(A, WRITE)], True, id="a writer waits for a reader"),
        pytest.param([taking(WRITE, A), taking(A, READ)], True, id="a reader waits for a writer"),
        pytest.param(
            [taking(READ, A), taking(READ, A), taking(A, WRITE)],
            True,
            id="a writer waits for two readers",
        ),
        pytest.param(
            [taking(READ, A), taking(A, READ), taking(WRITE)], False, id="readers do not wait"
        ),
        pytest.param([taking(READ, WRITE), taking(WRITE)], True, id="a reader becomes a writer"),
        pytest.param(
            [
                f"    while not trylock({A[10:-1]}):\n        pass\n    unlock({A[10:-1]})\n",
                taking(A, B),
                taking(B),
            ],
            False,
            id="trylock does not wait",
        ),
    ],
)
def test_deadlock(processes: list[str], expected: bool, tmp_path) -> None:
    graph = run(tmp_path, *processes)
    assert graph.deadlock is expected
    assert not graph.errors
    assert {info[1] for info in graph.info.values()} <= {0, 1}


def test_a_deadlock_is_noted_where_it_is(tmp_path) -> None:
    """Only the states in which both hold a lock and want the other, not those on the way."""
    graph = run(tmp_path, taking(A, B), taking(B, A), FOREVER)
    layout = graph.program.layout
    for words, info in graph.info.items():
        owners = [slot.get(words) for slot in layout.elements["Item.lk"]]
        assert info[1] == (owners == [1, 2])


def test_a_process_alone_can_wait_for_itself(tmp_path) -> None:
    assert run(tmp_path, taking(A, A), "    pass\n").deadlock


def test_a_wait_for_one_who_has_finished_is_a_deadlock(tmp_path) -> None:
    assert run(tmp_path, f"    lock({A[10:-1]})\n", taking(A), FOREVER).deadlock


def test_info_names_claims_and_errors(tmp_path) -> None:
    program = fold_code(
        tmp_path,
        """
def p0(host):
    x = choose(3)
    host.box.arr[x] = 1

def p1(host):
    host.box.n = 1

def claim0(host):
    return True

def claim1(host):
    return host.box.n == 0
""",
    )
    graph = explored(program)
    labels = [label for label, _, _ in graph.found[tuple(program.initial)]]
    assert labels == [0, 0 | 1 << 8, 1], "choices 0 and 1 of process 0, process 1"
    assert graph.violated == {"claim1"}
    assert {info[0] for info in graph.info.values()} == {0, 0b10}
    erring = {info[3] for info in graph.info.values() if info[2]}
    assert erring == {2 << 8}, "process 0, choice 2"
    assert {error.split(": ")[-1] for error in graph.errors} == {
        "the value is outside its range 0..1"
    }
