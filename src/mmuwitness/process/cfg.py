"""Folding of a process into a control-flow graph: calls inlined, era and arch facts decided.

`Builder` walks the syntax tree of the entry function with its bound arguments.  A condition
known now keeps one branch only; a call is inlined in a new context; a loop over objects is
unrolled.  All calls resolve through `overrides`, one table of qualified names.
"""

from __future__ import annotations

import ast
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mmuwitness.model.primitives import Primitive
from mmuwitness.model.state import Kind, Local, OfValue, Ref, Value, World
from mmuwitness.process import calls
from mmuwitness.process.errors import ProcessError
from mmuwitness.process.expressions import Expressions
from mmuwitness.process.ir import (
    Block,
    Context,
    Process,
    Reg,
    join_kinds,
    kind_of_constant,
    reachable_blocks,
    same_kind,
)
from mmuwitness.process.language import Source, qualified_name, source_of
from mmuwitness.process.values import Bound, Const, Dyn, Folded, Many, Place, Record

DEPTH_MAX = 40
PASSES_MAX = 8


@dataclass
class Loop:
    """Where `continue` and `break` go, and how many locks were held outside of it."""

    following: Block
    after: Block
    held: int
    broken: bool = False


class Frame:
    """One inlined call: its source, context, names and where `return` goes."""

    def __init__(self, source: Source, context: Context, region: int) -> None:
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


class Builder(Expressions):
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
            self.frame = Frame(source, (), 0)
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
        frame = Frame(source, context, caller.region)
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
        if all(isinstance(v, Const) for v in values) and all(
            v.value is first.value or (type(v.value) is type(first.value) and v == first)  # type: ignore[union-attr]
            for v in values
        ):
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
            context = (*self.frame.context, (node.number, -1))  # type: ignore[attr-defined]
            return self.inline(source_of(self.resolve(function)), context, values, keywords, node)
        if isinstance(function, type) and issubclass(function, Value):
            return self.build_value(Const(function()), function, keywords, node)  # type: ignore[no-any-return]
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

    # -- statements ------------------------------------------------------------------------

    def statements(self, body: list[ast.stmt]) -> None:
        for statement in body:
            if self.block.end is not None:
                return
            getattr(self, "stmt_" + type(statement).__name__)(statement)

    def stmt_Pass(self, node: ast.Pass) -> None:
        pass

    def stmt_Expr(self, node: ast.Expr) -> None:
        self.expr(node.value)

    def stmt_Return(self, node: ast.Return) -> None:
        value = self.expr(node.value) if node.value else Const(None)
        for depth, (_, place, mode) in enumerate(reversed(self.frame.held)):
            calls.release(self, place, mode, node, depth)
        self.leave(value)

    def stmt_Assign(self, node: ast.Assign) -> None:
        value = self.expr(node.value)
        for target in node.targets:
            self.assign(target, value, node)

    def stmt_AnnAssign(self, node: ast.AnnAssign) -> None:
        annotation = self.expr(node.annotation)
        kind = annotation.value if isinstance(annotation, Const) else None
        if not isinstance(kind, Kind) or not isinstance(node.target, ast.Name) or not node.value:
            hint = "write `name: Bounded(lo, hi) = value`"
            raise self.error("this annotation is not a kind", node, hint)
        value = self.expr(node.value)
        name = node.target.id
        self.frame.variables.add(name)
        self.variable_kinds[self.frame.base, name] = kind
        self.declared.add((self.frame.base, name))
        self.assign_variable(name, value, node)

    def assign(self, target: ast.expr, value: Folded, node: ast.AST) -> None:
        if isinstance(target, ast.Tuple):
            if not isinstance(value, Many) or len(value.items) != len(target.elts):
                raise self.error("the two sides have different lengths", node)
            for part, item in zip(target.elts, value.items, strict=True):
                self.assign(part, item, node)
        elif isinstance(target, ast.Name):
            if target.id in self.frame.variables:
                self.assign_variable(target.id, value, node)
            else:
                self.frame.names[target.id] = self.unaliased(value, node)
        else:
            self.store(target, value, node)

    def unaliased(self, value: Folded, node: ast.AST) -> Folded:
        """A name bound to another variable's register keeps the value, not the variable."""
        if isinstance(value, Dyn) and not value.reg.name.startswith("_t"):
            copy = self.temp(node, value.kind)
            self.emit("mov", node, dst=copy, args=(value.reg,))
            return Dyn(copy, value.kind)
        return value

    def assign_variable(self, name: str, value: Folded, node: ast.AST) -> None:
        """Assign to a local with a register; its kind grows to cover every assignment."""
        context = self.frame.base
        known = self.variable_kinds.get((context, name))
        have = (
            value.kind if isinstance(value, Dyn) else kind_of_constant(self.const_of(value, node))
        )
        kind = known or have
        if kind is None:
            if not isinstance(value, Const) or value.value is not None:
                raise self.error(f"{name}: this cannot be kept in a variable", node)
            self.frame.names[name] = value
            return
        joined = join_kinds(kind, have, self.world.sizes) if have else kind
        if (context, name) in self.declared:
            joined = known
        if joined is None:
            raise self.error(f"{name} is assigned values of different kinds", node)
        if known is None or not same_kind(joined, known, self.world.sizes):
            self.variable_kinds[context, name] = joined
            self.grew = name
        self.frame.names[name] = None
        reg = self.register(context, name, joined)
        code = self.operand(value, joined, node, name)
        self.emit("mov", node, dst=reg, args=(code,))

    def store(self, target: ast.expr, value: Folded, node: ast.AST) -> None:
        """Assignment to a field of an object, of a record, or to an array element."""
        if isinstance(target, ast.Subscript):
            base, index = self.expr(target.value), self.expr(target.slice)
            if not isinstance(base, Place):
                raise self.error("only an array field can be assigned to by index", target)
            return self.store_element(base, index, value, node, target)
        assert isinstance(target, ast.Attribute)
        base = self.expr(target.value)
        if isinstance(base, Record):
            return self.store_record(base, target, value, node)
        if isinstance(base, Const) and target.attr in getattr(base.value, "fields", {}):
            place = Place(base.value.fields[target.attr], base.value.index)
            return self.store_element(place, None, value, node, target)
        if isinstance(base, Dyn) and isinstance(base.kind, Ref):
            cls = type(self.world.instances(base.kind.struct)[0])
            if target.attr in cls.fields:
                place = Place(cls.fields[target.attr], base.reg)
                return self.store_element(place, None, value, node, target)
        raise self.error(f".{target.attr} is not a field that can be assigned", target)

    def store_element(
        self, place: Place, inner: Folded | None, value: Folded, node: ast.AST, target: ast.AST
    ) -> None:
        start = len(self.block.ops)
        code = self.operand(value, place.field.kind, node, place.field.key)
        at = node if isinstance(node, ast.AugAssign) else target
        op = self.access("store", place, target, inner=inner, rest=(code,), at=at)
        op.first = self.block.ops[start]

    def store_record(self, record: Record, target: ast.Attribute, value: Any, node: Any) -> None:
        if target.attr not in record.cls.kinds:
            known = ", ".join(record.cls.kinds)
            raise self.error(f"{record.cls.__name__}.{target.attr} is not a field", node, known)
        kind = record.cls.kinds[target.attr]
        reg = self.register(record.context, f"{record.name}.{target.attr}", kind)
        code = self.operand(value, kind, node, f"{record.cls.__name__}.{target.attr}")
        self.emit("mov", node, dst=reg, args=(code,))

    def stmt_AugAssign(self, node: ast.AugAssign) -> None:
        load = ast.copy_location(self.as_load(node.target), node.target)
        operation = ast.BinOp(load, node.op, node.value)
        ast.copy_location(operation, node)
        operation.number = node.number  # type: ignore[attr-defined]
        value = self.expr(operation)
        self.assign_again(node, value)

    def as_load(self, target: ast.expr) -> ast.expr:
        """The target of `x += y` as the expression that reads it."""
        copy: Any = type(target)(**{f: getattr(target, f) for f in target._fields})
        copy.ctx = ast.Load()
        copy.number = target.number  # type: ignore[attr-defined]
        return ast.copy_location(copy, target)  # type: ignore[no-any-return]

    def assign_again(self, node: ast.AugAssign, value: Folded) -> None:
        """The store of `x += y`: its target is folded again, so it may read nothing on the way."""
        block, before = self.block, len(self.block.ops)
        self.assign(node.target, value, node)
        if self.block is not block or any(op.code == "load" for op in block.ops[before:]):
            hint = "bind what it reads to a local first"
            raise self.error("the target of += reads shared state on the way", node, hint)

    def stmt_If(self, node: ast.If) -> None:
        yes, no, after = Block(), Block(), Block()
        known = self.condition(node.test, yes, no)
        if known is not None:
            self.statements(node.body if known else node.orelse)
            return
        joins = False
        for block, body in ((yes, node.body), (no, node.orelse)):
            self.block = block
            self.statements(body)
            if self.block.end is None:
                self.block.end = ("jump", after)
                joins = True
        self.block = after
        if not joins:
            self.unreachable()

    def stmt_While(self, node: ast.While) -> None:
        head, body, after = Block(), Block(), Block()
        self.block.end = ("jump", head)
        self.block = head
        self.emit("loop", node, site=self.site(node))
        known = self.condition(node.test, body, after)
        if known is False:
            return
        if known is True:
            self.block.end = ("jump", body)
        loop = Loop(head, after, len(self.frame.held))
        self.frame.loops.append(loop)
        self.block = body
        self.statements(node.body)
        if self.block.end is None:
            self.block.end = ("jump", head)
        self.frame.loops.pop()
        self.block = after
        if known is True and not loop.broken:
            self.unreachable()

    def stmt_For(self, node: ast.For) -> None:
        """A loop over objects known now: unrolled, each iteration in a context of its own."""
        items = calls.iteration(self, node)
        after = Block()
        context = self.frame.context
        for position, item in enumerate(items):
            following = Block()
            self.frame.context = (*context, (node.number, position))  # type: ignore[attr-defined]
            loop = Loop(following, after, len(self.frame.held))
            self.frame.loops.append(loop)
            self.assign(node.target, item, node)
            self.statements(node.body)
            self.frame.loops.pop()
            if self.block.end is None:
                self.block.end = ("jump", following)
            self.block = following
        self.frame.context = context
        self.block.end = ("jump", after)
        self.block = after

    def stmt_Break(self, node: ast.Break) -> None:
        self.jump_out(node, breaks=True)

    def stmt_Continue(self, node: ast.Continue) -> None:
        self.jump_out(node, breaks=False)

    def jump_out(self, node: ast.Break | ast.Continue, breaks: bool) -> None:
        """break and continue: the locks taken inside the loop are dropped first."""
        if not self.frame.loops:
            raise self.error("not inside a loop", node)
        loop = self.frame.loops[-1]
        for depth, (_, place, mode) in enumerate(reversed(self.frame.held[loop.held :])):
            calls.release(self, place, mode, node, depth)
        loop.broken = loop.broken or breaks
        self.block.end = ("jump", loop.after if breaks else loop.following)

    def stmt_With(self, node: ast.With) -> None:
        calls.with_statement(self, node)
