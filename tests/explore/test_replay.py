"""Replay runs the author's own lines: places, retries, schedules, snapshots, errors."""

from __future__ import annotations

import ast
import dis
import random
import sys
from functools import partial

import pytest

from mmuwitness.explore.programs import fold_scenario
from mmuwitness.explore.replay import ModelError, Replay, twins_of
from mmuwitness.model.era import Era
from mmuwitness.model.host import find_arch
from mmuwitness.model.scenarios import find_scenario
from mmuwitness.process.language import source_of
from mmuwitness.process.program import Program, fold
from tests.process.worlds import SmallHost, declared, load

CODE = '''

def outer(host, item, x=1):
    """Waits, chooses and calls."""
    wait_until(host.box.n > 0)
    with spin_lock(
        item.lk
    ):
        chosen = choose(2)
        item.n = chosen + x
    return item.n


def p0(host):
    for item in host.items:
        cover("before")
        got = outer(host, item)
        host.box.seen[
            item.index
        ] = got


def p1(host):
    host.box.n += 1
    with spin_lock(host.items[0].lk):
        host.items[0].n = 3
        trace("stored", host.items[0].n)
        cover("after")
'''


@pytest.fixture
def module(tmp_path):
    return load(tmp_path, declared(CODE))


@pytest.fixture
def program(module) -> Program:
    return fold(SmallHost(module))


def replay_of(program: Program, module) -> Replay:
    return Replay(program, lambda: SmallHost(module))


def test_rewritten_code_keeps_file_and_lines(program: Program, module) -> None:
    replay_of(program, module).step(0, 0)
    twins = twins_of(program)
    for function in (module.outer, module.p0, module.p1):
        tree, code = source_of(function).tree, twins.twin(function).__code__
        assert code.co_filename == module.__file__ == function.__code__.co_filename
        assert code.co_firstlineno == function.__code__.co_firstlineno
        assert code.co_name == function.__name__
        span = range(tree.lineno, (tree.end_lineno or 0) + 1)
        lines = [line for _, _, line in code.co_lines() if line is not None]
        assert set(lines) <= set(span)
        yields = [i.positions for i in dis.get_instructions(code) if i.opname == "YIELD_VALUE"]
        assert yields and all(place and place.lineno in span for place in yields)
        statements = [n for n in ast.walk(tree) if isinstance(n, ast.stmt) and n is not tree]
        said = {n.lineno for n in statements if not is_text(n)}
        assert said <= set(lines), "every statement has its line"


def is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def line_now(replay: Replay, pid: int) -> tuple[str, int]:
    """The function and line at which a process stands: its innermost generator's."""
    generator = replay.processes[pid].generator
    frame = generator.gi_frame
    while generator is not None and getattr(generator, "gi_yieldfrom", None) is not None:
        generator = generator.gi_yieldfrom
        if (
            generator.gi_frame.f_code.co_filename
            == replay.host.processes[pid].function.__code__.co_filename
        ):
            frame = generator.gi_frame
    return frame.f_code.co_name, frame.f_lineno


def test_a_process_stands_at_the_line_of_its_next_step(program: Program, module) -> None:
    lines = declared(CODE).split("\n")
    replay = replay_of(program, module)
    replay.step(1, 0)
    replay.step(1, 0)
    stood = []
    while not replay.processes[0].done:
        name, line = line_now(replay, 0)
        boundary = replay.processes[0].steps.boundaries[replay.processes[0].pc]
        assert boundary.op is None or (name, line) == (boundary.op.where.function, line)
        if boundary.op is not None:
            stood.append((boundary.op.code, lines[line - 1].strip()))
        if not replay.step(0, 1):
            assert replay.step(1, 0)
    assert ("wait", "wait_until(host.box.n > 0)") in stood
    assert ("choose", "chosen = choose(2)") in stood
    assert all(code != "acquire" or text in ("with spin_lock(", "item.lk") for code, text in stood)


def test_the_debugger_sees_the_authors_lines_and_names(program: Program, module) -> None:
    """What pdb goes by: events of the author's lines, locals under the author's names."""
    lines, names = [], set()
    path = module.__file__

    def trace(frame, event, arg):
        if frame.f_code.co_filename != path:
            return None
        if event == "line":
            lines.append(frame.f_lineno)
            names.update(frame.f_locals)
        return trace

    replay = replay_of(program, module)
    old = sys.gettrace()
    sys.settrace(trace)
    try:
        for pid in (1, 1, 1, 0, 0, 0, 0):
            replay.step(pid, 0)
    finally:
        sys.settrace(old)
    text = declared(CODE).split("\n")
    ran = {text[line - 1].strip() for line in lines}
    assert {"wait_until(host.box.n > 0)", "chosen = choose(2)", "got = outer(host, item)"} <= ran
    assert {"host", "item", "x", "chosen"} <= names


def test_a_blocked_step_changes_nothing_and_can_be_retried(program: Program, module) -> None:
    replay = replay_of(program, module)
    assert replay.step(0, 0), "as far as the wait"
    before = replay.words()
    for _ in range(3):
        assert not replay.step(0, 0)
        assert replay.words() == before
        assert replay.processes[0].waits_for == 0, "a wait waits for nobody in particular"
        assert not replay.covered
    while replay.host.box.n == 0:
        assert replay.step(1, 0)
    assert replay.step(0, 0)
    assert replay.words() != before


def test_who_waits_for_a_lock_waits_for_its_holder(tmp_path) -> None:
    code = """
def p0(host):
    with read_lock(host.box.rw):
        host.box.n = 1

def p1(host):
    p0(host)

def p2(host):
    with write_lock(host.box.rw):
        host.box.n = 2
"""
    module = load(tmp_path, declared(code))
    program = fold(SmallHost(module), every=True)
    replay = replay_of(program, module)
    assert replay.step(0, 0) and replay.step(1, 0)
    assert not replay.step(2, 0) and replay.processes[2].waits_for == 0b11
    while not replay.processes[0].done:
        assert replay.step(0, 0)
    assert not replay.step(2, 0) and replay.processes[2].waits_for == 0b10
    while not replay.processes[1].done:
        assert replay.step(1, 0)
    assert replay.step(2, 0) and replay.processes[2].waits_for == 0
    assert replay.host.box.cells["rw"].owner == 2


def test_choices(program: Program, module) -> None:
    replay = replay_of(program, module)
    assert replay.choices(0) == replay.choices(1) == 1
    replay.step(1, 0)
    replay.step(1, 0)
    while replay.choices(0) == 1:
        if not replay.step(0, 0):
            assert replay.step(1, 0)
    assert replay.choices(0) == 2
    replay.step(0, 1)
    assert replay.host.items[0].n == 2, "choice 1 and the default"
    for _ in range(100):
        replay.step(0, 0)
        replay.step(1, 0)
    assert replay.choices(0) == replay.choices(1) == 0
    assert [replay.host.box.seen[k] for k in (0, 1)] == [replay.host.items[0].n, 1]


@pytest.mark.parametrize("seed", range(5))
def test_a_schedule_replays_to_the_same_states(seed: int) -> None:
    scenario, era, arch = find_scenario("dontneed_one"), Era("v6.1"), find_arch("arm64")
    program = fold_scenario(scenario, era, "arm64")
    make_host = partial(scenario.host, era, arch)
    rng = random.Random(seed)
    replay = Replay(program, make_host)
    schedule, seen = [], []
    while len(schedule) < 60:
        pid = rng.randrange(len(program.steps))
        choice = rng.randrange(max(1, replay.choices(pid)))
        if replay.choices(pid) and replay.step(pid, choice):
            schedule.append((pid, choice))
            seen.append((replay.words(), set(replay.covered), list(map(repr, replay.traced))))
    again = Replay(program, make_host)
    for (pid, choice), expected in zip(schedule, seen, strict=True):
        assert again.step(pid, choice)
        assert (again.words(), set(again.covered), list(map(repr, again.traced))) == expected


def test_two_replays_of_one_program_do_not_meet(program: Program, module) -> None:
    one, other = replay_of(program, module), replay_of(program, module)
    before = other.words()
    while not one.processes[1].done:
        assert one.step(1, 0)
    assert other.words() == before
    assert other.step(1, 0) and other.step(1, 0)
    assert (other.host.box.n, other.host.items[0].n) == (1, 3) and other.processes[1].done
    assert one.host.box.n == 1


def test_marks_and_tracepoints_are_those_of_the_last_step(program: Program, module) -> None:
    replay = replay_of(program, module)
    seen = []
    while not replay.processes[1].done:
        assert replay.step(1, 0)
        seen.append((set(replay.covered), list(replay.traced)))
    assert seen[-1] == ({"after"}, [(1, "stored", (3,))])
    assert all(step == (set(), []) for step in seen[:-1])


SNAPSHOTS = """
def p0(host):
    first = host.box.seq.snapshot()
    second = host.box.seq.snapshot()
    host.box.n = 1
    rec = Rec(seen=first)
    wait_until(host.box.flag)
    host.box.seen[0] = 1 if host.box.seq == first else 2
    second = host.box.seq.snapshot()
    host.box.seen[1] = 1 if second == host.box.seq else 2
    host.box.seen[2] = 1 if host.box.seq != rec.seen else 2
    host.box.seen[3] = 1 if host.box.seq == Rec().seen else 2

def p1(host):
    if choose(2) == 1:
        host.box.seq.bump()
        host.box.seq.bump()
    host.box.n = 2
    host.box.flag = True
"""


def marks_of(replay: Replay) -> set[int]:
    """The fresh/stale marks of the snapshots that process 0 may still ask about."""
    process, slots = replay.processes[0], replay.program.layout.frames[0].snapshots
    live = process.steps.boundaries[process.pc].live
    assert len(slots) > len([reg for reg in slots if reg in live]) == 2
    return {slots[reg].get(replay.words()) for reg in slots if reg in live}


@pytest.mark.parametrize("bumps", [0, 1])
def test_a_snapshot_is_fresh_until_a_bump(bumps: int, tmp_path) -> None:
    module = load(tmp_path, declared(SNAPSHOTS))
    program = fold(SmallHost(module))
    replay = replay_of(program, module)
    while replay.step(0, 0):
        pass
    assert marks_of(replay) == {1}
    while not replay.processes[1].done:
        assert replay.step(1, bumps if replay.choices(1) == 2 else 0)
    assert marks_of(replay) == {1 - bumps}
    while not replay.processes[0].done:
        assert replay.step(0, 0)
    assert [replay.host.box.seen[k] for k in range(4)] == [1 + bumps, 1, 2 - bumps, 2]
    assert replay.host.box.cells["seq"].value == 2 * bumps, "replay keeps an integer"


WRONG = [
    ("host.box.item.n = 1", "'NoneType' object has no attribute 'n'"),
    ("host.box.n += 3 + host.box.one", "Box.n: 4 is outside 0..3"),
    ("x = host.box.arr[host.box.one + 1]", r"Box.arr\[2\]: no such element"),
    ("bug_on(host.box.one == 1)", r"BUG_ON in p0\(\)"),
    (
        "lock(host.box.lk)\n    unlock(host.box.lk)\n    unlock(host.box.lk)",
        "Box.lk is released by",
    ),
]


@pytest.mark.parametrize(("code", "text"), WRONG)
def test_a_model_that_goes_wrong_says_so(code: str, text: str, tmp_path) -> None:
    other = "\ndef p1(host):\n    host.box.one = 1\n    host.box.item = None\n"
    source = declared(f"\ndef p0(host):\n    {code}\n{other}")
    module = load(tmp_path, source)
    replay = replay_of(fold(SmallHost(module)), module)
    with pytest.raises(ModelError, match=text) as caught:
        while replay.step(0, 0):
            pass
    at = caught.value.__cause__.__traceback__
    frames = []
    while at is not None:
        frames.append((at.tb_frame.f_code.co_filename, at.tb_lineno))
        at = at.tb_next
    own = [line for file, line in frames if file == module.__file__]
    wrong = source[: source.index(code) + len(code)].count("\n") + 1
    assert own[-1] == wrong, "the traceback shows the author's line"


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("x: Bounded(0, 1) = host.box.one + 1", "x: 2 is outside"),
        ("x: Bounded(0, 1) = 1\n    x += host.box.one", "x: 2 is outside"),
        ("rec = Rec(a=host.box.one + 3)", "Rec.a: 4 is outside"),
        ("rec = Rec()\n    rec.a = host.box.one + 3", "Rec.a: 4 is outside"),
        ("rec = Rec()\n    rec.a += host.box.one + 3", "Rec.a: 4 is outside"),
        ("x = Leaf(n=host.box.one + 2)", "Leaf.n: 3 is outside"),
        ("x = host.box.leaf.replace(n=host.box.one + 2)", "Leaf.n: 3 is outside"),
        ("x = host.items[host.box.one + 1]", "index: 2 is outside"),
        ("x = host.items[0 - host.box.one]", "index: -1 is outside"),
    ],
)
def test_what_explore_finds_wrong_is_wrong_in_replay(code: str, text: str, tmp_path) -> None:
    code += "\n    host.box.n = 1"
    module = load(
        tmp_path, declared(f"\ndef p0(host):\n    {code}\n\ndef p1(host):\n    host.box.one = 1")
    )
    program = fold(SmallHost(module))
    assert program.lowered.errors
    replay = replay_of(program, module)
    with pytest.raises(ModelError, match=text):
        replay.step(0, 0)


def test_a_process_that_has_finished_takes_no_step(program: Program, module) -> None:
    replay = replay_of(program, module)
    while not replay.processes[1].done:
        replay.step(1, 0)
    assert not replay.step(1, 0)
