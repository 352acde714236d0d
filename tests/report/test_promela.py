"""A small program as Promela, as it is read; and what cannot be written in it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from mmuwitness.report.promela.model import promela_text
from mmuwitness.report.promela.statements import bare
from mmuwitness.report.promela.variables import Names, TooWide, Variable
from tests.process.worlds import fold_code

SMALL = """
def p0(host):
    seen = host.box.seq.snapshot()
    with spin_lock(host.box.lk):
        if host.box.seq != seen and host.box.n < 3:
            host.box.n += 1
            cover("another time")
    host.box.item = None

def p1(host):
    item = host.items[choose(2)]
    with spin_lock(host.box.lk):
        host.box.item = item
        host.box.leaf = Leaf(n=2, item=item)
        host.box.seq.bump()
    wait_until(host.box.n == 1 or host.box.item is None)
    with read_lock(host.box.rw):
        host.box.leaf = host.box.leaf.replace(odd=True)

def p2(host):
    with write_lock(host.box.rw):
        if trylock(item_of(host).lk):
            host.box.arr[host.box.n & 1] = min(host.box.n, 2)
            unlock(item_of(host).lk)

def item_of(host):
    return host.items[0]

def p3(host):
    with spin_lock(host.items[0].lk):
        host.box.ghost = 1

def claim0(host):
    for item in host.items:
        if host.box.leaf.item is item and host.box.leaf.n != 2:
            return False
    return host.box.ghost == 0 or host.box.n < 3
"""


def test_a_small_program(golden: Callable[[str, str], None], tmp_path: Path) -> None:
    program = fold_code(tmp_path, SMALL, (("lk", "rw"),))
    text = promela_text(program, "A small program.")
    golden("promela-small.pml", re.sub(r"code\d+\.py", "code.py", text))


def test_a_number_that_promela_does_not_have(tmp_path: Path) -> None:
    code = """
def p0(host):
    host.box.n = 1 if (host.box.n + 1) << 40 == 1 else 2

def p1(host):
    host.box.n = 3
"""
    with pytest.raises(TooWide, match=r"in p0 may be .*: Promela's numbers have 31 bits"):
        promela_text(fold_code(tmp_path, code), "wide")


def test_names_are_promelas_own_and_unique() -> None:
    names = Names()
    asked = ["do", "do", "a.b", "a_b", "7", "é", "_t"]
    assert [names.unique(each) for each in asked] == [
        "do_2",
        "do_3",
        "a_b",
        "a_b_2",
        "n7",
        "x",
        "t",
    ]


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        (Variable("x", 0, 1), "bit x;"),
        (Variable("x", 0, 3, (2,)), "unsigned x : 2 = 2;"),
        (Variable("x", 0, 255), "byte x;"),
        (Variable("x", 0, 256), "unsigned x : 9;"),
        (Variable("x", 0, 1 << 16), "int x;"),
        (Variable("x", -1, 1), "short x;"),
        (Variable("x", 0, 1, (0, 1)), "byte x[2] = { 0, 1 };"),
        (Variable("x", 0, 256, (0, 0)), "short x[2];"),
        (Variable("x", -(1 << 20), 1, (0, 0)), "int x[2];"),
        (Variable("x", 0, 1, hidden=True), "hidden int x;"),
    ],
)
def test_a_variable_has_the_narrowest_type(variable: Variable, expected: str) -> None:
    assert variable.declaration() == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(a + b)", "a + b"),
        ("(a) + (b)", "(a) + (b)"),
        ("(a -> b : c)", "(a -> b : c)"),
        ("((a -> b : c) + 1)", "(a -> b : c) + 1"),
        ("a", "a"),
    ],
)
def test_parentheses_around_the_whole(text: str, expected: str) -> None:
    assert bare(text) == expected
