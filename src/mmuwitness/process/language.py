"""The process language: finds the source of a function, numbers its syntax, checks the subset.

Numbers are the common tongue of the compiler and the replay executor: both name a place in
process code by (chain of calls, number of the syntax node).
"""

from __future__ import annotations

import ast
import inspect
import linecache
import textwrap
import types
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from mmuwitness.process.errors import Location, ProcessError, describe

Place = tuple[tuple[ast.AST, str], ...]
"""The loops and branches that a node stands in, each with the part of it: "body", "orelse"."""

PACKAGE = Path(__file__).resolve().parent.parent

ALLOWED_STATEMENTS = (
    *(ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Expr, ast.If, ast.While, ast.For, ast.With),
    *(ast.Return, ast.Break, ast.Continue, ast.Pass),
)
ALLOWED_EXPRESSIONS = (
    *(ast.Constant, ast.Name, ast.Attribute, ast.Subscript, ast.Call, ast.Compare, ast.BoolOp),
    *(ast.UnaryOp, ast.BinOp, ast.IfExp, ast.Tuple),
)


@dataclass(frozen=True)
class Source:
    """One process function: its syntax tree, with `number` on every node, and where it is."""

    function: types.FunctionType
    tree: ast.FunctionDef
    name: str
    file: str
    path: str
    variables: frozenset[str]
    conditional: frozenset[str]

    def location(self, node: ast.AST) -> Location:
        line = getattr(node, "lineno", self.tree.lineno)
        return Location(self.tree.name, self.file, line, getattr(node, "col_offset", 0))

    def error(self, message: str, node: ast.AST, hint: str = "") -> ProcessError:
        line, where = linecache.getline(self.path, getattr(node, "lineno", 0)), self.location(node)
        column = len(line.encode()[: where.column].decode())  # syntax trees count bytes
        error = ProcessError(message, replace(where, column=column), hint)
        error.source_line = line
        return error


def number_of(node: Any) -> int:
    """The number that `source_of` gave to a syntax node."""
    number: int = node.number
    return number


def qualified_name(function: types.FunctionType) -> str:
    """`mm.ksm.write_protect_page`: the module inside the model, and the name."""
    module = function.__module__.removeprefix("mmuwitness.model.")
    return f"{module}.{function.__qualname__}"


def short_path(path: str) -> str:
    """A path as printed: relative to the package, or the file name of a user's own file."""
    try:
        return str(Path(path).resolve().relative_to(PACKAGE))
    except ValueError:
        return Path(path).name


@cache
def file_functions(path: str, module: str) -> dict[int, ast.FunctionDef]:
    """Every function of a file by its first line."""
    tree = ast.parse(Path(path).read_text(), filename=path)
    return {n.lineno: n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}


@cache
def source_of(function: types.FunctionType) -> Source:
    """The checked and numbered source of a process function."""
    path = function.__code__.co_filename
    name = qualified_name(function)
    tree = _find(function, path)
    source = Source(
        function, tree, name, short_path(path), path, variable_names(tree), conditional_names(tree)
    )
    for number, node in enumerate(ast.walk(tree)):
        node.number = number  # type: ignore[attr-defined]
    _check(source)
    return source


def _find(function: types.FunctionType, path: str) -> ast.FunctionDef:
    first = function.__code__.co_firstlineno
    if Path(path).is_file():
        for node in file_functions(path, function.__module__).values():
            start = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            if start == first and node.name == function.__name__:
                return node
    try:
        text = textwrap.dedent(inspect.getsource(function))
    except OSError:
        raise ProcessError(f"the source of {function.__name__}() cannot be found") from None
    found = ast.parse(text).body[0]
    if not isinstance(found, ast.FunctionDef):
        raise ProcessError(f"{function.__name__} is not a plain function")
    ast.increment_lineno(found, first - found.lineno)
    return found


def _check(source: Source) -> None:
    given = source.tree.args
    if given.vararg or given.kwarg or given.posonlyargs or given.kwonlyargs:
        raise source.error("*args and **kwargs cannot be used", source.tree)
    for node in ast.walk(source.tree):
        if node is source.tree:
            continue
        if isinstance(node, ast.stmt) and not isinstance(node, ALLOWED_STATEMENTS):
            raise source.error(f"{describe(node)} cannot be used in process code", node)
        if isinstance(node, ast.expr) and not isinstance(node, ALLOWED_EXPRESSIONS):
            raise source.error(f"{describe(node)} cannot be used in process code", node)
        if isinstance(node, ast.keyword) and node.arg is None:
            raise source.error("*args and **kwargs cannot be used", node.value)
        if isinstance(node, ast.AugAssign) and has_any(node.target, ast.Call):
            hint = "bind what it reads to a local first"
            raise source.error("the target of += calls a function", node, hint)
        if isinstance(node, ast.For) and has_any(node.target, ast.Attribute | ast.Subscript):
            raise source.error("a for loop assigns to locals only", node.target)
        if isinstance(node, ast.While | ast.For) and node.orelse:
            raise source.error("a loop cannot have an else", node)
        if isinstance(node, ast.Compare) and len(node.ops) != 1:
            hint = "write `a <= b and b < c`"
            raise source.error("a comparison can have two sides only", node, hint)


def has_any(tree: ast.AST, kinds: Any) -> bool:
    return any(isinstance(node, kinds) for node in ast.walk(tree))


def conditional_names(tree: ast.FunctionDef) -> frozenset[str]:
    """The locals that only statements inside a branch or a loop assign."""
    always = {argument.arg for argument in tree.args.args}
    nested: set[str] = set()

    def visit(node: ast.AST, inside: bool) -> None:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            (nested if inside else always).add(node.id)
        inside = inside or isinstance(node, ast.If | ast.For | ast.While)
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(tree, False)
    return frozenset(nested - always)


@dataclass
class Uses:
    """Where a local is assigned and read, in order of evaluation.

    A place is the loops and branches around it, outermost first."""

    stores: list[tuple[int, Place]] = field(default_factory=list)
    loads: list[tuple[int, Place]] = field(default_factory=list)

    def need_register(self) -> bool:
        """True if more than one value may be meant where the local is read: it is assigned more
        than once, or once in a loop and read where an earlier iteration may have left it."""
        if len(self.stores) != 1:
            return bool(self.stores)
        at, place = self.stores[0]
        if not any(isinstance(part, ast.For | ast.While) for part, _ in place):
            return False
        return any(read < at or inside[: len(place)] != place for read, inside in self.loads)


def variable_names(tree: ast.FunctionDef) -> frozenset[str]:
    """The locals that need a register of their own; the others stand for the value itself, which
    may be an object that is known when the host is wired."""
    uses: dict[str, Uses] = {}
    count = 0

    def visit(node: ast.AST, place: Place) -> None:
        nonlocal count
        count += 1
        if isinstance(node, ast.Name):
            of = uses.setdefault(node.id, Uses())
            (of.stores if isinstance(node.ctx, ast.Store) else of.loads).append((count, place))
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            uses.setdefault(node.target.id, Uses()).loads.append((count, place))
        for part, child in in_order(node):
            inside = isinstance(node, ast.For | ast.While | ast.If) and part != "iter"
            visit(child, (*place, (node, part)) if inside else place)

    for argument in tree.args.args:
        uses.setdefault(argument.arg, Uses())
    visit(tree, ())
    for argument in tree.args.args:
        of = uses[argument.arg]
        of.stores += [(0, ())] if of.stores else []
    return frozenset(name for name, of in uses.items() if of.need_register())


def in_order(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """The parts of a node as they are evaluated: a value before what it is assigned to.

    A part of a loop is named "", but for the `iter` that stands before it."""
    parts = list(ast.iter_fields(node))
    if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
        parts.sort(key=lambda part: part[0] in ("target", "targets"))
    if isinstance(node, ast.For):
        parts.sort(key=lambda part: part[0] != "iter")
    for name, value in parts:
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                loop = isinstance(node, ast.For | ast.While) and name != "iter"
                yield "" if loop else name, child
