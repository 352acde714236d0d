"""Small changes of process code: a statement dropped, a lock not taken, a check decided, two
statements swapped, a comparison or a range changed.  Each is what a careless patch might do.

A mutation is an edit of the text of one function.  The mutant is compiled from the edited text
under a file name of its own, so that errors and timelines show what ran.
"""

from __future__ import annotations

import ast
import linecache
import types
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, fields, replace
from functools import cache
from itertools import pairwise
from pathlib import Path

from mmuwitness.model.sizes import Sizes
from mmuwitness.model.state import Struct
from mmuwitness.process.language import qualified_name, source_of

LOCKS = {"spin_lock", "read_lock", "write_lock"}
MARKS = {"trace", "cover", "warn_on", "bug_on"}
"""Primitives that do nothing to the host."""

WIRED = {"gmem", "gpc_list", "interval_sub", "last_memslot", "nr_first_pages"}
"""Further constants: what a host has, or None or nothing."""

OBSERVER = "observe_"
"""Begins the names of functions that look at what the kernel did."""

PAIRED = {"lock", "unlock"}
"""Dropped alone, the other half is an error of the language."""

COMPARISONS: dict[type, tuple[str, str]] = {
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
}
"""How each is written, and what takes its place."""

ORDER = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)


@dataclass(frozen=True)
class Edit:
    """The text from one place to another (line from 1, column in characters) and what follows."""

    first: tuple[int, int]
    last: tuple[int, int]
    text: str


@dataclass(frozen=True)
class Mutation:
    """One change of one function.  kind: "drop", "lock", "check", "swap", "compare", "range",
    "logic" or "value".  was, now: the text it changes.  nth: of those of its function that say the
    same of themselves."""

    function: types.FunctionType
    kind: str
    line: int
    was: str
    now: str
    edits: tuple[Edit, ...]
    nth: int = 1

    @property
    def name(self) -> str:
        """What names it while other lines of the file come and go."""
        return f"{self.function.__qualname__}: {self.text}"

    @property
    def text(self) -> str:
        return self.change if self.nth == 1 else f"{self.change}, {self.nth}"

    @property
    def change(self) -> str:
        if self.kind == "drop":
            return f"without `{self.was}`"
        if self.kind == "lock":
            return f"without the lock of `{self.was}`"
        if self.kind == "swap":
            return f"`{self.now}` before `{self.was}`"
        if self.kind == "check":
            return f"`{self.was}` taken as {self.now}"
        return f"`{self.now}` in place of `{self.was}`"

    def overrides(self) -> dict[str, types.FunctionType]:
        """The mutant, under the name that the model calls."""
        return {qualified_name(self.function): self.mutant()}

    def mutant(self) -> types.FunctionType:
        original = self.function
        path = original.__code__.co_filename
        lines = list(file_lines(path))
        for edit in sorted(self.edits, key=lambda each: each.first, reverse=True):
            apply(lines, edit)
        name = f"{path}~{abs(hash((self.edits, path))):x}"
        text = "".join(lines)
        linecache.cache[name] = (len(text), None, lines, name)
        first = original.__code__.co_firstlineno
        found = [
            node
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.FunctionDef)
            and min([node.lineno, *(d.lineno for d in node.decorator_list)]) == first
        ]
        made: dict[str, types.FunctionType] = {}
        exec(compile(ast.Module([found[0]], []), name, "exec"), original.__globals__, made)
        mutant = made[original.__name__]
        mutant.__qualname__, mutant.__module__ = original.__qualname__, original.__module__
        return mutant


@cache
def file_lines(path: str) -> tuple[str, ...]:
    return tuple(Path(path).read_text().splitlines(keepends=True))


def apply(lines: list[str], edit: Edit) -> None:
    """What follows keeps its line: a shorter text is padded with line ends."""
    (line, column), (end, end_column) = edit.first, edit.last
    tail = lines[end - 1][end_column:]
    padding = "\n" * (end - line - edit.text.count("\n"))
    made = (lines[line - 1][:column] + edit.text + tail + padding).splitlines(keepends=True)
    lines[line - 1 : end] = made


def mutations(function: types.FunctionType, alone: Collection[str] = ()) -> list[Mutation]:
    """Every mutation of a function, in the order of its lines.  alone: names of fields and wired
    constants that no kernel has: what stores them or asks for them is left alone."""
    found = sorted(Mutator(function, alone).all(), key=lambda each: each.line)
    seen: Counter[str] = Counter()
    for number, each in enumerate(found):
        seen[each.change] += 1
        found[number] = replace(each, nth=seen[each.change])
    return found


class Mutator:
    """Finds the places of one function where a mutation can be made."""

    def __init__(self, function: types.FunctionType, alone: Collection[str]) -> None:
        self.function, self.alone = function, set(alone)
        self.tree = source_of(function).tree
        self.lines = file_lines(function.__code__.co_filename)

    def all(self) -> Iterator[Mutation]:
        skipped = self.skipped()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.With):
                yield from self.locks(node)
            elif isinstance(node, ast.If):
                yield from self.checks(node)
            elif isinstance(node, ast.Compare) and node not in skipped:
                yield self.compared(node)
            elif (
                isinstance(node, ast.BoolOp)
                and len(node.values) == 2
                and not self.left_alone(node)
                and not only_features(node)
            ):
                yield self.joined(node)
            elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
                yield from self.ranges(node)
            elif isinstance(node, ast.Return | ast.keyword):
                yield from self.values(node)
            for body in (getattr(node, "body", None), getattr(node, "orelse", None)):
                if isinstance(body, list):
                    yield from self.block(body)

    def skipped(self) -> set[ast.AST]:
        """Comparisons of marks; and of checks, which are taken as either, those for equality."""
        found: set[ast.AST] = set()
        for node in ast.walk(self.tree):
            if name_called(node) in MARKS:
                found.update(ast.walk(node))
            elif isinstance(node, ast.If) and isinstance(node.test, ast.Compare):
                found |= set() if isinstance(node.test.ops[0], ORDER) else {node.test}
        return found

    # -- text ------------------------------------------------------------------------------

    def at(self, node: ast.AST) -> tuple[int, int]:
        line, column = node.lineno, node.col_offset  # type: ignore[attr-defined]
        return line, len(self.lines[line - 1].encode()[:column].decode())

    def end(self, node: ast.AST) -> tuple[int, int]:
        line, column = node.end_lineno, node.end_col_offset  # type: ignore[attr-defined]
        return line, len(self.lines[line - 1].encode()[:column].decode())

    def between(self, first: tuple[int, int], last: tuple[int, int]) -> str:
        if first[0] == last[0]:
            return self.lines[first[0] - 1][first[1] : last[1]]
        middle = self.lines[first[0] : last[0] - 1]
        parts = [self.lines[first[0] - 1][first[1] :], *middle, self.lines[last[0] - 1][: last[1]]]
        return "".join(parts)

    def text(self, node: ast.AST) -> str:
        return self.between(self.at(node), self.end(node))

    def made(self, kind: str, node: ast.AST, now: str, *edits: Edit, was: str = "") -> Mutation:
        was, now = (" ".join(each.split()) for each in (was or self.text(node), now))
        return Mutation(self.function, kind, self.at(node)[0], was, now, edits)

    def replaced(self, kind: str, node: ast.AST, now: str) -> Mutation:
        return self.made(kind, node, now, Edit(self.at(node), self.end(node), now))

    # -- kinds -----------------------------------------------------------------------------

    def locks(self, node: ast.With) -> Iterator[Mutation]:
        if any(name_called(call) in LOCKS for item in node.items for call in ast.walk(item)):
            last = self.end(node.items[-1].context_expr)
            was = self.between(self.at(node), last)
            yield self.made("lock", node, "", Edit(self.at(node), last, "if True"), was=was)

    def checks(self, node: ast.If) -> Iterator[Mutation]:
        """A question about the kernel is none about its state: that is `--needed FEATURE`."""
        if not only_features(node.test) and not self.left_alone(node.test):
            for now in ("False", "True"):
                yield self.replaced("check", node.test, now)

    def compared(self, node: ast.Compare) -> Mutation:
        """Parentheses may stand between the operator and what it compares."""
        was, now = COMPARISONS[type(node.ops[0])]
        first, last = self.end(node.left), self.at(node.comparators[0])
        gap = self.between(first, last).replace(was, now)
        left, right = self.between(self.at(node), first), self.between(last, self.end(node))
        return self.made("compare", node, left + gap + right, Edit(first, last, gap))

    def joined(self, node: ast.BoolOp) -> Mutation:
        now = "or" if isinstance(node.op, ast.And) else "and"
        left, right = (f"({self.text(each)})" for each in node.values)
        return self.replaced("logic", node, f"{left} {now} {right}")

    def ranges(self, node: ast.BinOp) -> Iterator[Mutation]:
        """One page more, one page less."""
        if isinstance(node.right, ast.Constant) and node.right.value == 1:
            yield self.replaced("range", node, self.text(node.left))
            yield self.replaced("range", node.right, "2")

    def values(self, node: ast.Return | ast.keyword) -> Iterator[Mutation]:
        value = node.value
        if isinstance(value, ast.Constant) and isinstance(value.value, bool):
            now = Edit(self.at(value), self.end(value), str(not value.value))
            before = self.between(self.at(node), self.at(value))
            yield self.made("value", node, before + now.text, now)

    def block(self, body: list[ast.stmt]) -> Iterator[Mutation]:
        acting = [statement for statement in body if self.acts(statement)]
        for statement in acting:
            yield self.made(
                "drop", statement, "", Edit(self.at(statement), self.end(statement), "pass")
            )
        for first, second in pairwise(acting):
            between = body[body.index(first) + 1 : body.index(second)]
            if all(is_simple(each) for each in between) and not depend(first, second):
                texts = self.text(first), self.text(second)
                yield self.made(
                    "swap",
                    first,
                    texts[1],
                    Edit(self.at(first), self.end(first), texts[1]),
                    Edit(self.at(second), self.end(second), texts[0]),
                )

    def left_alone(self, node: ast.AST) -> bool:
        named = {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}
        return bool(named & self.alone)

    def acts(self, node: ast.stmt) -> bool:
        """It changes the host, or may."""
        if isinstance(node, ast.Expr):
            name = name_called(node.value)
            called = isinstance(node.value, ast.Call)
            return called and name not in MARKS | PAIRED and not name.startswith(OBSERVER)
        if isinstance(node, ast.Assign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            stored = [t.value if isinstance(t, ast.Subscript) else t for t in targets]
            names = {t.attr for t in stored if isinstance(t, ast.Attribute)}
            return bool(names) and not names <= self.alone
        return False


def name_called(node: ast.AST) -> str:
    """The function that is called by its plain name, or ""."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return node.func.id
    return ""


def only_features(test: ast.expr) -> bool:
    """Made of `feature.NAME` alone."""
    if isinstance(test, ast.BoolOp):
        return all(only_features(each) for each in test.values)
    if isinstance(test, ast.UnaryOp):
        return only_features(test.operand)
    return (
        isinstance(test, ast.Attribute)
        and isinstance(test.value, ast.Name)
        and test.value.id == "feature"
    )


def is_simple(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr | ast.Assign | ast.AugAssign)


def depend(first: ast.stmt, second: ast.stmt) -> bool:
    """One assigns a local that the other uses: swapped, they would not mean the same values."""

    def names(node: ast.AST, kind: type) -> set[str]:
        return {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, kind)}

    stored = names(first, ast.Store) | names(second, ast.Store)
    used = names(first, ast.Load) | names(second, ast.Load)
    return bool(stored & used)


def not_of_a_kernel() -> frozenset[str]:
    """The fields that claims keep their books in, and the constants that a scenario chooses."""
    ghosts = {
        name for cls in Struct.__subclasses__() for name, each in cls.fields.items() if each.ghost
    }
    return frozenset(ghosts | {each.name for each in fields(Sizes)} | WIRED)
