"""Folding keeps the meaning that Python gives the same text.

Each small program is run by both executors, with merged steps and with each access a step; what
random programs of tests/properties found once is among them.
"""

from __future__ import annotations

import pytest

from mmuwitness.process.program import fold
from tests.process.worlds import SmallHost, declared, explored, load
from tests.properties.agreement import assert_verdicts_agree

NEEDS = [("lk",)]
"""claim0 needs host.box.lk free."""

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
        graph = explored(fold(SmallHost(module, NEEDS), every=every))
        assert_verdicts_agree(graph, lambda: SmallHost(module, NEEDS))


SAME = {
    "order of evaluation": "host.box.seen[0] = host.box.n + max(host.box.neg, 0)",
    "value before target": "host.box.seen[host.box.n] = host.box.n",
    "chained targets": """
x = host.box.one = host.box.n + 1
host.box.seen[0] = x
""",
    "conditional expression": "host.box.seen[0] = host.box.n if host.box.flag else 1",
    "and, or as values": """
x = host.box.flag and host.box.n > 1
host.box.seen[0] = x or host.box.n
""",
    "not": "host.box.seen[0] = not host.box.n",
    "true is one": "host.box.seen[0] = host.box.flag + (host.box.flag == 1)",
    "negative numbers": """
host.box.seen[0] = -host.box.neg
host.box.flag = host.box.neg < -host.box.one
""",
    "shifts": """
host.box.seen[0] = host.box.n >> 1
host.box.seen[1] = (host.box.flag << 1) | 1
""",
    "a counter": """
k: Bounded(0, 3) = 0
while k < 3:
    k += 1
    if k == 2:
        continue
    host.box.seen[k] = host.box.n
""",
    "break": """
for i in range(3):
    if host.box.n == i:
        break
    host.box.seen[i] = 1
""",
    "while with a choice": """
while choose(2) == 0:
    if host.box.flag:
        break
""",
    "a name that keeps its value": """
x = host.box.n
y = x
x = 3
host.box.seen[0] = y
""",
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
        host.box.item.arr[1] = host.box.item.arr[0]
    host.box.seen[0] = item == host.items[1]
""",
    "an unrolled loop that adds up": """
x: Bounded(0, 3) = host.box.n
for i in range(2):
    if x < 3:
        x = x + i
host.box.seen[0] = x
""",
    "swap": """
a = 1
b = 2
a = 1
b = 2
a, b = b, a
host.box.seen[0] = a
host.box.seen[1] = b
""",
    "two names for two locals": """
x = 1
y = 2
x = 1
y = 2
a, b = x, y
host.box.seen[0] = a
""",
    "a field of a record, kept": """
rec = Rec(a=1)
old = rec.a
rec.a = 2
host.box.seen[0] = old
""",
    "a tuple of locals": """
x = 1
x = host.box.n
t = (x, 1)
x = 3
host.box.seen[0] = t[0]
""",
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
    "an array of a handle that changes": """
item = host.items[0]
item = host.items[host.box.flag]
arr = item.arr
item = host.items[0]
arr[0] = 1
""",
    "a name over iterations": """
for i in range(2):
    x = host.box.n
    if i == 0:
        y = x
    else:
        host.box.seen[0] = y
""",
    "a name in some iterations": """
for i in range(2):
    if i == 0 or host.box.flag:
        y = i
    host.box.seen[i] = y
""",
    "kinds over iterations": """
class Word(Struct):
    part = Field(Bool())

class Page(Struct):
    part = Field(Leaf)

def wire(host):
    host.both = [host.world.add(Word)[0], host.world.add(Page)[0]]

def p0(host):
    for of in host.both:
        x = of.part
        host.box.n = 1
        host.box.flag = False
        of.part = x

def p2(host):
    host.both[1].part = Leaf(odd=True, n=2)
""",
    "bits of negative numbers": """
x = host.box.neg & 3
host.box.seen[0] = x
y = host.box.neg | 1
host.box.seen[1] = y < 0
""",
    "a negative number to the right": "host.box.seen[0] = (host.box.neg >> 1) + 1 == 0",
    "an array through None": """
host.box.seen[0] = 1
host.box.item.arr[0] = host.box.n
host.box.item = host.items[0]
""",
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
    "a lock taken twice": """
lock(host.box.lk)
host.box.seen[0] = 1
lock(host.box.lk)
""",
    "trylock of a lock that it holds": """
a = trylock(host.box.lk)
host.box.seen[0] = trylock(host.box.lk)
""",
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
    "a local of the round before": """
for i in range(3):
    if i > 0:
        host.box.seen[i] = y
    y = host.box.n
""",
    "a declaration that is not folded": """
if feature.off:
    x: Bounded(0, 1) = 0
else:
    x = host.box.n
host.box.seen[0] = x
""",
    "an argument that is declared": """
def f(host, x=1):
    x: Bounded(0, 2) = x + 1
    host.box.seen[0] = x

def p0(host):
    f(host, host.box.n)
    f(host)
""",
    "a declared local in every way of assigning": """
x: Bounded(0, 2) = 0
x += host.box.one
y = 1
x, y = y, host.box.n
for x in range(3):
    host.box.seen[x] = y
""",
    "targets of a for loop": """
for (i, item) in ((0, host.items[1]), (1, host.items[0])):
    if host.box.flag:
        item.n = i
    host.box.seen[i] = item.n
""",
    "a field of a record assigned while its target is computed": """
def change(rec):
    rec.a = 1
    return 0

def p0(host):
    rec = Rec(a=3)
    host.box.seen[change(rec)] = rec.a
    t = (rec.a, change(rec), rec)
    host.box.seen[1] = t[0]
    rec.a += change(rec) + 1
    host.box.seen[2] = rec.a
""",
    "a local of an earlier round": """
k: Bounded(0, 3) = 0
y = 0
while k < 3:
    x = host.box.n
    if k == 0:
        y = x
    if k == 2:
        host.box.seen[0] = y
    k += 1
""",
    "a call that never returns on one side": """
def never(host):
    while True:
        wait_until(host.box.flag)

def p0(host):
    if host.box.flag and never(host):
        host.box.seen[0] = 1
    host.box.seen[1] = 2 if host.box.n == 0 else never(host)
    wait_until(host.box.n == 2)
    host.box.seen[2] = 1
""",
    "an index of an array of a handle": """
host.box.item = host.items[0]
host.box.seen[0] = host.box.item.arr[min(host.box.n, 1)]
host.box.item = None
host.box.seen[1] = host.box.item.arr[choose(2)]
""",
    "a constant of a handle": """
host.box.seen[0] = 1
x = host.box.item.world
host.box.seen[1] = 1
""",
    "a ghost out of range": """
host.box.seen[0] = 1
host.box.ghost = host.box.n + 2
host.box.seen[1] = host.box.n
""",
    "a ghost that is counted": """
host.box.ghost += 2
host.box.seen[0] = host.box.n
if host.box.ghost == 2:
    host.box.ghost += 2
""",
    "a ghost in a claim": """
def p0(host):
    host.box.ghost += 2
    host.box.seen[0] = host.box.n
    host.box.ghost += 2

def claim0(host):
    return host.box.ghost == 0 or host.box.n == 0
""",
    "a lock that is dropped by one who does not hold it": """
def p0(host):
    if trylock(host.items[0].lk):
        host.items[host.box.n].n = 1
        unlock(host.items[0].lk)
    unlock(host.items[0].lk)
""",
    "a read lock dropped as a write lock": """
with read_lock(host.box.rw):
    unlock(host.box.rw)
""",
    "the lock of another handle is dropped": """
one = host.items[host.box.flag]
lock(one.lk)
other = host.items[host.box.flag]
unlock(other.lk)
""",
    "a lock that is waited for in vain": """
def p0(host):
    lock(host.box.lk)

def p2(host):
    with spin_lock(host.box.lk):
        host.box.seen[0] = 1
""",
    "sequences of two": """
def remembers(host, counter):
    seen = counter.seq.snapshot()
    host.box.n += 1
    host.box.seen[host.box.n] = counter.seq == seen

def p0(host):
    for counter in host.counters:
        remembers(host, counter)

def p1(host):
    host.box.one = 2
    host.counters[1].seq.bump()
    seen = host.counters[0].seq.snapshot()
    host.box.one = 3
    host.box.flag = host.counters[0].seq != seen

def claim0(host):
    return host.box.seen[1] == 1

def claim1(host):
    return not host.box.flag
""",
    "a claim that needs a lock of one process": """
def p0(host):
    with spin_lock(host.box.lk):
        host.box.seen[0] = 1
        wait_until(host.box.n == 2)
        host.box.seen[0] = 0

def claim0(host):
    return host.box.seen[0] == 0
""",
}


@pytest.mark.parametrize("name", SAME)
def test_one_meaning(name: str, tmp_path) -> None:
    assert_one_meaning(SAME[name], tmp_path)
