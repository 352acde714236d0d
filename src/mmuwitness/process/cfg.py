"""Folding of a process into a control-flow graph: calls inlined, era and arch facts decided.

`Builder` walks the syntax tree of the entry function with its bound arguments.  A condition
known now keeps one branch only; a call is inlined in a new context; a loop over objects is
unrolled.  All calls resolve through `overrides`, one table of qualified names.
"""

from __future__ import annotations

import ast
import types
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from mmuwitness.model.primitives import Primitive
from mmuwitness.model.state import Kind, World
from mmuwitness.process import calls, operators
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
from mmuwitness.process.statements import Loop, NeverReturns, Statements
from mmuwitness.process.values import Const, Dyn, Folded, Many, Place, Record

DEPTH_MAX = 40
PASSES_MAX = 8


class Frame:
    """One inlined call: its source, context, names and where `return` goes."""

    def __init__(self, source: Source, context: Context, region: int, serial: int) -> None:
        self.serial = serial
        self.source, self.region = source, region
        self.text = source  # where the syntax that is folded stands: arguments are the caller's
        self.base = self.context = context  # `context` grows inside an unrolled loop
        self.variables = set(source.variables)
        self.names: dict[str, Folded | None] = dict.fromkeys(self.variables)
        self.held: list[tuple[ast.With, Place, str]] = []
        self.loops: list[Loop] = []
        self.non_block = False
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
        is_claim: bool = False,
    ) -> None:
        self.is_claim = is_claim
        self.world, self.has_feature, self.overrides = world, has_feature, overrides
        self.functions: set[str] = set()
        self.variable_kinds: dict[tuple[Context, str], Kind] = {}
        self.declared: set[tuple[Context, str]] = set()
        self.assigned_fields: set[tuple[type, str]] = set()
        self.grew: tuple[str, Frame, ast.AST] | None = None
        self.region_count = self.effects = 0
        self.kept: set[tuple[Context, int]] = set()
        self.statement: ast.expr | None = None

    def build(self, name: str, pid: int, function: Any, arguments: tuple[Any, ...]) -> Process:
        """The process `function(*arguments)`; repeated until the ranges of locals are stable.

        An argument that is known only in a run is given as the register that has it."""
        values: list[Folded] = [a if isinstance(a, Dyn) else Const(a) for a in arguments]
        for _ in range(PASSES_MAX):
            self.grew, self.stored = None, list[Reg]()
            self.registers: dict[tuple[Context, str], Reg] = {}
            self.block = entry = Block()
            source = source_of(self.resolve(function))
            self.serial = 0
            self.block.assigned = frozenset()
            self.frame = Frame(source, (), 0, 0)
            with suppress(NeverReturns):
                self.result = self.inline(source, (), values, {}, source.tree)
                self.block.end = ("done",)
            if self.grew is None:
                process = Process(name, pid, entry, reachable_blocks(entry))
                process.functions = self.functions
                process.declared = {key: self.variable_kinds[key] for key in self.declared}
                return process
        assert self.grew is not None
        local, frame, node = self.grew
        hint = f"give it a range: `{local}: Bounded(lo, hi) = ...`"
        raise frame.text.error(f"{local} grows without bound in a loop of {name}", node, hint)

    def resolve(self, function: Any) -> types.FunctionType:
        """The function that stands under this one's qualified name."""
        name = qualified_name(function)
        self.functions.add(name)
        found: types.FunctionType = self.overrides.get(name, function)
        return found

    def register(self, context: Context, name: str, kind: Kind) -> Reg:
        """The register of a name; iterations of an unrolled loop share it if its kinds join."""
        for key in ((context, name), (self.frame.context, name)):
            reg = self.registers.get(key)
            if reg is None:
                reg = self.registers[key] = Reg(context, name, kind)
                return reg
            joined = join_kinds(reg.kind, kind, self.world.sizes)
            if joined is not None:
                reg.kind = joined
                return reg
        raise AssertionError(f"{name} has values of two kinds")

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
        frame.non_block = caller.non_block
        self.bind_arguments(frame, values, keywords, node)
        self.frame = frame
        self.entered(source)
        self.statements(source.tree.body)
        if self.block.end is None:
            self.leave(Const(None))
        self.frame = caller
        if not frame.result:
            raise NeverReturns
        return self.join_results(frame.result, Block(), node)

    def entered(self, source: Source) -> None:
        """What a function does before its first statement: nothing, unless somebody counts."""

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
        twice = [n for n in names[: len(values)] if n in keywords]
        if len(values) > len(names) or unknown or missing or twice:
            problem = f"{frame.source.tree.name}() takes ({', '.join(names)})"
            raise self.error(problem, node)
        caller, self.frame = self.frame, frame
        for name in names:
            frame.text = caller.text if name in given else frame.source
            value = given[name] if name in given else self.expr(defaults[name])
            if name in frame.variables:
                self.assign_variable(name, value, node if name in given else defaults[name])
            else:
                frame.names[name] = value
        frame.text = frame.source
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
        if isinstance(first, Place) and isinstance(first.of, Reg):
            hint = "return the object, and name its field in the caller"
            raise self.error("a field of a handle cannot be returned", node, hint)
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
        given = [*node.args, *(k.value for k in node.keywords)]
        values = given_values = self.exprs(*given)
        function = callee.value if isinstance(callee, Const) else None
        self_argument = []
        if isinstance(function, types.MethodType):
            self_argument, function = [Const(function.__self__)], function.__func__
        before, count = len(self.stored), len(node.args)
        keywords = {str(k.arg): v for k, v in zip(node.keywords, values[count:], strict=True)}
        positional = [*self_argument, *values[:count]]
        if not isinstance(function, types.FunctionType):
            return calls.other(self, callee, positional, keywords, node)
        context = (*self.frame.context, (number_of(node), -1))
        source = source_of(self.resolve(function))
        result = self.inline(source, context, positional, keywords, node)
        self.keep_stored(given_values, given, before)
        return result

    # -- conditions ------------------------------------------------------------------------

    def condition(self, node: ast.expr, yes: Block, no: Block) -> bool | None:
        """Evaluate a test and branch; True or False if it is known now (no branch is made)."""
        if isinstance(node, ast.BoolOp):
            return self.short_circuit(node, yes, no)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            known = self.condition(node.operand, no, yes)
            return None if known is None else not known
        value = self.expr(node)
        known = operators.truth(self, value, node)
        if known is not None:
            return known
        assert isinstance(value, Dyn)
        self.block.end = ("branch", value.reg, yes, no)
        return None

    def short_circuit(self, node: ast.BoolOp, yes: Block, no: Block) -> bool | None:
        conjunction = isinstance(node.op, ast.And)
        branched = False
        for operand in node.values:
            following = Block()
            targets = (following, no) if conjunction else (yes, following)
            try:
                known = self.condition(operand, *targets)
            except NeverReturns:
                if not branched:
                    raise
                return None
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
        ways: list[tuple[Folded, Block]] = [(yes, on_true), (no, on_false)]
        return self.join_results([w for w in ways if w[1].reached], after, node)

    def expr_IfExp(self, node: ast.IfExp) -> Folded:
        on_true, on_false = Block(), Block()
        known = self.condition(node.test, on_true, on_false)
        if known is not None:
            return self.expr(node.body if known else node.orelse)
        ways: list[tuple[Folded, Block]] = []
        for self.block, arm in ((on_true, node.body), (on_false, node.orelse)):
            with suppress(NeverReturns):
                if self.block.reached:
                    value = self.expr(arm)
                    ways.append((value, self.block))
        if not ways:
            raise NeverReturns
        return self.join_results(ways, Block(), node)


def same_constant(a: Folded, b: Folded) -> bool:
    """Both are known now, and are one thing (True and 1 are not)."""
    if not isinstance(a, Const) or not isinstance(b, Const):
        return False
    return a.value is b.value or (type(a.value) is type(b.value) and a == b)
