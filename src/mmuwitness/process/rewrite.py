"""Process functions rewritten to generators, for replay: the same text, file and lines.

A generator yields the number of a place before every operation that begins a step somewhere in the
program; the replay executor knows in which calling contexts it does.  Values that the compiler
keeps in a register `_tN` (N: number of the syntax node) are bound to a local of that name, so that
both executors name them alike.

What `_mw` (the runtime, see `explore.replay`) is asked for: call, at, fit, store, acquire, trylock,
release, iterate, depth, unwind, cover, warn_on, bug_on, trace, might_sleep, non_block.
"""

from __future__ import annotations

import ast
import types
from typing import Any

from mmuwitness.model.primitives import Primitive
from mmuwitness.process.calls import ACQUIRE
from mmuwitness.process.language import Source, number_of, source_of

BLOCKED = "blocked"
"""What a generator yields when the step it was asked for is disabled."""

SUBPLACES = 16


def name(identifier: str, store: bool = False) -> ast.Name:
    return ast.Name(identifier, ast.Store() if store else ast.Load())


def runtime(method: str, *arguments: ast.expr) -> ast.Call:
    return ast.Call(ast.Attribute(name("_mw"), method, ast.Load()), list(arguments), [])


def keep(node: Any, value: ast.expr, prefix: str = "_t") -> ast.NamedExpr:
    return ast.NamedExpr(name(f"{prefix}{number_of(node)}", store=True), value)


def pick(value: ast.expr, index: int) -> ast.Subscript:
    return ast.Subscript(value, ast.Constant(index), ast.Load())


class Rewriter:
    """Rewrites one function.  places: the numbers at which some step of the program begins."""

    def __init__(self, source: Source, places: frozenset[int]) -> None:
        self.source, self.places = source, places
        self.declared = {
            n.target.id
            for n in ast.walk(source.tree)
            if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)
        }
        self.held: list[ast.With] = []
        self.loops: list[int] = []

    def function(self) -> ast.FunctionDef:
        tree = self.source.tree
        arguments = [a.arg for a in tree.args.args if a.arg in self.declared]
        body = [s for a in arguments for s in self.assign(name(a, True), name(a))]
        body += self.body(tree.body)
        never = ast.If(ast.Constant(False), [ast.Expr(ast.Yield(None))], [])
        made = ast.FunctionDef(tree.name, tree.args, [never, *body], [], tree.returns)
        made.type_params = []  # type: ignore[attr-defined]
        made.args = ast.arguments([], tree.args.args, None, [], [], None, [])
        return ast.copy_location(made, tree)

    def place(self, node: Any, sub: int = 0) -> ast.expr:
        number: int = number_of(node) * SUBPLACES + sub
        return ast.Yield(ast.Constant(number)) if number in self.places else ast.Constant(None)

    # -- expressions -----------------------------------------------------------------------

    def expr(self, node: ast.expr) -> ast.expr:
        method = getattr(self, "expr_" + type(node).__name__, None)
        new = node if method is None else method(node)
        return ast.copy_location(new, node)

    def expr_Tuple(self, node: ast.Tuple) -> ast.expr:
        return keep(node, ast.Tuple([self.expr(e) for e in node.elts], ast.Load()))

    def expr_Attribute(self, node: ast.Attribute) -> ast.expr:
        base = pick(ast.Tuple([self.expr(node.value), self.place(node)], ast.Load()), 0)
        return keep(node, ast.Attribute(base, node.attr, ast.Load()))

    def expr_Subscript(self, node: ast.Subscript) -> ast.expr:
        both = [self.expr(node.value), self.expr(node.slice), self.place(node)]
        parts = keep(node, ast.Tuple(both, ast.Load()), "_s")
        index = pick(name(f"_s{number_of(node)}"), 1)
        return keep(node, runtime("at", pick(parts, 0), index))

    def expr_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        return keep(node, ast.UnaryOp(node.op, self.expr(node.operand)))

    def expr_BinOp(self, node: ast.BinOp) -> ast.expr:
        return keep(node, ast.BinOp(self.expr(node.left), node.op, self.expr(node.right)))

    def expr_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        return keep(node, self.truth(ast.BoolOp(node.op, [self.expr(v) for v in node.values])))

    def truth(self, value: ast.expr) -> ast.expr:
        return ast.UnaryOp(ast.Not(), ast.UnaryOp(ast.Not(), value))

    def expr_IfExp(self, node: ast.IfExp) -> ast.expr:
        parts = (self.expr(e) for e in (node.test, node.body, node.orelse))
        return keep(node, ast.IfExp(*parts))

    def expr_Compare(self, node: ast.Compare) -> ast.expr:
        """The place stands after both sides: comparing a sequence reads it."""
        sides = [self.expr(node.left), self.expr(node.comparators[0]), self.place(node)]
        left = pick(keep(node, ast.Tuple(sides, ast.Load()), "_s"), 0)
        right = pick(name(f"_s{number_of(node)}"), 1)
        return keep(node, ast.Compare(left, node.ops, [right]))

    def expr_Call(self, node: ast.Call) -> ast.expr:
        which = self.primitive(node)
        if which:
            return self.primitive_call(which, node)
        arguments = ast.Tuple([self.expr(a) for a in node.args], ast.Load())
        keywords = ast.Dict(
            [ast.Constant(k.arg) for k in node.keywords],
            [self.expr(k.value) for k in node.keywords],
        )
        number = ast.Constant(number_of(node))
        call = runtime("call", number, self.expr(node.func), arguments, keywords)
        return keep(node, ast.YieldFrom(call))

    def primitive(self, node: ast.expr) -> str:
        """The name of the primitive that a call calls, or ''."""
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            return ""
        found = self.source.function.__globals__.get(node.func.id)
        return found.name if isinstance(found, Primitive) else ""

    def primitive_call(self, which: str, node: ast.Call) -> ast.expr:
        number = ast.Constant(number_of(node) * SUBPLACES)
        arguments = [self.expr(a) for a in node.args]
        if which == "choose":
            return keep(node, ast.YieldFrom(runtime("choose", number, *arguments)))
        if which in ("lock", "trylock"):
            mode = [ast.Constant("w")] if which == "lock" else []
            method = "acquire" if which == "lock" else "trylock"
            return keep(node, ast.YieldFrom(runtime(method, number, *arguments, *mode)))
        if which == "unlock":
            released = ast.Tuple([*arguments, self.place(node, 1)], ast.Load())
            return runtime("release", pick(released, 0), ast.Constant("w"))
        if which in ("warn_on", "bug_on"):
            arguments.append(ast.Constant(self.source.tree.name))
        return runtime(which, *arguments)

    # -- statements ------------------------------------------------------------------------

    def body(self, statements: list[ast.stmt]) -> list[ast.stmt]:
        result = []
        for statement in statements:
            for new in getattr(self, "stmt_" + type(statement).__name__)(statement):
                result.append(ast.copy_location(new, statement))
        return result or [ast.Pass()]

    def stmt_Pass(self, node: ast.Pass) -> list[ast.stmt]:
        return [ast.Pass()]

    def stmt_Expr(self, node: ast.Expr) -> list[ast.stmt]:
        if self.primitive(node.value) == "wait_until":
            assert isinstance(node.value, ast.Call)
            test = ast.UnaryOp(ast.Not(), self.expr(node.value.args[0]))
            again: list[ast.stmt] = [ast.Expr(ast.Yield(ast.Constant(BLOCKED)))]
            return [ast.Expr(self.place(node.value)), ast.While(test, again, [])]
        return [ast.Expr(self.expr(node.value))]

    def stmt_Assign(self, node: ast.Assign) -> list[ast.stmt]:
        value = name(f"_t{number_of(node)}")
        first = ast.Assign([name(value.id, store=True)], self.expr(node.value))
        return [first, *(s for t in node.targets for s in self.assign(t, value))]

    def stmt_AnnAssign(self, node: ast.AnnAssign) -> list[ast.stmt]:
        assert node.value is not None
        return self.assign(node.target, self.expr(node.value))

    def assign(self, target: ast.expr, value: ast.expr) -> list[ast.stmt]:
        if isinstance(target, ast.Name):
            if target.id in self.declared:
                value = runtime("fit", ast.Constant(target.id), value)
            return [ast.Assign([name(target.id, True)], value)]
        if isinstance(target, ast.Tuple):
            parts = [self.assign(t, pick(value, i)) for i, t in enumerate(target.elts)]
            return [s for part in parts for s in part]
        assert isinstance(target, ast.Attribute | ast.Subscript)
        pieces = [self.expr(target.value)]
        if isinstance(target, ast.Subscript):
            pieces.append(self.expr(target.slice))
        number = number_of(target)
        kept = ast.Assign(
            [name(f"_b{number}", True)], ast.Tuple([*pieces, self.place(target)], ast.Load())
        )
        base = pick(name(f"_b{number}"), 0)
        if isinstance(target, ast.Attribute):
            return [kept, self.store(base, target, value)]
        into = ast.Subscript(base, pick(name(f"_b{number}"), 1), ast.Store())
        return [kept, ast.Assign([into], value)]

    def store(self, base: ast.expr, target: ast.Attribute, value: ast.expr) -> ast.stmt:
        return ast.Expr(runtime("store", base, ast.Constant(target.attr), value))

    def stmt_AugAssign(self, node: ast.AugAssign) -> list[ast.stmt]:
        load: Any = type(node.target)(**{f: getattr(node.target, f) for f in node.target._fields})
        load.ctx, load.number = ast.Load(), number_of(node.target)
        operation = ast.BinOp(self.expr(load), node.op, self.expr(node.value))
        value = name(f"_t{number_of(node)}")
        first = [ast.Assign([name(value.id, True)], operation), ast.Expr(self.place(node))]
        if isinstance(node.target, ast.Name):
            return [*first, *self.assign(node.target, value)]
        if isinstance(node.target, ast.Attribute):
            return [*first, self.store(node.target.value, node.target, value)]
        return [*first, ast.Assign([node.target], value)]

    def stmt_If(self, node: ast.If) -> list[ast.stmt]:
        orelse = self.body(node.orelse) if node.orelse else []
        return [ast.If(self.expr(node.test), self.body(node.body), orelse)]

    def stmt_While(self, node: ast.While) -> list[ast.stmt]:
        self.loops.append(len(self.held))
        body = self.body(node.body)
        self.loops.pop()
        test = ast.BoolOp(ast.Or(), [self.place(node), self.expr(node.test)])
        return [ast.While(test, body, [])]

    def stmt_For(self, node: ast.For) -> list[ast.stmt]:
        number: int = number_of(node)
        self.loops.append(len(self.held))
        body = self.body(node.body)
        self.loops.pop()
        each = self.assign(node.target, name(f"_f{number}"))
        over = runtime("iterate", ast.Constant(number), self.expr(node.iter))
        return [
            ast.Assign([name(f"_d{number}", True)], runtime("depth")),
            ast.For(name(f"_f{number}", True), over, [*each, *body], []),
            ast.Expr(runtime("unwind", name(f"_d{number}"))),
        ]

    def stmt_Return(self, node: ast.Return) -> list[ast.stmt]:
        value = self.expr(node.value) if node.value else ast.Constant(None)
        kept = name(f"_r{number_of(node)}")
        first = ast.Assign([name(kept.id, True)], value)
        return [first, *self.releases(node, 0), ast.Return(kept)]

    def releases(self, node: ast.stmt, outside: int) -> list[ast.stmt]:
        """Drop the locks taken since `outside` were held, innermost first."""
        result: list[ast.stmt] = []
        for depth, held in enumerate(reversed(self.held[outside:])):
            result += [ast.Expr(self.place(node, 1 + depth)), self.release(held)]
        return result

    def release(self, node: Any) -> ast.Expr:
        return ast.Expr(
            runtime("release", name(f"_l{number_of(node)}"), name(f"_m{number_of(node)}"))
        )

    def stmt_Break(self, node: ast.Break) -> list[ast.stmt]:
        return [*self.releases(node, self.loops[-1]), ast.Break()]

    def stmt_Continue(self, node: ast.Continue) -> list[ast.stmt]:
        return [*self.releases(node, self.loops[-1]), ast.Continue()]

    def stmt_With(self, node: ast.With) -> list[ast.stmt]:
        item = node.items[0].context_expr
        if self.primitive(item) == "atomic":
            return [ast.Expr(self.place(node)), *self.body(node.body)]
        if self.primitive(item) == "non_block":
            return [ast.With([ast.withitem(runtime("non_block"))], self.body(node.body))]
        if isinstance(item, ast.IfExp):
            yes, no = self.take(node, item.body), self.take(node, item.orelse)
            taken: list[ast.stmt] = [ast.If(self.expr(item.test), yes, no)]
        else:
            taken = self.take(node, item)
        self.held.append(node)
        body = self.body(node.body)
        self.held.pop()
        if always_leaves(node.body):
            return [*taken, *body]
        return [*taken, *body, ast.Expr(self.place(node, 1)), self.release(node)]

    def take(self, node: Any, item: ast.expr) -> list[ast.stmt]:
        assert isinstance(item, ast.Call)
        mode, kept = ast.Constant(ACQUIRE[self.primitive(item)]), name(f"_l{number_of(node)}")
        number = ast.Constant(number_of(item) * SUBPLACES)
        return [
            ast.Assign([name(kept.id, True)], self.expr(item.args[0])),
            ast.Assign([name(f"_m{number_of(node)}", True)], mode),
            ast.Expr(ast.YieldFrom(runtime("acquire", number, kept, mode))),
        ]


def always_leaves(body: list[ast.stmt]) -> bool:
    return isinstance(body[-1], ast.Return | ast.Break | ast.Continue)


def generator_code(function: types.FunctionType, places: frozenset[int]) -> types.CodeType:
    """The code object of the rewritten function; its lines are those of the original."""
    source = source_of(function)
    tree = Rewriter(source, places).function()
    module = ast.Module([tree], [])
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt | ast.expr) and not hasattr(node, "lineno"):
            node.lineno = -1
    inherit_lines(module, source.tree)
    code = compile(module, source.path, "exec")
    return next(c for c in code.co_consts if isinstance(c, types.CodeType))


def inherit_lines(tree: ast.AST, place_of: ast.AST) -> None:
    """Nodes made by the rewriter take the line of what they stand in."""
    for child in ast.iter_child_nodes(tree):
        if getattr(child, "lineno", 0) == -1:
            del child.lineno  # type: ignore[attr-defined]
            ast.copy_location(child, place_of)
        inherit_lines(child, child if hasattr(child, "lineno") else place_of)
