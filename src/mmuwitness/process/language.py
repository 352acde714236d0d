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
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mmuwitness.process.errors import Location, ProcessError, describe

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
        error = ProcessError(message, self.location(node), hint)
        error.source_line = linecache.getline(self.path, getattr(node, "lineno", 0))
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
    if source.tree.args.vararg or source.tree.args.kwarg or source.tree.args.posonlyargs:
        raise source.error("*args and **kwargs cannot be used", source.tree)
    for node in ast.walk(source.tree):
        if node is source.tree:
            continue
        if isinstance(node, ast.stmt) and not isinstance(node, ALLOWED_STATEMENTS):
            raise source.error(f"{describe(node)} cannot be used in process code", node)
        if isinstance(node, ast.expr) and not isinstance(node, ALLOWED_EXPRESSIONS):
            raise source.error(f"{describe(node)} cannot be used in process code", node)
        if isinstance(node, ast.While | ast.For) and node.orelse:
            raise source.error("a loop cannot have an else", node)
        if isinstance(node, ast.Compare) and len(node.ops) != 1:
            hint = "write `a <= b and b < c`"
            raise source.error("a comparison can have two sides only", node, hint)


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


def variable_names(tree: ast.FunctionDef) -> frozenset[str]:
    """The locals that need a register of their own.

    A name assigned once stands for the value itself (which may be a compile-time object), unless
    it is assigned in a loop and read outside of it: iterations may leave different values.
    """
    stores: dict[str, list[ast.AST | None]] = {}
    loads: dict[str, list[tuple[ast.AST, ...]]] = {}

    def visit(node: ast.AST, loops: tuple[ast.AST, ...]) -> None:
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            stores.setdefault(node.target.id, []).append(loops[-1] if loops else None)
            loads.setdefault(node.target.id, []).append(loops)
        if isinstance(node, ast.Name):
            if isinstance(node.ctx, ast.Store):
                stores.setdefault(node.id, []).append(loops[-1] if loops else None)
            else:
                loads.setdefault(node.id, []).append(loops)
        inner = (*loops, node) if isinstance(node, ast.For | ast.While) else loops
        for child in ast.iter_child_nodes(node):
            visit(child, inner)

    visit(tree, ())
    for argument in tree.args.args:
        if argument.arg in stores:
            stores[argument.arg].append(None)

    def needs_register(name: str) -> bool:
        if len(stores[name]) > 1:
            return True
        loop = stores[name][0]
        return loop is not None and any(loop not in inside for inside in loads.get(name, []))

    return frozenset(name for name in stores if needs_register(name))
