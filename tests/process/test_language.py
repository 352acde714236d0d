"""What the process language refuses: an error names the author's line, the place, and a way out.

In the sources below a caret on a line of its own stands under the place that the error points to;
the line is taken out before the code is folded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest

from mmuwitness.explore.replay import ModelError, Replay
from mmuwitness.process.errors import ProcessError
from mmuwitness.process.program import fold
from tests.process.worlds import SmallHost, declared, explored, load


@dataclass(frozen=True)
class Marked:
    """Source without its caret, and the line and column (from 1 and 0) where the caret was."""

    text: str
    line: int
    column: int


def marked(source: str) -> Marked:
    lines = declared(source).split("\n")
    at = next(number for number, line in enumerate(lines) if line.strip() == "^")
    column = lines.pop(at).index("^")
    return Marked("\n".join(lines), at, column)


def process(code: str) -> str:
    """These statements as the body of a process."""
    return "\ndef p0(host):\n" + "".join(f"    {line}\n" for line in code.split("\n"))


def refused(name: str, code: str, message: str, hint: str = "", marks: object = ()) -> object:
    return pytest.param(code, message, hint, id=name, marks=marks)


SYNTAX = [
    refused("lambda", "x = lambda: 1\n    ^", "a lambda cannot be used in process code"),
    refused("try", "try:\n^\n    pass\nexcept ValueError:\n    pass", "except cannot be used"),
    refused("raise", "raise ValueError\n^", "raise cannot be used"),
    refused("assert", "assert host.box.n\n^", "'Assert' cannot be used"),
    refused("import", "import os\n^", "'Import' cannot be used"),
    refused("global", "global LIMIT\n^", "global cannot be used"),
    refused("del", "del host\n^", "del cannot be used"),
    refused("yield", "yield 1\n^", "yield cannot be used"),
    refused("nested function", "def inner():\n^\n    pass", "a nested function cannot be used"),
    refused("comprehension", "x = [i for i in (1,)]\n    ^", "a comprehension cannot be used"),
    refused("generator", "x = max(i for i in (1,))\n       ^", "a generator expression cannot"),
    refused("list", "x = [1]\n    ^", "a list display cannot be used"),
    refused("dict", "x = {}\n    ^", "a dict display cannot be used"),
    refused("f-string", 'cover(f"{host}")\n      ^', "an f-string cannot be used"),
    refused("walrus", "x = (y := 1)\n     ^", "'NamedExpr' cannot be used"),
    refused("slice", "x = host.items[0:1]\n               ^", "'Slice' cannot be used"),
    refused("star", "x = min(*host.items)\n        ^", "a starred argument cannot be used"),
    refused(
        "chained comparison",
        "if 0 < host.box.n < 2:\n   ^\n    pass",
        "a comparison can have two sides only",
        "write `a <= b and b < c`",
    ),
    refused(
        "while-else",
        "while host.box.n < 2:\n^\n    pass\nelse:\n    pass",
        "a loop cannot have an else",
    ),
    refused("for an element", "for host.box.n in (1,):\n    ^\n    pass", "assigns to locals only"),
    refused("**", "takes(**host)\n        ^", "*args and **kwargs cannot be used"),
    refused("for-else", "for i in (1,):\n^\n    pass\nelse:\n    pass", "cannot have an else"),
    refused("in", "x = host.box.n in (1, 2)\n    ^", "In cannot be used"),
    refused("floor division", "x = host.box.n // 2\n    ^", "FloorDiv cannot be used"),
    refused("//=", "host.box.n //= 2\n^", "FloorDiv cannot be used"),
    refused("~", "x = ~host.box.n\n    ^", "Invert cannot be used"),
]

NAMES = [
    refused("unknown name", "host.box.n = nothing\n             ^", "nothing has no value here"),
    refused(
        "only on one path",
        "if host.box.flag:\n    x = 1\nhost.box.n = x\n             ^",
        "x may have no value here",
        "assign it before the branch or the loop, too",
    ),
    refused(
        "unknown field",
        "x = host.box.nope\n    ^",
        "box has no nope",
        "it has: arr, cells, fields, flag, fresh_cell, ghost",
    ),
    refused(
        "unknown field through a handle",
        "x = host.box.item.nope\n    ^",
        ".nope is not a field, and differs between instances",
    ),
    refused(
        "unknown part of a value",
        "x = host.box.leaf.nope\n    ^",
        "Leaf has no field nope",
        "it has: odd, n, item",
    ),
    refused("part of a new value", "x = Leaf(nope=1)\n    ^", "Leaf has no field nope", "it has:"),
    refused(
        "replaced part of a value",
        "x = host.box.leaf.replace(nope=1)\n    ^",
        "Leaf has no field nope",
        "it has: odd, n, item",
    ),
    refused(
        "unknown field of a record",
        "rec = Rec()\nx = rec.nope\n    ^",
        "Rec has no nope",
        "it has: a, seen, item",
    ),
    refused(
        "assignment to an unknown field",
        "host.box.nope = 1\n^",
        ".nope is not a field that can be assigned",
    ),
    refused(
        "assignment to an unknown field of a record",
        "rec = Rec()\nrec.nope = 1\n^",
        "Rec.nope is not a field",
        "a, seen, item",
    ),
    refused("too many arguments", "takes(host, 1, 2)\n^", "takes() takes (host, a)"),
    refused("an argument twice", "takes(host, 1, a=2)\n^", "takes() takes (host, a)"),
    refused("unknown argument", "takes(host, b=2)\n^", "takes() takes (host, a)"),
    refused(
        "+= through a shared index",
        "host.box.arr[host.box.n] += 1\n^",
        "the target of += reads shared state on the way",
        "bind what it reads to a local first",
    ),
    refused(
        "+= through a shared handle",
        "host.box.item.n += 1\n^",
        "the target of += reads shared state on the way",
        "bind what it reads to a local first",
    ),
    refused("the whole array", "host.box.arr = 1\n^", "Box.arr"),
    refused("a sequence as a number", "host.box.seq = 1\n^", "Box.seq"),
    refused("a lock as a number", "host.box.lk = host.box.n\n^", "Box.lk"),
    refused(
        "+= with a choice in the target",
        "host.box.arr[choose(2)] += 1\n^",
        "the target of +=",
    ),
    refused(
        "a local that grows",
        "i = 0\nwhile host.box.flag:\n    i += 1\n    ^",
        "i grows without bound in a loop of p0",
        "give it a range: `i: Bounded(lo, hi) = ...`",
    ),
]

KINDS = [
    refused("a handle in a number", "host.box.n = host.box.item\n^", "Box.n: a Ref does not fit"),
    refused("another struct", "host.box.item = host.box\n^", "Box.item: box is not a Item"),
    refused("too large", "host.box.n = 4\n^", "Box.n: 4 is outside 0..3"),
    refused("no such element", "host.box.arr[2] = 1\n^", "Box.arr[]: 2 is outside 0..1"),
    refused("a value is no number", "x = host.box.leaf + 1\n    ^", "only numbers can be computed"),
    refused("truth of a value", "if host.box.leaf:\n   ^\n    pass", "neither true nor false"),
    refused("not of a value", "x = not host.box.leaf\n    ^", "neither true nor"),
    refused("not of a snapshot", "x = not host.box.seq.snapshot()\n    ^", "neither true nor"),
    refused("truth of a known value", "x = bool(Leaf())\n    ^", "neither true nor false"),
    refused("truth of an array", "if host.box.arr:\n   ^\n    pass", "is always true"),
    refused("minus a handle", "x = -host.box.item\n    ^", "only numbers can be computed"),
    refused("the smaller handle", "x = min(host.box.item, None)\n    ^", "only numbers can be"),
    refused(
        "identity of values", "x = host.box.leaf is Leaf()\n    ^", "`is` is for handles", "=="
    ),
    refused("64 bits", "x = host.box.n << 62\n    ^", "may need more than 64 bits"),
    refused("an index below zero", "x = host.items[-1]\n    ^", "the index -1 is outside 0..1"),
    refused("a part out of range", "x = Leaf(n=9)\n    ^", "Leaf: 9 is outside -1..2"),
    refused("a value of 80 bits", "x = Wide(a=host.box.n)\n    ^", "Wide has 80 bits; at most 64"),
    refused("a number and None", "x = host.box.n == None\n    ^", "a number and None cannot be"),
    refused("order of a number and None", "x = host.box.n < None\n    ^", "cannot be"),
    refused(
        "order of a number and a handle",
        "x = host.box.neg - 2 < host.box.item\n    ^",
        "cannot be compared",
    ),
    refused("order of handles", "x = host.box.item < host.items[0]\n    ^", "Item has no order"),
    refused("order of values", "x = host.box.leaf < Leaf()\n    ^", "Leaf has no order"),
    refused("two structs", "x = host.box.item == host.box\n    ^", "Item and Box cannot be"),
    refused(
        "identity of numbers",
        "x = host.box.flag is True\n    ^",
        "`is` is for handles",
        "write == or !=",
    ),
    refused("a sequence and a number", "x = host.box.seq == 1\n    ^", "has no meaning", "by =="),
    refused(
        "order of sequences",
        "x = host.box.seq < host.box.seq.snapshot()\n    ^",
        "this comparison has no meaning",
        "with its own snapshot only",
    ),
    refused(
        "two snapshots",
        "a = host.box.seq.snapshot()\nb = host.box.seq.snapshot()\nx = a == b\n    ^",
        "a snapshot and a snapshot cannot be compared",
        "compare it with its sequence",
    ),
    refused(
        "a snapshot of another sequence",
        "a = host.box.seq.snapshot()\nx = host.counters[0].seq == a\n    ^",
        "compared with a sequence that is not its own",
        "a local of its own",
    ),
    refused(
        "a snapshot of another object",
        "a = host.counters[1].seq.snapshot()\nx = host.counters[0].seq == a\n    ^",
        "compared with a sequence that is not its own",
    ),
    refused(
        "a snapshot of one or the other",
        "a = host.box.seq.snapshot()\n"
        "if host.box.flag:\n    a = host.counters[0].seq.snapshot()\n    ^",
        "of one sequence or of another",
    ),
    refused(
        "a sequence known only in a run",
        "host.counters[host.box.n].seq.bump()\n^",
        "Counter.seq of several objects",
        "known when the host is wired",
    ),
    refused("a sequence has no value", "host.box.seq.peek()\n^", "has no peek", "bump(), snapshot"),
    refused("lengths", "a, b = 1, 2, 3\n^", "the two sides have different lengths"),
    refused(
        "two declarations",
        "x: Bounded(0, 3) = 0\nx: Bounded(0, 4) = 1\n^",
        "x is declared twice, with different ranges",
    ),
    refused("no kind", "x: int = 3\n^", "this annotation is not a kind", "name: Bounded(lo, hi)"),
    refused("two kinds", "x = 1\nx = host.box.item\n^", "x is assigned values of different kinds"),
    refused("different shapes", "x = several(host)\n    ^", "the returns have different shapes"),
    refused("different results", "x = mixed(host)\n    ^", "values of different kinds meet here"),
    refused(
        "a record returned",
        "rec = made(host)\n      ^",
        "a record cannot be returned",
        "make it in the caller and pass it down",
    ),
    refused("positional parts of a record", "rec = Rec(1)\n      ^", "Rec is built by keyword"),
    refused("a constant out of a list", "x = host.items[2]\n    ^", "the index 2 is outside 0..1"),
    refused(
        "a list of numbers", "x = TABLE[host.box.n]\n    ^", "instances of a struct that follow"
    ),
    refused("arithmetic of constants", "x = 1 + None\n    ^", "unsupported operand"),
    refused(
        "a negative shift", "x = 1 << host.box.neg\n    ^", "a number from 0 to 62", "-2..1 here"
    ),
    refused("options of a builtin", "x = sorted(TABLE, reverse=True)\n    ^", "no keywords"),
]

PRIMITIVES = [
    refused(
        "spin_lock without with",
        "spin_lock(host.box.lk)\n^",
        "spin_lock() is used as a statement of its own",
        "write `with spin_lock(...):`",
    ),
    refused(
        "atomic without with", 'x = atomic("why")\n    ^', "as a statement", "with atomic(...)"
    ),
    refused(
        "with lock()", "with lock(host.box.lk):\n^\n    pass", "in a with", "with spin_lock(x)"
    ),
    refused("with as", "with spin_lock(host.box.lk) as x:\n^\n    pass", "one item without `as`"),
    refused(
        "two locks in one with",
        "with spin_lock(host.box.lk), write_lock(host.box.rw):\n^\n    pass",
        "one item without `as`",
    ),
    refused(
        "shared hold of a plain lock",
        "with read_lock(host.box.lk):\n     ^\n    pass",
        "Box.lk cannot be held shared",
        "declare it as RwLock()",
    ),
    refused("no lock", "lock(host.box.n)\n^", "this is not a lock"),
    refused("unknown choice", "x = choose(host.box.n)\n    ^", "choose(n) takes a number known"),
    refused("no choice", "x = choose(0)\n    ^", "choose(n) takes a number known"),
    refused("unknown mark", "cover(host.box.n)\n^", "cover() takes a text"),
    refused("arguments by name", "x = choose(n=2)\n    ^", "choose() takes one argument"),
    refused("no reason", "with atomic(host.box.n):\n     ^\n    pass", "takes the reason, a text"),
    refused("a mark as a value", 'x = cover("mark")\n    ^', "cover() has no value", "a statement"),
    refused("another name", "take = lock\ntake(host.box.lk)\n^", "called by the name that it is"),
    refused(
        "a tracepoint that may go wrong",
        'trace("name", host.box.item.n)\n^',
        "an argument of trace() does more than read",
        "bind what it needs to a local first",
    ),
    refused(
        "ghost state in a store",
        "x = host.box.ghost + 1\nhost.box.n = x\n^",
        "what a process does depends on ghost state",
        "for claims, and for other ghost updates",
    ),
    refused(
        "ghost state in a branch",
        "if host.box.ghost == 1:\n    host.box.n = 1\n    ^",
        "what a process does depends on ghost state",
    ),
    refused(
        "a wait for ghost state",
        "wait_until(host.box.ghost == 0)\nhost.box.n = 1\n^",
        "what a process does depends on ghost state",
    ),
    refused(
        "a tracepoint that branches",
        'trace("name", 1 if host.box.flag else 2)\n^',
        "an argument of trace() does more than read",
    ),
    refused("no wait", "wait_until(True)\n^", "this is always True"),
    refused("wait as a value", "x = wait_until(host.box.flag)\n    ^", "has no value"),
    refused("wait that writes", "wait_until(writes(host))\n^", "cannot change anything"),
    refused(
        "loop over the unknown",
        "for i in range(host.box.n):\n         ^\n    pass",
        "range() cannot be called with values known only in a run",
    ),
    refused(
        "loop over a number", "for i in host.box.n:\n^\n    pass", "a for loop runs over", "use"
    ),
    refused(
        "lock in an atomic region",
        'with atomic("so"):\n    with spin_lock(host.box.lk):\n    ^\n        pass',
        "a lock cannot be taken inside an atomic region",
    ),
    refused(
        "lock() in an atomic region, of a lock that one process uses",
        'with atomic("so"):\n    lock(host.box.lk)\n    ^',
        "cannot stand in an atomic region",
    ),
    refused(
        "while in an atomic region",
        'with atomic("so"):\n    while host.box.n < 3:\n    ^\n        host.box.n += 1',
        "a while loop in an atomic region may not end",
    ),
    refused(
        "wait in an atomic region",
        'with atomic("so"):\n    wait_until(host.box.flag)\n    ^',
        "wait cannot stand in an atomic region",
    ),
    refused(
        "choice in an atomic region",
        'with atomic("so"):\n    choose(2)\n    ^',
        "choose cannot stand in an atomic region",
    ),
]

HELPERS = """
TABLE = (1, 2, 3)

class Wide(Value):
    a = Bounded(0, (1 << 40) - 1)
    b = Bounded(0, (1 << 40) - 1)

def takes(host, a=1):
    return a

def made(host):
    return Rec()

def several(host):
    if host.box.flag:
        return 1, 2
    return 1

def mixed(host):
    if host.box.flag:
        return 1
    return host.box.item

def writes(host):
    host.box.n = 1
    return host.box.flag
"""


@pytest.mark.parametrize(("code", "message", "hint"), [*SYNTAX, *NAMES, *KINDS, *PRIMITIVES])
def test_refused(code: str, message: str, hint: str, tmp_path) -> None:
    source = marked(HELPERS + process(code))
    with pytest.raises(ProcessError) as caught:
        fold(SmallHost(load(tmp_path, source.text)))
    assert_points_to(caught.value, source, message, hint)


def assert_points_to(error: ProcessError, source: Marked, message: str, hint: str = "") -> None:
    assert error.where is not None
    said = str(error).split("\n")
    assert said[0].startswith(f"{error.where.file}:{source.line}: in {error.where.function}(): ")
    assert message in said[0]
    assert said[1] == "    " + source.text.split("\n")[source.line - 1]
    assert said[2] == " " * (4 + source.column) + "^"
    assert hint in "".join(said[3:])


WRONG = [
    # (statements, the text of the error, and of replay's; the caret marks the line)
    ("unlock(host.box.lk)\n^", "Box.lk is released by one who does not hold it", ""),
    ("lock(host.box.lk)\nunlock(host.box.lk)\nunlock(host.box.lk)\n^", "Box.lk is released", ""),
    (
        "with spin_lock(host.box.lk):\n^\n    unlock(host.box.lk)",
        "Box.lk is released by one who does not hold it",
        "",
    ),
    ("host.box.item.n = 1\n^", "None used as a Item", "'NoneType' object has no attribute 'n'"),
    ("x = host.box.item.n\n^", "None used as a Item", "'NoneType' object has no attribute 'n'"),
    (
        "x = host.box.arr[host.box.one + 1]\n^",
        "Box.arr[]: the value is outside its range 0..1",
        "[2]",
    ),
    ("host.box.arr[host.box.neg - 1] = 1\n^", "Box.arr[]: the value is outside its range", "[-1]"),
    ("host.box.n += host.box.one + 3\n^", "Box.n: the value is outside its range 0..3", "Box.n: 4"),
    (
        "host.box.neg = 0 - host.box.one - 2\n^",
        "Box.neg: the value is outside its range -2..1",
        "-3",
    ),
    ("bug_on(host.box.one == 1)\n^", "BUG_ON in p0()", "BUG_ON in p0()"),
    ("host.box.leaf = Leaf(n=host.box.one + 2)\n^", "Leaf.n: the value is outside its range", "3"),
]

OTHER = """
def p1(host):
    with spin_lock(host.box.lk):
        host.box.one = 1
        host.box.neg = 0
        host.box.item = None
"""


@pytest.mark.parametrize(("code", "message", "replayed"), WRONG)
def test_wrong_at_run_time(code: str, message: str, replayed: str, tmp_path) -> None:
    """The error names field, function and line; replay stops with a ModelError."""
    source = marked(process(code) + OTHER)
    module = load(tmp_path, source.text)
    program = fold(SmallHost(module))
    graph = explored(program)
    place = f"p0() {module.__name__}.py:{source.line}: "
    assert [error for error in graph.errors if error.startswith(place + message)]
    assert len(graph.errors) == 1
    replay = Replay(program, lambda: SmallHost(module))
    with pytest.raises(ModelError, match=re.escape(replayed or message)):
        while replay.step(0, 0):
            pass


SOME = """
def wire(host):
    host.last = host.items[1:]

def p0(host):
    host.last[host.box.flag].n = 3

def p1(host):
    host.box.flag = True
"""


def test_an_index_into_some_of_the_instances(tmp_path) -> None:
    graph = explored(fold(SmallHost(load(tmp_path, declared(SOME)), items=3)))
    assert not graph.errors
    assert graph.final("Item.n") == {(0, 3, 0), (0, 0, 3)}
