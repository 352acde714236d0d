"""Folding of statements: assignments, branches, loops, locks held over a block."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import Any

from mmuwitness.model.state import Kind, Ref
from mmuwitness.process import calls
from mmuwitness.process.expressions import Expressions
from mmuwitness.process.ir import Block, Context, join_kinds, kind_of_constant, same_kind
from mmuwitness.process.language import number_of
from mmuwitness.process.values import Const, Dyn, Folded, Many, Place, Record


@dataclass
class Loop:
    """Where `continue` and `break` go, and how many locks were held outside of it."""

    following: Block
    after: Block
    held: int


class NeverReturns(Exception):
    """A call that is folded never returns: what follows it, up to where control may come by
    another way, is not folded."""


class Statements(Expressions):
    """Middle part of the builder: statements, on top of expressions."""

    variable_kinds: dict[tuple[Context, str], Kind]
    declared: set[tuple[Context, str]]
    region_count: int
    statement: ast.expr | None

    def condition(self, node: ast.expr, yes: Block, no: Block) -> bool | None:
        raise NotImplementedError

    def leave(self, value: Folded) -> None:
        raise NotImplementedError

    def unreachable(self) -> None:
        raise NotImplementedError

    def const_of(self, value: Folded, node: ast.AST) -> Any:
        raise NotImplementedError

    # -- statements ------------------------------------------------------------------------

    def statements(self, body: list[ast.stmt]) -> None:
        region = self.frame.region
        for statement in body:
            if self.block.end is not None:
                return
            try:
                getattr(self, "stmt_" + type(statement).__name__)(statement)
            except NeverReturns:
                self.frame.region = region
                self.unreachable()

    def stmt_Pass(self, node: ast.Pass) -> None:
        pass

    def stmt_Expr(self, node: ast.Expr) -> None:
        self.statement = node.value
        self.expr(node.value)

    def stmt_Return(self, node: ast.Return) -> None:
        value = self.expr(node.value) if node.value else Const(None)
        for depth, (_, place, mode) in enumerate(reversed(self.frame.held)):
            calls.release(self, place, mode, node, depth)
        self.leave(value)

    def stmt_Assign(self, node: ast.Assign) -> None:
        value = self.expr(node.value)
        before = len(self.stored)
        kept = self.kept and (self.frame.base, number_of(node.value)) in self.kept
        if kept:
            value = self.unaliased(value, node.value)
        for target in node.targets:
            self.assign(target, value, node)
        if not kept:
            self.keep_stored([value], [node.value], before)

    def stmt_AnnAssign(self, node: ast.AnnAssign) -> None:
        annotation = self.expr(node.annotation)
        kind = annotation.value if isinstance(annotation, Const) else None
        if not isinstance(kind, Kind) or not isinstance(node.target, ast.Name) or not node.value:
            hint = "write `name: Bounded(lo, hi) = value`"
            raise self.error("this annotation is not a kind", node, hint)
        value = self.expr(node.value)
        name = node.target.id
        key = (self.frame.base, name)
        if key in self.variable_kinds and not same_kind(
            self.variable_kinds[key], kind, self.world.sizes
        ):
            if key in self.declared:
                raise self.error(f"{name} is declared twice, with different ranges", node)
            self.grew = (name, self.frame, node)  # what was assigned before was not checked
        self.frame.variables.add(name)
        self.variable_kinds[key] = kind
        self.declared.add(key)
        self.mark_assigned(name)
        self.assign_variable(name, value, node)

    def assign(self, target: ast.expr, value: Folded, node: ast.AST) -> None:
        if isinstance(target, ast.Tuple):
            if not isinstance(value, Many) or len(value.items) != len(target.elts):
                raise self.error("the two sides have different lengths", node)
            value = self.unaliased(value, node)
            assert isinstance(value, Many)
            for part, item in zip(target.elts, value.items, strict=True):
                self.assign(part, item, node)
        elif isinstance(target, ast.Name):
            self.mark_assigned(target.id)
            if target.id in self.frame.variables:
                self.assign_variable(target.id, value, node)
            else:
                self.frame.names[target.id] = self.unaliased(value, node)
        else:
            self.store(target, value, node)

    def mark_assigned(self, name: str) -> None:
        if name in self.frame.source.conditional and self.block.assigned is not None:
            self.block.assigned |= {(self.frame.serial, name)}

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
            self.grew = (name, self.frame, node)
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
        if inner is None and place.field.array is not None:
            hint = "assign to its elements"
            raise self.error(f"{place.field.key} is an array", node, hint)
        start = len(self.block.ops)
        code = self.operand(value, place.field.kind, node, place.field.key)
        for op in self.block.ops[start:]:
            op.ghost = place.field.ghost
        at = node if isinstance(node, ast.AugAssign) else target
        op = self.access("store", place, target, inner=inner, rest=(code,), at=at)
        op.first = self.block.ops[start]

    def store_record(self, record: Record, target: ast.Attribute, value: Any, node: Any) -> None:
        if target.attr not in record.cls.kinds:
            known = ", ".join(record.cls.kinds)
            raise self.error(f"{record.cls.__name__}.{target.attr} is not a field", node, known)
        kind = record.cls.kinds[target.attr]
        if (record.cls, target.attr) not in self.assigned_fields:
            self.assigned_fields.add((record.cls, target.attr))
            # it may have been taken for a constant before
            self.grew = (target.attr, self.frame, node)
        reg = self.register(record.context, f"{record.name}.{target.attr}", kind)
        self.stored.append(reg)
        code = self.operand(value, kind, node, f"{record.cls.__name__}.{target.attr}")
        self.emit("mov", node, dst=reg, args=(code,))

    def stmt_AugAssign(self, node: ast.AugAssign) -> None:
        load = ast.copy_location(self.as_load(node.target), node.target)
        operation: Any = ast.BinOp(load, node.op, node.value)
        ast.copy_location(operation, node)
        operation.number = number_of(node)
        value = self.expr(operation)
        self.assign_again(node, value)

    def as_load(self, target: ast.expr) -> ast.expr:
        """The target of `x += y` as the expression that reads it."""
        copy: Any = type(target)(**{f: getattr(target, f) for f in target._fields})
        copy.ctx = ast.Load()
        copy.number = number_of(target)
        return ast.copy_location(copy, target)

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
            if not block.reached:
                continue
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
        self.frame.loops.append(Loop(head, after, len(self.frame.held)))
        if body.reached:
            self.block = body
            self.statements(node.body)
            if self.block.end is None:
                self.block.end = ("jump", head)
        self.frame.loops.pop()
        self.come_to(after)

    def stmt_For(self, node: ast.For) -> None:
        self.unrolled(node, calls.iteration(self, self.expr(node.iter), node))

    def unrolled(self, node: ast.For, items: list[Folded]) -> None:
        """A loop over objects known now: each iteration in a context of its own."""
        after = Block()
        context = self.frame.context
        for position, item in enumerate(items):
            following = Block()
            self.frame.context = (*context, (number_of(node), position))
            loop = Loop(following, after, len(self.frame.held))
            self.frame.loops.append(loop)
            self.assign(node.target, item, node)
            self.statements(node.body)
            self.frame.loops.pop()
            if self.block.end is None:
                self.block.end = ("jump", following)
            self.come_to(following)
            if not following.reached:
                break
        self.frame.context = context
        if self.block.end is None:
            self.block.end = ("jump", after)
        self.come_to(after)

    def come_to(self, block: Block) -> None:
        """Go on in a block, if control comes to it."""
        self.block = block
        if not block.reached:
            self.unreachable()

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
        self.block.end = ("jump", loop.after if breaks else loop.following)

    def stmt_With(self, node: ast.With) -> None:
        calls.with_statement(self, node)
