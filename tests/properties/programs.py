"""Random process code: small programs as source text, from a grammar of the process language.

`Writer` takes any `random.Random`: a seeded one for a long campaign, one that Hypothesis draws
from for a test that shrinks.  `HAZARDS` names constructs that can be left out by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

PRELUDE = """
from mmuwitness.model.primitives import (
    atomic, bug_on, choose, cover, feature, lock, read_lock, spin_lock, trace, trylock, unlock,
    wait_until, warn_on, write_lock,
)
from mmuwitness.model.state import (
    Bool, Bounded, Field, Local, Lock, Ref, RwLock, Sequence, Snapshot, Struct, Value,
)


class Leaf(Value):
    odd = Bool()
    n = Bounded(-1, 2)
    item = Ref("Item")


class Item(Struct):
    pad = Field(Bounded(0, 1), array={pad})
    lk = Field(Lock())
    n = Field(Bounded(0, 3))
    arr = Field(Bounded(0, 2), array=2)
    leaf = Field(Leaf)


class Box(Struct):
    lk = Field(Lock())
    rw = Field(RwLock())
    seq = Field(Sequence())
    n = Field(Bounded(0, 3))
    neg = Field(Bounded(-2, 1))
    flag = Field(Bool())
    one = Field(Bounded(1, 3))
    item = Field(Ref("Item"))
    leaf = Field(Leaf)
    arr = Field(Bounded(0, 2), array={length})
    ghost = Field(Bounded(0, 3), ghost=True)


class Rec(Local):
    a = Bounded(0, 3)
    seen = Snapshot()
    item = Ref("Item")
"""

SCALARS = [("host.box.n", 0, 3), ("host.box.neg", -2, 1), ("host.box.one", 1, 3)]
LOCKS = ["host.box.lk", "host.box.rw", "host.items[0].lk", "host.items[1].lk"]

HAZARDS = frozenset(
    {
        "alias",  # a name bound to another name or to a field of a record that changes later
        "leaving",  # return, break or continue out of an atomic region that holds locks
        "again",  # acquiring a lock that the process holds
    }
)


def lock_key(text: str) -> str:
    """What locks are told apart by: the field, not the instance."""
    return "Box." + text[9:] if text.startswith("host.box.") else "Item.lk"


@dataclass(frozen=True)
class Scope:
    """What a statement may use: locals by type, the locks held, what surrounds it."""

    ints: tuple[tuple[str, int, int], ...] = ()
    mutable: tuple[tuple[str, int, int], ...] = ()
    bools: tuple[str, ...] = ()
    items: tuple[str, ...] = ()  # handles, surely not None
    maybe: tuple[str, ...] = ()  # handles that may be None
    leaves: tuple[str, ...] = ()
    snaps: tuple[str, ...] = ()
    records: tuple[str, ...] = ()
    held: frozenset[str] = frozenset()
    loop: bool = False
    loop_held: bool = False  # a lock is held that was taken inside the innermost loop
    any_held: bool = False  # a lock is held by a with statement of this function
    region: bool = False
    manual: bool = False  # inside lock() .. unlock(): control may not leave
    result: str = ""
    callable: bool = True

    def add(self, kind: str, *new: Any) -> Scope:
        return replace(self, **{kind: (*getattr(self, kind), *new)})


@dataclass
class Helper:
    """A function that processes call."""

    name: str
    result: str
    record: bool
    number: bool
    locks: frozenset[str]
    pure: bool
    text: list[str] = field(default_factory=list)


class Writer:
    """Writes one program.  fuel: about how many statements are left."""

    def __init__(self, rng: Random, allowed: frozenset[str] = frozenset()) -> None:
        self.rng, self.allowed = rng, allowed
        self.helpers: list[Helper] = []
        self.lines: list[str] = []
        self.indent, self.names, self.fuel = 1, 0, 0
        self.locks: set[str] = set()
        self.synced = False

    # -- drawing -----------------------------------------------------------------------------

    def chance(self, percent: int) -> bool:
        return self.rng.randrange(100) >= 100 - percent

    def pick(self, items: Any) -> Any:
        return items[self.rng.randrange(len(items))]

    def name(self, prefix: str) -> str:
        self.names += 1
        return f"{prefix}{self.names}"

    def put(self, text: str) -> None:
        self.lines.append("    " * self.indent + text)

    @contextmanager
    def block(self, header: str) -> Iterator[None]:
        self.put(header)
        self.indent += 1
        yield
        self.indent -= 1

    # -- expressions -------------------------------------------------------------------------

    def handle(self, scope: Scope, maybe: bool = False) -> str:
        """A handle; one that may be None if `maybe`, or rarely."""
        known = ["host.items[0]", "host.items[1]", *scope.items]
        if maybe or self.chance(4):
            known = ["host.box.item", "host.box.leaf.item", *scope.maybe, *known]
            known += [f"{r}.item" for r in scope.records]
        return str(self.pick(known))

    def leaf(self, scope: Scope, depth: int) -> str:
        plain = ["host.box.leaf", f"{self.handle(scope)}.leaf", *scope.leaves]
        if depth <= 0 or self.chance(50):
            return str(self.pick(plain))
        parts = []
        if self.chance(50):
            parts.append(f"odd={self.bool(scope, depth - 1)}")
        if self.chance(60):
            parts.append(f"n={self.fit(self.int(scope, depth - 1), -1, 2, local=True)}")
        if self.chance(40):
            parts.append(f"item={self.handle(scope, maybe=True)}")
        made = "Leaf" if self.chance(50) else f"{self.pick(plain)}.replace"
        return f"{made}({', '.join(parts)})"

    def fit(self, value: tuple[str, int, int], lo: int, hi: int, local: bool = False) -> str:
        """A number as one that a field takes; a shared field is sometimes left to its check."""
        text, low, high = value
        if lo <= low and high <= hi:
            return text
        if not local and self.chance(5):
            return text
        if low >= 0 == lo and hi == 3 and self.chance(40):
            return f"{text} & 3"
        text = text if low >= lo else f"max({text}, {lo})"
        return text if high <= hi else f"min({text}, {hi})"

    def copy(self, value: tuple[str, int, int]) -> tuple[str, int, int]:
        """A number that stays what it is: names and fields of records are computed with."""
        text, low, high = value
        plain = text.isidentifier() or text.startswith("rec")
        return value if not plain or "alias" in self.allowed else (f"{text} + 0", low, high)

    def index(self, scope: Scope, most: int) -> str:
        if self.chance(60):
            return str(self.rng.randrange(most + 1))
        return self.fit(self.int(scope, 1), 0, most)

    def atom(self, scope: Scope) -> tuple[str, int, int]:
        small = self.rng.randrange(3)
        some: list[tuple[str, int, int]] = [(str(small), small, small), *SCALARS]
        some += [*scope.ints, *scope.mutable] * 2
        some.append((f"{self.handle(scope)}.n", 0, 3))
        some.append((f"host.box.arr[{self.rng.randrange(3)}]", 0, 2))
        some += [(f"{r}.a", 0, 3) for r in scope.records]
        some += [(f"{p}.n", -1, 2) for p in scope.leaves]
        return self.pick(some)  # type: ignore[no-any-return]

    def int(self, scope: Scope, depth: int) -> tuple[str, int, int]:
        """(text, lowest, highest) of a number."""
        if depth <= 0 or self.chance(35):
            return self.atom(scope)
        a, low, high = self.int(scope, depth - 1)
        b, lower, higher = self.int(scope, depth - 1)
        which = self.rng.randrange(10)
        if which == 0:
            return f"({a} + {b})", low + lower, high + higher
        if which == 1:
            return f"({a} - {b})", low - higher, high - lower
        if which == 2:
            return f"min({a}, {b})", min(low, lower), min(high, higher)
        if which == 3:
            return f"max({a}, {b})", max(low, lower), max(high, higher)
        if which == 4:
            test = self.bool(scope, depth - 1)
            return f"({a} if {test} else {b})", min(low, lower), max(high, higher)
        if which == 5 and min(low, lower) >= 0 and max(high, higher) <= 7:
            sign = self.pick("&|^")
            return f"({a} {sign} {b})", 0, 7
        if which == 6 and low >= 0:
            return f"({a} >> 1)", low >> 1, high >> 1
        if which == 7:
            return f"(-{a})", -high, -low
        if which == 8:
            return f"host.box.arr[{self.index(scope, 2)}]", 0, 2
        called = self.call(scope, "int")
        return (called, -1, 3) if called else (a, low, high)

    def bool(self, scope: Scope, depth: int) -> str:
        which = self.rng.randrange(14 if depth > 0 else 5)
        if which <= 1:
            sign = self.pick(["==", "!=", "<", "<=", ">", ">="])
            return f"{self.int(scope, depth - 1)[0]} {sign} {self.rng.randrange(3)}"
        if which == 2:
            return str(self.pick(["host.box.flag", "host.box.leaf.odd", *scope.bools]))
        if which == 3:
            sign = self.pick(["is", "is not", "==", "!="])
            other = self.pick(["None", "host.items[0]"])
            if other != "None" and sign in ("is", "is not"):
                sign = "is"
            return f"{self.handle(scope, maybe=True)} {sign} {other}"
        if which == 4:
            snaps = [*scope.snaps, *(f"{r}.seen" for r in scope.records)]
            if snaps:
                return f"host.box.seq {self.pick(['==', '!='])} {self.pick(snaps)}"
            return "host.box.flag"
        a, b = self.bool(scope, depth - 1), self.bool(scope, depth - 1)
        if which <= 8:
            return f"({a} {self.pick(['and', 'or'])} {b})"
        if which == 9:
            return f"not ({a})"
        if which == 10:
            return f"({a}) == ({b})"
        if which == 11:
            return f"{self.leaf(scope, 1)} {self.pick(['==', '!='])} {self.leaf(scope, 0)}"
        if which == 12:
            return self.call(scope, "bool") or a
        return f"bool({self.int(scope, depth - 1)[0]})"

    # -- calls -------------------------------------------------------------------------------

    def call(self, scope: Scope, result: str) -> str:
        """A call of a helper with that result, or nothing."""
        fitting = [
            h
            for h in self.helpers
            if h.result == result
            and (h.pure or not scope.region)
            and (not h.locks & scope.held or "again" in self.allowed)
            and (not h.record or (scope.records and result in ("pair", "none")))
        ]
        if not scope.callable or not fitting:
            return ""
        helper = self.pick(fitting)
        self.locks |= helper.locks
        arguments = ["host"]
        if helper.number and self.chance(70):
            number = self.fit(self.copy(self.atom(scope)), 0, 3, local=True)
            arguments.append(number if self.chance(70) else f"x={number}")
        if helper.record:
            arguments.append(f"rec={self.pick(scope.records)}")
        return f"{helper.name}({', '.join(arguments)})"

    # -- statements --------------------------------------------------------------------------

    def body(self, scope: Scope, most: int) -> None:
        """Some statements, at least one."""
        start = len(self.lines)
        for _ in range(1 + self.rng.randrange(most)):
            if self.fuel <= 0:
                break
            self.fuel -= 1
            before = len(self.lines)
            changed = self.statement(scope)
            if changed is None:
                break  # control does not come here
            scope = changed
            if len(self.lines) == before:
                continue
        if len(self.lines) == start:
            self.put(f"host.box.n = {self.rng.randrange(4)}")

    def statement(self, scope: Scope) -> Scope | None:
        simple = [self.s_field, self.s_field, self.s_array, self.s_add, self.s_local, self.s_leaf]
        simple += [self.s_cover, self.s_bump, self.s_snapshot, self.s_handle, self.s_record]
        simple += [self.s_change, self.s_ghost, self.s_pair, self.s_leave, self.s_chain]
        nested = [self.s_if, self.s_if, self.s_for, self.s_call, self.s_guard]
        if not scope.region:
            nested += [self.s_atomic, self.s_while]
            sync = [self.s_with, self.s_with, self.s_with, self.s_lock, self.s_try, self.s_choose]
            sync += [self.s_wait, self.s_with_handle]
            nested += sync if scope.callable else []
        return self.pick(nested if self.chance(45) else simple)(scope)  # type: ignore[no-any-return]

    def s_field(self, scope: Scope) -> Scope:
        if self.chance(20):
            self.put(f"host.box.flag = {self.bool(scope, 2)}")
            return scope
        places = [*SCALARS, (f"{self.handle(scope)}.n", 0, 3)]
        place, lo, hi = self.pick(places)
        self.put(f"{place} = {self.fit(self.int(scope, 2), lo, hi)}")
        return scope

    def s_array(self, scope: Scope) -> Scope:
        if self.chance(60):
            place = f"host.box.arr[{self.index(scope, 2)}]"
        else:
            place = f"{self.handle(scope)}.arr[{self.index(scope, 1)}]"
        self.put(f"{place} = {self.fit(self.int(scope, 1), 0, 2)}")
        return scope

    def s_add(self, scope: Scope) -> Scope:
        """+= and -= on a field: outside of its range is an error of the model."""
        guarded = self.pick(["host.box.n", "host.box.arr[1]", f"{self.pick(LOCKS[2:])[:-3]}.n"])
        with self.block(f"if {guarded} < 2:"):
            self.put(f"{guarded} += {self.pick(['1', 'host.box.flag'])}")
        return scope

    def s_leaf(self, scope: Scope) -> Scope:
        self.put(f"{self.pick(['host.box', self.handle(scope)])}.leaf = {self.leaf(scope, 2)}")
        return scope

    def s_local(self, scope: Scope) -> Scope:
        which = self.rng.randrange(4)
        if which == 0:
            name = self.name("b")
            self.put(f"{name} = {self.bool(scope, 2)}")
            return scope.add("bools", name)
        if which == 1:
            name = self.name("p")
            self.put(f"{name} = {self.leaf(scope, 2)}")
            return scope.add("leaves", name)
        name = self.name("v")
        value, low, high = self.copy(self.int(scope, 2))
        if self.chance(50):
            self.put(f"{name} = {value}")
            return scope.add("ints", (name, low, high))
        self.put(f"{name}: Bounded(0, 3) = {self.fit((value, low, high), 0, 3, local=True)}")
        return scope.add("mutable", (name, 0, 3))

    def s_change(self, scope: Scope) -> Scope:
        """Another value for a local."""
        if not scope.mutable:
            return self.s_local(scope)
        name, lo, hi = self.pick(scope.mutable)
        if self.chance(30):
            self.put(f"{name} += {self.fit((f'{hi} - {name}', 0, hi), 0, 0, local=True)}")
            return scope
        self.put(f"{name} = {self.fit(self.copy(self.int(scope, 2)), lo, hi, local=True)}")
        return scope

    def s_chain(self, scope: Scope) -> Scope:
        """One value for two targets, or two values at once."""
        name = self.name("v")
        value, low, high = self.copy(self.int(scope, 1))
        if self.chance(50):
            self.put(f"{name} = host.box.n = {self.fit((value, low, high), 0, 3, local=True)}")
            return scope.add("ints", (name, 0, 3))
        if len(scope.mutable) >= 2 and self.chance(60):
            (a, *_), (b, *_) = self.pick(scope.mutable), self.pick(scope.mutable)
            plus = "" if "alias" in self.allowed else " + 0"
            self.put(f"{a}, {b} = {b}{plus}, {a}{plus}")
            return scope
        other = self.fit(self.copy(self.int(scope, 1)), 0, 3)
        self.put(f"{name}, host.box.n = {value}, {other}")
        return scope.add("ints", (name, low, high))

    def s_handle(self, scope: Scope) -> Scope:
        which = self.rng.randrange(3)
        if which == 0:
            self.put(f"host.box.item = {self.handle(scope, maybe=self.chance(60))}")
            return scope
        if which == 1:
            name = self.name("h")
            number = self.fit(self.int(scope, 1), 0, 1)
            self.put(f"{name} = host.items[{number}]")
            return scope.add("items", name)
        name = self.name("m")
        self.put(f"{name} = {self.pick(['host.box.item', 'host.box.leaf.item'])}")
        return scope.add("maybe", name)

    def s_guard(self, scope: Scope) -> Scope:
        """A handle that is looked at before it is followed."""
        name = self.name("h")
        self.put(f"{name} = {self.pick(['host.box.item', 'host.box.leaf.item'])}")
        with self.block(f"if {name} is not None:"):
            self.body(scope.add("items", name), 2)
        return scope.add("maybe", name)

    def s_record(self, scope: Scope) -> Scope:
        if scope.records and self.chance(60):
            record = self.pick(scope.records)
            which = self.rng.randrange(3)
            if which == 0:
                self.put(f"{record}.a = {self.fit(self.int(scope, 1), 0, 3, local=True)}")
            elif which == 1:
                self.put(f"{record}.seen = host.box.seq.snapshot()")
            else:
                self.put(f"{record}.item = {self.handle(scope, maybe=True)}")
            return scope
        name = self.name("rec")
        value = self.fit(self.copy(self.atom(scope)), 0, 3, local=True)
        parts = ["", f"a={value}", "seen=host.box.seq.snapshot()"]
        self.put(f"{name} = Rec({self.pick(parts)})")
        return scope.add("records", name)

    def s_ghost(self, scope: Scope) -> Scope:
        self.put(f"host.box.ghost = {self.fit(self.int(replace(scope, callable=False), 1), 0, 3)}")
        return scope

    def s_cover(self, scope: Scope) -> Scope:
        if self.chance(25):
            self.put(f"warn_on({self.bool(scope, 1)})")
        else:
            self.put(f'cover("{self.name("mark")}")')
        return scope

    def s_bump(self, scope: Scope) -> Scope:
        self.put("host.box.seq.bump()")
        return scope

    def s_snapshot(self, scope: Scope) -> Scope:
        name = self.name("s")
        self.put(f"{name} = host.box.seq.snapshot()")
        return scope.add("snaps", name)

    def s_if(self, scope: Scope) -> Scope:
        with self.block(f"if {self.bool(scope, 2)}:"):
            self.body(scope, 2)
        if self.chance(40):
            with self.block("else:"):
                self.body(scope, 2)
        return scope

    def s_for(self, scope: Scope) -> Scope:
        inside = replace(scope, loop=True, loop_held=False)
        if self.chance(50):
            name = self.name("i")
            with self.block(f"for {name} in range(2):"):
                self.body(inside.add("ints", (name, 0, 1)), 3)
        else:
            name = self.name("h")
            over = self.pick(["host.items", "(host.items[1], host.items[0])"])
            with self.block(f"for {name} in {over}:"):
                self.body(inside.add("items", name), 3)
        return scope

    def s_while(self, scope: Scope) -> Scope:
        inside = replace(scope, loop=True, loop_held=False)
        if self.chance(70):
            name = self.name("k")
            self.put(f"{name}: Bounded(0, 2) = 0")
            with self.block(f"while {name} < {1 + self.rng.randrange(2)}:"):
                self.put(f"{name} += 1")
                self.body(inside.add("ints", (name, 0, 2)), 3)
        else:
            with self.block(f"while {self.pick(['True', self.bool(scope, 1)])}:"):
                self.body(inside, 2)
                if not (self.lines[-1].strip() in ("break", "continue")):
                    self.put(self.pick(["break", "pass"]))
        return scope

    def s_leave(self, scope: Scope) -> Scope | None:
        """break, continue or return; rarely without a condition."""
        risky = scope.region and "leaving" not in self.allowed
        ways = []
        if scope.loop and not scope.manual and not (risky and scope.loop_held):
            ways += ["break", "continue"]
        if scope.result and not scope.manual and not (risky and scope.any_held):
            ways.append("return")
        if not ways:
            return self.s_field(scope)
        way = self.pick(ways)
        if way == "return":
            way = self.returned(scope)
        if self.chance(15):
            self.put(way)
            return None
        with self.block(f"if {self.bool(scope, 1)}:"):
            self.put(way)
        return scope

    def returned(self, scope: Scope) -> str:
        if scope.result == "none":
            return "return"
        number = self.fit(self.int(scope, 1), -1, 3, local=True)
        if scope.result == "int":
            return f"return {number}"
        if scope.result == "bool":
            return f"return {self.bool(scope, 1)}"
        return f"return {number}, {self.bool(scope, 1)}"
