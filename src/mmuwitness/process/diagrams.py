"""Decision diagrams: functions of finitely many variables with finite ranges, each kept once.

Two functions are equal if and only if they are the same diagram, whatever way each was computed.
A diagram is a number: a leaf (any hashable value), or a variable with one diagram for each of its
values.  Variables are ordered by their names.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from itertools import starmap
from typing import Any

NODES_MAX = 400_000


class TooLarge(Exception):
    """A function has too large a diagram to go on."""


class Diagrams:
    """Makes diagrams.  kids[d]: the diagrams below d, None for a leaf; label[d]: its variable, or
    the value of the leaf."""

    def __init__(self, variables: Sequence[tuple[Hashable, Sequence[int]]]) -> None:
        """variables: each with its values, in order."""
        self.rank = {name: position for position, (name, _) in enumerate(variables)}
        self.values = [tuple(values) for _, values in variables]
        self.names = [name for name, _ in variables]
        self.label: list[Any] = []
        self.kids: list[tuple[int, ...] | None] = []
        self.made: dict[Any, int] = {}
        self.applied: dict[Any, int] = {}
        self.chosen: dict[tuple[int, int, int], int] = {}
        self.false, self.true = self.leaf(0), self.leaf(1)

    def leaf(self, value: Hashable) -> int:
        return self.keep((type(value), value), value, None)

    def node(self, rank: int, kids: tuple[int, ...]) -> int:
        first = kids[0]
        if kids.count(first) == len(kids):
            return first
        return self.keep((rank, kids), rank, kids)

    def keep(self, key: Any, label: Any, kids: tuple[int, ...] | None) -> int:
        found = self.made.get(key)
        if found is None:
            found = self.made[key] = len(self.label)
            if found > NODES_MAX:
                raise TooLarge
            self.label.append(label)
            self.kids.append(kids)
        return found

    def variable(self, name: Hashable) -> int:
        rank = self.rank[name]
        return self.node(rank, tuple(self.leaf(value) for value in self.values[rank]))

    def apply(self, function: Callable[..., Hashable], *of: int) -> int:
        """The diagram of function(...) of the values of some diagrams."""
        key = (function, of)
        found = self.applied.get(key)
        if found is not None:
            return found
        inner = [self.label[d] for d in of if self.kids[d] is not None]
        if not inner:
            made = self.leaf(function(*(self.label[d] for d in of)))
        else:
            top = min(inner)
            below = zip(*(self.below(d, top) for d in of), strict=True)
            made = self.node(top, tuple(starmap(self.applier(function), below)))
        self.applied[key] = made
        return made

    def applier(self, function: Callable[..., Hashable]) -> Callable[..., int]:
        return lambda *of: self.apply(function, *of)

    def below(self, d: int, rank: int) -> tuple[int, ...]:
        """What d comes to for each value of a variable at or above its own."""
        kids = self.kids[d]
        if kids is not None and self.label[d] == rank:
            return kids
        return (d,) * len(self.values[rank])

    def choose(self, test: int, yes: int, no: int) -> int:
        """yes where the test is not 0, else no."""
        if yes == no or test == self.true:
            return yes
        if test == self.false:
            return no
        key = (test, yes, no)
        found = self.chosen.get(key)
        if found is None:
            found = self.chosen[key] = self.choose_below(test, yes, no)
        return found

    def choose_below(self, test: int, yes: int, no: int) -> int:
        tests, yeses, noes = self.kids[test], self.kids[yes], self.kids[no]
        if tests is None:
            return yes if self.label[test] else no
        top = self.label[test]
        if yeses is not None and self.label[yes] < top:
            top = self.label[yes]
        if noes is not None and self.label[no] < top:
            top = self.label[no]
        many = len(self.values[top])
        sides = zip(
            tests if self.label[test] == top else (test,) * many,
            yeses if yeses is not None and self.label[yes] == top else (yes,) * many,
            noes if noes is not None and self.label[no] == top else (no,) * many,
            strict=True,
        )
        return self.node(top, tuple([self.choose(*side) for side in sides]))

    def both(self, a: int, b: int) -> int:
        return self.choose(a, b, self.false)

    def either(self, a: int, b: int) -> int:
        return self.choose(a, self.true, b)

    def invert(self, a: int) -> int:
        return self.choose(a, self.false, self.true)

    def renamed(self, d: int, rename: Renaming) -> int:
        """The same function of renamed variables with renamed values."""
        kids = self.kids[d]
        if kids is None:
            return d
        key = (rename, d)
        found = self.applied.get(key)
        if found is None:
            below = [self.renamed(kid, rename) for kid in kids]
            found = self.applied[key] = self.renamed_node(self.label[d], below, rename)
        return found

    def renamed_node(self, rank: int, kids: list[int], rename: Renaming) -> int:
        name = self.names[rank]
        other = self.rank[rename.variable(name)]
        by_value = {
            rename.value(name, value): kid
            for value, kid in zip(self.values[rank], kids, strict=True)
        }
        if all(self.kids[kid] is None or self.label[kid] > other for kid in kids):
            return self.node(other, tuple([by_value[value] for value in self.values[other]]))
        made = self.leaf(None)
        for value, kid in by_value.items():
            made = self.choose(self.test(other, value), kid, made)
        return made

    def test(self, rank: int, value: int) -> int:
        """True where a variable has a value."""
        return self.node(
            rank, tuple(self.true if v == value else self.false for v in self.values[rank])
        )


class Renaming:
    """How variables and their values are renamed: a permutation of each."""

    def variable(self, name: Any) -> Any:
        raise NotImplementedError

    def value(self, name: Any, value: int) -> int:
        raise NotImplementedError
