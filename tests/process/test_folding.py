"""Folding keeps the meaning that Python gives the same text.

Each small program is run by both executors.  Those that are known to differ are marked: an
example of what `tests.properties.expressions.HAZARDS` names.
"""

from __future__ import annotations

import pytest

from mmuwitness.process.program import fold
from tests.process.worlds import SmallHost, declared, explored, load
from tests.properties.agreement import assert_verdicts_agree

OTHER = """

def p1(host):
    host.box.n = 2
    host.box.flag = True
    host.box.neg = -1
"""


def body(code: str) -> str:
    return "def p0(host):\n" + "".join(f"    {line}\n" for line in code.strip().split("\n"))


def assert_one_meaning(code: str, directory) -> None:
    module = load(directory, declared("\n\n" + (code if "def p0" in code else body(code)) + OTHER))
    for every in (False, True):
        graph = explored(fold(SmallHost(module), every=every))
        assert_verdicts_agree(graph, lambda: SmallHost(module))


SAME = {
    "order of evaluation": "host.box.seen[0] = host.box.n + max(host.box.neg, 0)",
    "value before target": "host.box.seen[host.box.n] = host.box.n",
    "chained targets": "x = host.box.one = host.box.n + 1\nhost.box.seen[0] = x",
    "conditional expression": "host.box.seen[0] = host.box.n if host.box.flag else 1",
    "and, or as values": "x = host.box.flag and host.box.n > 1\nhost.box.seen[0] = x or host.box.n",
    "not": "host.box.seen[0] = not host.box.n",
    "true is one": "host.box.seen[0] = host.box.flag + (host.box.flag == 1)",
    "negative numbers": "host.box.seen[0] = -host.box.neg\nhost.box.flag = host.box.neg < -host.box.one",
    "shifts": "host.box.seen[0] = host.box.n >> 1\nhost.box.seen[1] = (host.box.flag << 1) | 1",
    "a counter": "k: Bounded(0, 3) = 0\nwhile k < 3:\n    k += 1\n    if k == 2:\n        continue\n"
    "    host.box.seen[k] = host.box.n",
    "break": "for i in range(3):\n    if host.box.n == i:\n        break\n    host.box.seen[i] = 1",
    "while with a choice": "while choose(2) == 0:\n    if host.box.flag:\n        break",
    "a name that keeps its value": "x = host.box.n\ny = x\nx = 3\nhost.box.seen[0] = y",
    "a record by reference": """
def change(rec, a=2):
    rec.a = rec.a + a

def p0(host):
    rec = Rec(a=1)
    same = rec
    change(rec)
    change(a=0, rec=same)
    host.box.seen[0] = same.a + 0
""",
    "several returns": """
def pair(host, x=1):
    with spin_lock(host.box.lk):
        if host.box.flag:
            return x, host.box.n
        for item in host.items:
            with spin_lock(item.lk):
                if item.n == 0:
                    return host.box.n, 3
    return 0, 0

def p0(host):
    host.box.seen[0], b = pair(host, x=2)
    t = pair(host)
    host.box.seen[1] = b
    host.box.seen[2] = t[0]
""",
    "break and continue under a lock": """
def p0(host):
    k: Bounded(0, 2) = 0
    while k < 2:
        with spin_lock(host.box.lk):
            k += 1
            with write_lock(host.box.rw):
                if host.box.flag:
                    continue
                if host.box.n == 2:
                    break
        host.box.seen[k] = 1
""",
    "a lock whose variable changes": """
def p0(host):
    item = host.items[host.box.flag]
    with spin_lock(item.lk):
        item = host.items[0]
        item.n = 1

def p2(host):
    with spin_lock(host.items[1].lk):
        host.items[1].n = 2
""",
    "a lock returned held": """
def take(host):
    lock(host.box.lk)
    if host.box.flag:
        return True
    unlock(host.box.lk)
    return False

def p0(host):
    if take(host):
        host.box.seen[0] = host.box.n
        unlock(host.box.lk)

def p2(host):
    if trylock(host.box.lk):
        unlock(host.box.lk)
""",
    "values": """
def p0(host):
    leaf = Leaf(n=min(host.box.n, 2), item=host.items[1])
    host.box.leaf = leaf.replace(odd=host.box.flag)
    host.box.seen[0] = host.box.leaf.n + host.box.leaf.odd
    host.box.seen[1] = host.box.leaf == leaf
    host.box.seen[2] = host.box.leaf.item is host.items[1]
""",
    "handles": """
def p0(host):
    item = None
    if host.box.flag:
        item = host.items[1]
    host.box.item = item
    if host.box.item is not None:
        host.box.item.n = 3
        host.box.item.arr[1] += 1
    host.box.seen[0] = item == host.items[1]
""",
    "an unrolled loop that hands on": "for i in range(2):\n    if i == 0:\n        x = 1\n    else:\n"
    "        x = x + 1\nhost.box.seen[0] = x",
}


@pytest.mark.parametrize("name", SAME)
def test_one_meaning(name: str, tmp_path) -> None:
    assert_one_meaning(SAME[name], tmp_path)


DIFFERENT = {
    # a name, or an element of a tuple, stands for a register that changes later
    "swap": "a = 1\nb = 2\na = 1\nb = 2\na, b = b, a\nhost.box.seen[0] = a",
    "two names for two locals": "x = 1\ny = 2\nx = 1\ny = 2\na, b = x, y\nhost.box.seen[0] = a",
    "a field of a record, kept": "rec = Rec(a=1)\nold = rec.a\nrec.a = 2\nhost.box.seen[0] = old",
    "a field of a record beside a call": """
def change(rec):
    rec.a = 2
    return 0

def p0(host):
    rec = Rec(a=1)
    host.box.seen[0] = rec.a + change(rec)
""",
    "a field of a record as argument": """
def change(host, old, rec):
    rec.a = 2
    host.box.seen[0] = old

def p0(host):
    rec = Rec(a=1)
    change(host, rec.a, rec)
""",
    "a tuple of locals": "x = 1\nx = host.box.n\nt = (x, 1)\nx = 3\nhost.box.seen[0] = t[0]",
    "an array of a handle that changes": "item = host.items[0]\nitem = host.items[host.box.flag]\n"
    "arr = item.arr\nitem = host.items[0]\narr[0] = 1",
    "a name over iterations": "for i in range(2):\n    x = host.box.n\n    if i == 0:\n        y = x\n"
    "    else:\n        host.box.seen[0] = y",
    "a name in some iterations": "for i in range(2):\n    if i == 0 or host.box.flag:\n        y = i\n"
    "    host.box.seen[i] = y",
    "a record over iterations": "for i in range(2):\n    rec = Rec()\n    rec.a = i\n    if i == 0:\n"
    "        first = rec\n    else:\n        host.box.seen[0] = first.a",
    # one register for values of kinds that have nothing in common
    "kinds over iterations": "for of in (host.items[0], host.items[1]):\n    pass\n"
    "for part in (host.box.flag, host.box.leaf):\n    x = part\n    host.box.seen[0] = 1\n"
    "    host.box.seen[1] = x == x",
    # arithmetic
    "bits of negative numbers": "x = host.box.neg & 3\nhost.box.seen[0] = x\ny = host.box.neg | 1\n"
    "host.box.seen[1] = y < 0",
    "a negative number to the right": "host.box.seen[0] = (host.box.neg >> 1) + 1 == 0",
    # places
    "a lock out of a function": """
def the_lock(host):
    return host.items[host.box.flag].lk

def p0(host):
    with spin_lock(the_lock(host)):
        host.items[0].n = 1

def p2(host):
    with spin_lock(host.items[0].lk):
        host.items[0].n = 2
""",
    "an array through None": "host.box.seen[0] = 1\nhost.box.item.arr[0] = host.box.n\n"
    "host.box.item = host.items[0]",
    # what one executor checks and the other does not
    "a wait that writes": """
def ready(host):
    host.box.n = 1
    return host.box.flag

def p0(host):
    wait_until(ready(host))
    host.box.seen[0] = host.box.n
""",
    "arguments of a tracepoint": 'trace("name", host.box.item.n)\nhost.box.item = None',
    "a ghost through None": """
class Pond(Struct):
    ghost = Field(Bool(), ghost=True)
    n = Field(Bounded(0, 3))

class Bank(Struct):
    pond = Field(Ref("Pond"))

def wire(host):
    host.ponds = host.world.add(Pond, 2)
    host.bank = host.world.add(Bank)[0]

def p0(host):
    pond = host.bank.pond
    if host.box.flag:
        host.box.seen[0] = 1
    pond.ghost = True
    pond.n = 1

def p2(host):
    host.bank.pond = host.ponds[1]
    host.bank.pond = None
""",
    "ghost state read by a process": "host.box.ghost = 1\nhost.box.seen[0] = host.box.ghost",
    # locks of one process alone are left out
    "a lock taken twice": "lock(host.box.lk)\nhost.box.seen[0] = 1\nlock(host.box.lk)",
    "trylock of a lock that it holds": "a = trylock(host.box.lk)\nhost.box.seen[0] = trylock(host.box.lk)",
    # code after a call that never returns
    "what comes after a call that never returns": """
def never(host):
    while True:
        wait_until(host.box.flag)

def p0(host):
    a, b = never(host)
""",
    "a loop that always returns": """
def first(host):
    for i in range(3):
        if i == 1:
            return i

def p0(host):
    host.box.seen[0] = first(host)
""",
    "a function of a module": """
from mmuwitness.model import primitives as kernel

def p0(host):
    with kernel.spin_lock(host.box.lk):
        host.box.seen[0] = 1

def p2(host):
    with spin_lock(host.box.lk):
        host.box.seen[0] = 2
""",
}


@pytest.mark.xfail(strict=True, reason="the executors differ, or one of them fails")
@pytest.mark.parametrize("name", DIFFERENT)
def test_known_difference(name: str, tmp_path) -> None:
    assert_one_meaning(DIFFERENT[name], tmp_path)
