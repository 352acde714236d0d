"""Random expressions of the process language: numbers, truths, handles, value structs.

Drawn from any `random.Random`: a seeded one for a long campaign, one that Hypothesis draws from
for a test that shrinks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Any

Number = tuple[str, int, int]
"""The text of a number, its lowest and its highest value."""

SCALARS: list[Number] = [("host.box.n", 0, 3), ("host.box.neg", -2, 1), ("host.box.one", 1, 3)]
SEQUENCES = ["host.box.seq", "host.counters[0].seq", "host.counters[1].seq"]


@dataclass(frozen=True)
class Scope:
    """What a statement may use: locals by type, the locks held, what surrounds it."""

    ints: tuple[Number, ...] = ()
    mutable: tuple[Number, ...] = ()
    bools: tuple[str, ...] = ()
    items: tuple[str, ...] = ()  # handles that are not None
    maybe: tuple[str, ...] = ()  # handles that may be None
    leaves: tuple[str, ...] = ()
    snaps: tuple[tuple[str, str], ...] = ()  # and the sequence of each
    records: tuple[str, ...] = ()
    held: frozenset[str] = frozenset()  # lock fields
    loop: bool = False
    loop_held: bool = False  # a lock that was taken inside the innermost loop is held
    any_held: bool = False  # a lock taken in this function is held
    region: bool = False
    manual: bool = False  # between lock() and unlock(): control may not leave
    result: str = "none"
    calls: bool = True
    risks: bool = True  # it may follow a handle that is None

    def add(self, kind: str, new: Any) -> Scope:
        return replace(self, **{kind: (*getattr(self, kind), new)})


@dataclass
class Helper:
    """A function that processes call.  pure: it may stand in an atomic region."""

    name: str
    result: str
    record: bool
    locks: frozenset[str]
    pure: bool


class Expressions:
    """Writes expressions.  length: of the arrays named arr."""

    def __init__(self, rng: Random, length: int) -> None:
        self.rng, self.length = rng, length
        self.helpers: list[Helper] = []
        self.locks: set[str] = set()

    def chance(self, percent: int) -> bool:
        return self.rng.randrange(100) >= 100 - percent

    def pick(self, items: Any) -> Any:
        return items[self.rng.randrange(len(items))]

    def handle(self, scope: Scope, risks: bool = True) -> str:
        """A handle that is not None, or rarely one that may be."""
        if risks and scope.risks and self.chance(2):
            return self.maybe(scope)
        return str(self.pick(["host.items[0]", "host.items[1]", *scope.items]))

    def maybe(self, scope: Scope) -> str:
        """A handle that may be None."""
        known = ["host.box.item", "host.box.leaf.item", *scope.maybe, *scope.items]
        known += ["host.items[0]", *(f"{r}.item" for r in scope.records)]
        return str(self.pick(known))

    def leaf(self, scope: Scope, depth: int) -> str:
        """A value struct."""
        plain = ["host.box.leaf", f"{self.handle(scope)}.leaf", *scope.leaves]
        if depth <= 0 or self.chance(50):
            return str(self.pick(plain))
        parts = []
        if self.chance(50):
            parts.append(f"odd={self.truth(scope, depth - 1)}")
        if self.chance(60):
            parts.append(f"n={self.fit(self.number(scope, depth - 1), -1, 2)}")
        if self.chance(40):
            parts.append(f"item={self.maybe(scope)}")
        made = "Leaf" if self.chance(50) else f"{self.pick(plain)}.replace"
        return f"{made}({', '.join(parts)})"

    def fit(self, value: Number, lo: int, hi: int) -> str:
        """A number as one of lo..hi; sometimes the check at run time is left to find it is not."""
        text, low, high = value
        if lo <= low and high <= hi:
            return text
        if self.chance(10):
            return text
        if lo == 0 <= low and hi == 3 and self.chance(40):
            return f"{text} & 3"
        text = text if low >= lo else f"max({text}, {lo})"
        return text if high <= hi else f"min({text}, {hi})"

    def index(self, scope: Scope) -> str:
        """An index into an array: near its start, or near its end."""
        if self.chance(50):
            return str(self.pick([0, 1, self.length - 1]))
        low = self.fit(self.number(scope, 1), 0, 2 if self.length > 2 else 1)
        return f"{self.length - 3} + ({low})" if self.length > 2 and self.chance(40) else low

    def local(self, scope: Scope) -> list[Number]:
        """The numbers that a process has to itself."""
        some = [*scope.ints, *scope.mutable, *((f"{r}.a", 0, 3) for r in scope.records)]
        return [*some, *((f"{p}.n", -1, 2) for p in scope.leaves)]

    def atom(self, scope: Scope) -> Number:
        some = self.local(scope)
        if some and self.chance(45):
            return self.pick(some)
        small = self.rng.randrange(3)
        some = [(str(small), small, small), *SCALARS, (f"{self.handle(scope)}.n", 0, 3)]
        some.append((f"host.box.arr[{self.rng.randrange(2)}]", 0, 2))
        return self.pick(some)

    def number(self, scope: Scope, depth: int) -> Number:
        if depth <= 0 or self.chance(35):
            return self.atom(scope)
        a, low, high = self.number(scope, depth - 1)
        b, lower, higher = self.number(scope, depth - 1)
        lowest, highest = min(low, lower), max(high, higher)
        which = self.rng.randrange(10)
        if which == 0:
            return f"({a} + {b})", low + lower, high + higher
        if which == 1:
            return f"({a} - {b})", low - higher, high - lower
        if which == 2:
            return f"min({a}, {b})", lowest, min(high, higher)
        if which == 3:
            return f"max({a}, {b})", max(low, lower), highest
        if which == 4:
            return f"({a} if {self.truth(scope, depth - 1)} else {b})", lowest, highest
        if which == 5 and lowest >= -8 and highest <= 7:
            return f"({a} {self.pick('&|^')} {b})", 0 if lowest >= 0 else -8, 7
        if which == 6:
            return f"({a} >> 1)", low >> 1, high >> 1
        if which == 7:
            return f"(-{a})", -high, -low
        if which == 8:
            return f"host.box.arr[{self.index(scope)}]", 0, 2
        called = self.call(scope, "number")
        return (called, -1, 3) if called else (a, low, high)

    def truth(self, scope: Scope, depth: int) -> str:
        which = self.rng.randrange(15 if depth > 0 else 5)
        if which == 0:
            return str(self.pick(["host.box.flag", "host.box.leaf.odd", *scope.bools]))
        if which <= 2:
            sign = self.pick(["==", "!=", "<", "<=", ">", ">="])
            return f"{self.number(scope, depth - 1)[0]} {sign} {self.rng.randrange(3)}"
        if which == 3:
            sign = self.pick(["is", "is not", "==", "!="])
            other = self.pick(["None", "host.items[0]"])
            return f"{self.maybe(scope)} {sign} {other}"
        if which == 4:
            snaps = [*scope.snaps, *((f"{r}.seen", SEQUENCES[0]) for r in scope.records)]
            if not snaps:
                return "host.box.flag"
            name, sequence = self.pick(snaps)
            return f"{sequence} {self.pick(['==', '!='])} {name}"
        a, b = self.truth(scope, depth - 1), self.truth(scope, depth - 1)
        if which <= 9:
            return f"({a} {self.pick(['and', 'or'])} {b})"
        if which == 10:
            return f"(not ({a}))"
        if which == 11:
            return f"(({a}) == ({b}))"
        if which == 12:
            return f"({self.leaf(scope, 1)} {self.pick(['==', '!='])} {self.leaf(scope, 0)})"
        if which == 13:
            return self.call(scope, "truth") or a
        return f"bool({self.number(scope, depth - 1)[0]})"

    def call(self, scope: Scope, result: str) -> str:
        """A call of a helper with that result, or nothing."""
        fitting = [
            h
            for h in self.helpers
            if h.result == result
            and (h.pure or not scope.region)
            and (not h.locks & scope.held or self.chance(3))
            and (not h.record or scope.records)
        ]
        if not scope.calls or not fitting:
            return ""
        helper = self.pick(fitting)
        self.locks |= helper.locks
        arguments = ["host"]
        if self.chance(70):
            number = self.fit(self.atom(scope), 0, 3)
            arguments.append(number if self.chance(70) else f"x={number}")
        if helper.record:
            arguments.append(f"rec={self.pick(scope.records)}")
        return f"{helper.name}({', '.join(arguments)})"
