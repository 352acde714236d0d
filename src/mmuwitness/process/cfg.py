"""Folding of a process into a control-flow graph: calls inlined, era and arch facts decided.

`Builder` walks the syntax tree of the entry function with its bound arguments.  A condition
known now keeps one branch only; a call is inlined in a new context; a loop over objects is
unrolled.  All calls resolve through `overrides`, one table of qualified names.
"""

from __future__ import annotations

import ast
import types
from collections.abc import Callable
from typing import Any

from mmuwitness.model.primitives import Primitive
from mmuwitness.model.state import Kind, Local, OfValue, Value, World
from mmuwitness.process import calls
from mmuwitness.process.errors import ProcessError
from mmuwitness.process.ir import (
    Block,
    Context,
    Process,
    Reg,
    join_kinds,
    kind_of_constant,
    reachable_blocks,
)
from mmuwitness.process.language import Source, number_of, qualified_name, source_of
from mmuwitness.process.statements import Loop, Statements
from mmuwitness.process.values import Bound, Const, Dyn, Folded, Many, Place, Record

DEPTH_MAX = 40
PASSES_MAX = 8


class Frame:
    """One inlined call: its source, context, names and where `return` goes."""

    def __init__(self, source: Source, context: Context, region: int, serial: int) -> None:
        self.serial = serial
        self.source, self.region = source, region
        self.base = self.context = context  # `context` grows inside an unrolled loop
        self.variables = set(source.variables)
        self.names: dict[str, Folded | None] = dict.fromkeys(self.variables)
        self.held: list[tuple[ast.With, Place, str]] = []
        self.loops: list[Loop] = []
        self.result: list[tuple[Folded, Block]] = []

    def lookup(self, builder: Builder, name: str) -> Folded | None:
        found = self.names.get(name)
        if found is None and name in self.variables:
            kind = builder.variable_kinds.get((self.base, name))
            if kind is not None:
                return Dyn(builder.register(self.base, name, kind), kind)
        return found


class Builder(Statements):
    """Folds one process.  Attributes after `build`: the process and the features it read."""

    def __init__(
        self,
        world: World,
        has_feature: Callable[[str], bool],
        overrides: dict[str, types.FunctionType],
    ) -> None:
        self.world, self.has_feature, self.overrides = world, has_feature, overrides
        self.functions: set[str] = set()
        self.variable_kinds: dict[tuple[Context, str], Kind] = {}
        self.declared: set[tuple[Context, str]] = set()
        self.assigned_fields: set[tuple[type, str]] = set()
        self.grew = ""
        self.region_count = 0

    def build(self, name: str, pid: int, function: Any, arguments: tuple[Any, ...]) -> Process:
        """The process `function(*arguments)`; repeated until the ranges of locals are stable."""
        for _ in range(PASSES_MAX):
            self.grew = ""
            self.registers: dict[tuple[Context, str], Reg] = {}
            self.block = entry = Block()
            values: list[Folded] = [Const(a) for a in arguments]
            source = source_of(self.resolve(function))
            self.serial = 0
            self.block.assigned = frozenset()
            self.frame = Frame(source, (), 0, 0)
            self.result = self.inline(source, (), values, {}, source.tree)
            if self.block.end is None:
                self.block.end = ("done",)
            if not self.grew:
                process = Process(name, pid, entry, reachable_blocks(entry))
                process.functions = self.functions
                return process
        hint = f"give it a range: `{self.grew}: Bounded(lo, hi) = ...`"
        raise ProcessError(f"{self.grew} grows without bound in a loop of {name}", None, hint)

    def resolve(self, function: Any) -> types.FunctionType:
        """The function that stands under this one's qualified name."""
        name = qualified_name(function)
        self.functions.add(name)
        found: types.FunctionType = self.overrides.get(name, function)
        return found

    def register(self, context: Context, name: str, kind: Kind) -> Reg:
        reg = self.registers.get((context, name))
        if reg is None:
            reg = self.registers[context, name] = Reg(context, name, kind)
            return reg
        joined = join_kinds(reg.kind, kind, self.world.sizes)
        if joined is not None:
            reg.kind = joined
        return reg

    # -- calls -----------------------------------------------------------------------------

    def inline(
        self,
        source: Source,
        context: Context,
        values: list[Folded],
        keywords: dict[str, Folded],
        node: ast.AST,
    ) -> Folded:
        """The body of a function in place of its call."""
        if len(context) > DEPTH_MAX:
            raise source.error("calls are nested too deep: recursion cannot be used", source.tree)
        caller = self.frame
        self.serial += 1
        frame = Frame(source, context, caller.region, self.serial)
        self.bind_arguments(frame, values, keywords, node)
        self.frame = frame
        self.statements(source.tree.body)
        if self.block.end is None:
            self.leave(Const(None))
        self.frame = caller
        if not frame.result:
            self.unreachable()
            return Const(None)
        return self.join_results(frame.result, Block(), node)

    def unreachable(self) -> None:
        """No control comes here: what follows is not folded."""
        self.block = Block(end=("unreachable",))

    def bind_arguments(self, frame: Frame, values: Any, keywords: Any, node: Any) -> None:
        arguments = frame.source.tree.args
        names = [a.arg for a in arguments.args]
        given = dict(zip(names, values, strict=False)) | keywords
        defaults = dict(zip(reversed(names), reversed(arguments.defaults), strict=False))
        unknown = [n for n in given if n not in names]
        missing = [n for n in names if n not in given and n not in defaults]
        if len(values) > len(names) or unknown or missing:
            problem = f"{frame.source.tree.name}() takes ({', '.join(names)})"
            raise self.error(problem, node)
        caller, self.frame = self.frame, frame
        for name in names:
            default = defaults.get(name)
            value = given[name] if name in given else self.expr(default)  # type: ignore[arg-type]
            if name in frame.variables:
                self.assign_variable(name, value, node)
            else:
                frame.names[name] = value
        self.frame = caller

    def join_results(self, results: Any, after: Block, node: ast.AST) -> Folded:
        """The value of a call: one register (or constant) for every return."""
        joined = self.merge([r for r, _ in results], node)
        for value, block in results:
            self.block = block
            self.move(joined, value, node)
            block.end = ("jump", after)
        self.block = after
        return joined

    def merge(self, values: list[Folded], node: ast.AST, suffix: str = "") -> Folded:
        """Where several values meet: the constant that all are, or a register for them."""
        first = values[0]
        if isinstance(first, Many):
            if any(not isinstance(v, Many) or len(v.items) != len(first.items) for v in values):
                raise self.error("the returns have different shapes", node)
            parts = zip(*(v.items for v in values), strict=True)  # type: ignore[union-attr]
            return Many(
                tuple(self.merge(list(p), node, f"{suffix}[{i}]") for i, p in enumerate(parts))
            )
        if all(same_constant(v, first) for v in values):
            return first
        if isinstance(first, Record):
            hint = "make it in the caller and pass it down"
            raise self.error("a record cannot be returned", node, hint)
        if all(not isinstance(v, Const | Dyn) for v in values) and all(v == first for v in values):
            return first
        kind = None
        for value in values:
            have = (
                value.kind
                if isinstance(value, Dyn)
                else kind_of_constant(self.const_of(value, node))
            )
            kind = have if kind is None else join_kinds(kind, have, self.world.sizes)
            if kind is None and self.const_of(value, node) is not None:
                raise self.error("values of different kinds meet here", node)
        assert kind is not None
        reg = self.temp(node, kind, suffix)
        return Dyn(reg, reg.kind)

    def const_of(self, value: Folded, node: ast.AST) -> Any:
        if isinstance(value, Const):
            return value.value
        if isinstance(value, Dyn):
            return False
        raise self.error("this value cannot be kept in a variable", node)

    def move(self, into: Folded, value: Folded, node: ast.AST) -> None:
        if isinstance(into, Many) and isinstance(value, Many):
            for a, b in zip(into.items, value.items, strict=True):
                self.move(a, b, node)
        elif isinstance(into, Dyn):
            source = self.operand(value, into.kind, node, into.reg.name)
            if source is not into.reg:
                self.emit("mov", node, dst=into.reg, args=(source,))

    def leave(self, value: Folded) -> None:
        """Control leaves the frame with a value; `join_results` says where to."""
        self.frame.result.append((value, self.block))
        self.block.end = ("leaving",)

    def expr_Call(self, node: ast.Call) -> Folded:
        callee = self.expr(node.func)
        if isinstance(callee, Const) and isinstance(callee.value, Primitive):
            return calls.primitive(self, callee.value, node)
        values = [self.expr(a) for a in node.args]
        keywords = {k.arg: self.expr(k.value) for k in node.keywords if k.arg}
        if isinstance(callee, Bound):
            return calls.method(self, callee, values, keywords, node)
        if not isinstance(callee, Const):
            raise self.error("this cannot be called", node)
        function = callee.value
        if isinstance(function, types.MethodType):
            values.insert(0, Const(function.__self__))
            function = function.__func__
        if isinstance(function, types.FunctionType):
            context = (*self.frame.context, (number_of(node), -1))
            return self.inline(source_of(self.resolve(function)), context, values, keywords, node)
        if isinstance(function, type) and issubclass(function, Value):
            return self.build_value(Const(function()), function, keywords, node)
        if isinstance(function, type) and issubclass(function, Local):
            return self.make_record(function, keywords, node)
        return calls.builtin(self, function, values, node)

    # -- conditions ------------------------------------------------------------------------

    def condition(self, node: ast.expr, yes: Block, no: Block) -> bool | None:
        """Evaluate a test and branch; True or False if it is known now (no branch is made)."""
        if isinstance(node, ast.BoolOp):
            return self.short_circuit(node, yes, no)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            known = self.condition(node.operand, no, yes)
            return None if known is None else not known
        value = self.expr(node)
        if isinstance(value, Const):
            return bool(value.value)
        if isinstance(value, Record | Place | Many | Bound):
            return True
        assert isinstance(value, Dyn)
        if isinstance(value.kind, OfValue):
            raise self.error("a value struct is neither true nor false", node)
        self.block.end = ("branch", value.reg, yes, no)
        return None

    def short_circuit(self, node: ast.BoolOp, yes: Block, no: Block) -> bool | None:
        conjunction = isinstance(node.op, ast.And)
        branched = False
        for operand in node.values:
            following = Block()
            targets = (following, no) if conjunction else (yes, following)
            known = self.condition(operand, *targets)
            if known is None:
                branched = True
                self.block = following
            elif known is not conjunction:
                if not branched:
                    return known
                self.block.end = ("jump", yes if known else no)
                return None
        if not branched:
            return conjunction
        self.block.end = ("jump", yes if conjunction else no)
        return None

    def by_branches(self, node: ast.expr, yes: Const, no: Const) -> Folded:
        on_true, on_false, after = Block(), Block(), Block()
        known = self.condition(node, on_true, on_false)
        if known is not None:
            return Const(known)
        return self.join_results([(yes, on_true), (no, on_false)], after, node)

    def expr_IfExp(self, node: ast.IfExp) -> Folded:
        on_true, on_false, after = Block(), Block(), Block()
        known = self.condition(node.test, on_true, on_false)
        if known is not None:
            return self.expr(node.body if known else node.orelse)
        self.block = on_true
        first = self.expr(node.body)
        on_true = self.block
        self.block = on_false
        second = self.expr(node.orelse)
        return self.join_results([(first, on_true), (second, self.block)], after, node)


def same_constant(a: Folded, b: Folded) -> bool:
    """Both are known now, and are one thing (True and 1 are not)."""
    if not isinstance(a, Const) or not isinstance(b, Const):
        return False
    return a.value is b.value or (type(a.value) is type(b.value) and a == b)
