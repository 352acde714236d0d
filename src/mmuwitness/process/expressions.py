"""Folding of expressions: what is known now becomes a constant, the rest becomes operations.

Evaluation order is Python's own, because replay runs the same text: operands left to right, the
value of an assignment before its target.
"""

from __future__ import annotations

import ast
import builtins
import operator
from collections import abc
from collections.abc import Iterator
from typing import Any

from mmuwitness.model.primitives import FeatureNames
from mmuwitness.model.state import (
    Bool,
    Bounded,
    Field,
    Kind,
    Local,
    Lock,
    OfValue,
    RangeError,
    Ref,
    Sequence,
    Struct,
    Value,
    World,
)
from mmuwitness.process import operators
from mmuwitness.process.ir import Block, Context, Op, Operand, Reg, Site, kind_of_constant
from mmuwitness.process.language import ALLOWED_EXPRESSIONS, number_of
from mmuwitness.process.values import Bound, Const, Dyn, Folded, Many, Place, Record

IN_CLAIMS = {"mov", "bin", "load", "extract", "insert", "check"}
"""What a claim is made of."""

PURE = IN_CLAIMS | {"fresh", "loop"}
"""What a test that waits is made of: operations that change nothing."""

CANNOT_BE_ATOMIC = {"acquire", "release", "try", "wait", "choose"}

EXPR_METHODS: dict[type[ast.expr], str] = {
    kind: f"expr_{kind.__name__}" for kind in ALLOWED_EXPRESSIONS
}


class Expressions:
    """Base of the builder: expressions.  Subclassed by `cfg.Builder`, which adds statements."""

    world: World
    frame: Any
    assigned_fields: set[tuple[type, str]]
    block: Block
    has_feature: Any
    is_claim: bool
    kept: set[tuple[Context, int]]  # operands that have to be copied
    stored: list[Reg]  # fields of records, as they are assigned
    grew: tuple[str, Any, ast.AST] | None
    effects: int

    # -- emission --------------------------------------------------------------------------

    def site(self, node: ast.AST, sub: int = 0) -> Site:
        return Site(self.frame.context, number_of(node) * 16 + sub)

    def emit(self, code: str, node: ast.AST, **parts: Any) -> Op:
        if code not in IN_CLAIMS:
            self.refuse_here(code, node)
            self.effects += code not in PURE
        op = Op(code, self.frame.text, node, **parts)
        op.region = self.frame.region
        self.block.ops.append(op)
        return op

    def refuse_here(self, code: str, node: ast.AST) -> None:
        """An error if an operation cannot stand in the claim or the atomic region around it."""
        if self.is_claim:
            hint = "a claim reads state and does nothing else"
            raise self.error(f"{code} cannot stand in a claim", node, hint)
        if code in CANNOT_BE_ATOMIC and self.frame.region:
            hint = "leave the region before the lock is dropped" if code == "release" else ""
            raise self.error(f"{code} cannot stand in an atomic region", node, hint)

    def temp(self, node: ast.AST, kind: Kind, suffix: str = "") -> Reg:
        name = f"_t{number_of(node)}{suffix}"
        return self.register(self.frame.base, name, kind)

    def register(self, context: Any, name: str, kind: Kind) -> Reg:
        raise NotImplementedError

    def error(self, message: str, node: ast.AST, hint: str = "") -> Exception:
        return self.frame.text.error(message, node, hint)

    # -- coercion --------------------------------------------------------------------------

    def operand(self, value: Folded, kind: Kind, node: ast.AST, what: str) -> Operand:
        """`value` as a coded operand of `kind`; emits a check where it might not fit."""
        sizes = self.world.sizes
        if isinstance(value, Const):
            try:
                return kind.encode(value.value, sizes)
            except (RangeError, TypeError, ValueError, AttributeError) as error:
                raise self.error(f"{what}: {error}", node) from None
        if not isinstance(value, Dyn):
            raise self.error(f"{what}: a {type(value).__name__.lower()} cannot be stored", node)
        have = value.kind
        if isinstance(kind, Bool | Bounded) and isinstance(have, Bool | Bounded):
            lo, hi = kind.lo, kind.hi(sizes)
            if have.lo < lo or have.hi(sizes) > hi:
                message = f"{what}: the value is outside its range {lo}..{hi}"
                self.emit("check", node, args=(value.reg,), extra=(lo, hi, message))
            return value.reg
        same = type(kind) is type(have) and (
            getattr(kind, "struct", None) == getattr(have, "struct", None)
            and getattr(kind, "cls", None) is getattr(have, "cls", None)
        )
        if not same:
            raise self.error(f"{what}: a {type(have).__name__} does not fit", node)
        return value.reg

    def as_dyn(self, value: Folded, node: ast.AST) -> tuple[Operand, Kind]:
        """An operand and its kind, for arithmetic and comparison."""
        if isinstance(value, Dyn):
            return value.reg, value.kind
        if isinstance(value, Const):
            if value.value is None:
                return 0, Ref("")
            kind = kind_of_constant(value.value)
            if kind is not None:
                return kind.encode(value.value, self.world.sizes), kind
        raise self.error("this value cannot be computed with", node)

    # -- expressions -----------------------------------------------------------------------

    def expr(self, node: ast.expr) -> Folded:
        return getattr(self, EXPR_METHODS[type(node)])(node)

    def exprs(self, *nodes: ast.expr) -> list[Folded]:
        """Operands, left to right; each keeps the value it had before a call beside it."""
        before = len(self.stored)
        values = []
        for node in nodes:
            value = self.expr(node)
            if self.kept and (self.frame.base, number_of(node)) in self.kept:
                value = self.unaliased(value, node)
            values.append(value)
        self.keep_stored(values, nodes, before)
        return values

    def keep_stored(self, values: list[Folded], nodes: abc.Sequence[ast.expr], before: int) -> None:
        """A field of a record that changes before its value is used is copied the next time."""
        if len(self.stored) == before:
            return
        stored = self.stored[before:]
        for value, node in zip(values, nodes, strict=True):
            if any(reg in stored for reg in registers_of(value)):
                self.kept.add((self.frame.base, number_of(node)))
                self.grew = ("a field", self.frame, node)

    def unaliased(self, value: Folded, node: ast.AST, suffix: str = "") -> Folded:
        """The value that a variable, or a field of a record, has now."""
        if isinstance(value, Many):
            items = (self.unaliased(v, node, f"{suffix}[{i}]") for i, v in enumerate(value.items))
            return Many(tuple(items))
        reg = next(registers_of(value), None)
        if reg is None or (reg.name.startswith("_t") and "." not in reg.name):
            return value
        copy = self.temp(node, reg.kind, suffix)
        self.emit("mov", node, dst=copy, args=(reg,))
        return Place(value.field, copy) if isinstance(value, Place) else Dyn(copy, reg.kind)

    def expr_Constant(self, node: ast.Constant) -> Folded:
        return Const(node.value)

    def expr_Tuple(self, node: ast.Tuple) -> Folded:
        return Many(tuple(self.exprs(*node.elts)))

    def expr_Name(self, node: ast.Name) -> Folded:
        if node.id in self.frame.source.conditional:
            self.check_assigned(node)
        bound = self.frame.lookup(self, node.id)
        if bound is not None:
            return bound
        scope = self.frame.source.function.__globals__
        if node.id in scope:
            return Const(scope[node.id])
        if hasattr(builtins, node.id):
            return Const(getattr(builtins, node.id))
        hint = (
            "it is assigned later, or only on another path" if node.id in self.frame.names else ""
        )
        raise self.error(f"{node.id} has no value here", node, hint)

    def check_assigned(self, node: ast.Name) -> None:
        """A local that only some paths assign has been assigned on every path that comes here."""
        assigned = self.block.assigned
        if assigned is not None and (self.frame.serial, node.id) not in assigned:
            hint = "assign it before the branch or the loop, too"
            raise self.error(f"{node.id} may have no value here", node, hint)

    def expr_Attribute(self, node: ast.Attribute) -> Folded:
        base = self.expr(node.value)
        name = node.attr
        if isinstance(base, Record):
            return self.record_field(base, name, node)
        if isinstance(base, Place) and isinstance(base.field.kind, Sequence):
            return Bound(name, base)
        if isinstance(base, Dyn) and isinstance(base.kind, OfValue):
            return self.value_part(base, name, node)
        if isinstance(base, Dyn) and isinstance(base.kind, Ref):
            cls = type(self.world.instances(base.kind.struct)[0])
            if name in cls.fields:
                return self.field_of(cls.fields[name], base.reg, node)
            self.not_none(base.reg, base.kind.struct, node)
            return Const(self.common_constant(base, name, node))
        if isinstance(base, Const):
            return self.constant_attribute(base.value, name, node)
        raise self.error(f".{name}: there is no such thing here", node)

    def constant_attribute(self, value: Any, name: str, node: ast.Attribute) -> Folded:
        if isinstance(value, FeatureNames):
            return Const(self.has_feature(name))
        if isinstance(value, Struct) and name in value.fields:
            return self.field_of(value.fields[name], value.index, node)
        if isinstance(value, Value) and name == "replace":
            return Bound("replace", Const(value))
        if value is None:
            raise self.error(f"None.{name}: the handle is None here", node)
        try:
            return Const(getattr(value, name))
        except AttributeError:
            known = ", ".join(sorted(n for n in dir(value) if not n.startswith("_"))[:30])
            raise self.error(f"{value!r} has no {name}", node, f"it has: {known}") from None

    def common_constant(self, base: Dyn, name: str, node: ast.AST) -> Any:
        """A constant attribute of a handle: it must be the same for every instance."""
        assert isinstance(base.kind, Ref)
        found = self.world.constants(base.kind.struct, name)
        if found[0] is None or any(f is not found[0] and f != found[0] for f in found):
            raise self.error(f".{name} is not a field, and differs between instances", node)
        return found[0]

    def access(self, code: str, place: Place, node: ast.AST, **parts: Any) -> Op:
        """An operation on a place; the step it may begin covers the following of its handle.

        parts: `inner`, the index into an array field; `rest`, further operands."""
        block, start = self.block, len(self.block.ops)
        element = self.element(place, parts.pop("inner", None), node)
        args = (element, *parts.pop("rest", ()))
        site = self.site(parts.pop("at", node), parts.pop("sub", 0))
        parts |= {"field": place.field, "args": args, "site": site}
        op = self.emit(code, node, ghost=place.field.ghost, **parts)
        op.first, op.handle = block.ops[start], place.of
        return op

    def instance(self, place: Place, node: ast.AST) -> Operand:
        """The instance index of a place; a handle that is None is an error of the model."""
        if isinstance(place.of, int):
            return place.of
        struct = place.field.struct
        self.not_none(place.of, struct, node)
        index = self.temp(node, Bounded(0, self.world.sizes[struct] - 1), "i")
        self.emit("bin", node, dst=index, args=(place.of, 1), extra="sub")
        return index

    def not_none(self, handle: Reg, struct: str, node: ast.AST) -> None:
        """A check that a handle is not None, unless this block has one already."""
        for op in reversed(self.block.ops):
            if op.dst is handle:
                break
            if op.code == "check" and op.args[0] is handle and op.extra[0] == 1:
                return
        extra = (1, self.world.sizes[struct], f"None used as a {struct}")
        self.emit("check", node, args=(handle,), extra=extra)

    def element(self, place: Place, inner: Folded | None, node: ast.AST) -> Operand:
        """The flat element number of a place, or of place[inner]; checked against the length."""
        of = self.instance(place, node)
        if inner is None:
            return of
        length = place.field.length(self.world.sizes)
        offset = self.operand(inner, Bounded(0, length - 1), node, f"{place.field.key}[]")
        if isinstance(offset, int) and isinstance(of, int):
            return of * length + offset
        if of == 0:
            return offset
        total = Bounded(0, self.world.sizes[place.field.struct] * length)
        scaled, flat = self.temp(node, total, "m"), self.temp(node, total, "e")
        self.emit("bin", node, dst=scaled, args=(of, length), extra="mul")
        self.emit("bin", node, dst=flat, args=(scaled, offset), extra="add")
        return flat

    def field_of(self, field: Field, of: Operand, node: ast.AST) -> Folded:
        place = Place(field, of)
        if field.array is not None or isinstance(field.kind, Lock | Sequence):
            if isinstance(of, Reg):
                self.not_none(of, field.struct, node)
            return place
        return self.load(place, None, node)

    def load(self, place: Place, inner: Folded | None, node: ast.AST) -> Folded:
        dst = self.temp(node, place.field.kind)
        self.access("load", place, node, dst=dst, inner=inner)
        return Dyn(dst, place.field.kind)

    def expr_Subscript(self, node: ast.Subscript) -> Folded:
        base, index = self.exprs(node.value, node.slice)
        if isinstance(base, Place) and base.field.array is not None:
            return self.load(base, index, node)
        items: list[Any] | tuple[Any, ...] | None = base.items if isinstance(base, Many) else None
        if isinstance(base, Const) and isinstance(base.value, list | tuple):
            items = base.value
        if isinstance(base, Const) and isinstance(index, Const) and items is None:
            return operators.known_now(self, operator.getitem, base.value, index.value, node=node)
        if items is None:
            raise self.error("this cannot be indexed", node)
        if isinstance(index, Dyn) and isinstance(index.kind, Bool | Bounded):
            return self.select_instance(items, index, node)
        if not isinstance(index, Const) or not isinstance(index.value, int):
            raise self.error("an index is a number", node)
        if not 0 <= index.value < len(items):
            raise self.error(f"the index {index.value} is outside 0..{len(items) - 1}", node)
        found = items[index.value]
        return found if isinstance(base, Many) else Const(found)

    def select_instance(self, items: Any, index: Dyn, node: ast.AST) -> Folded:
        """items[index] where items are instances of a struct that follow one another: a handle."""
        known = items and isinstance(items[0], Struct)
        instances = self.world.instances(type(items[0]).__name__) if known else []
        first = instances.index(items[0]) if known else 0
        if not known or list(items) != instances[first : first + len(items)]:
            hint = "declare it as an array field, or choose by `if`"
            message = (
                "only instances of a struct that follow one another have an index known in a run"
            )
            raise self.error(message, node, hint)
        kind = Ref(type(items[0]).__name__)
        self.operand(index, Bounded(0, len(items) - 1), node, "index")
        dst = self.temp(node, kind)
        self.emit("bin", node, dst=dst, args=(index.reg, 1 + first), extra="add")
        return Dyn(dst, kind)

    def value_part(self, base: Dyn, name: str, node: ast.AST) -> Folded:
        assert isinstance(base.kind, OfValue)
        if name == "replace":
            return Bound("replace", base)
        for part, kind, shift, width in base.kind.parts(self.world.sizes):
            if part == name:
                dst = self.temp(node, kind)
                extra = (shift, width, kind.lo)
                self.emit("extract", node, dst=dst, args=(base.reg,), extra=extra)
                return Dyn(dst, kind)
        known = ", ".join(base.kind.cls.kinds)
        raise self.error(f"{base.kind.cls.__name__} has no field {name}", node, f"it has: {known}")

    def build_value(
        self, base: Folded, cls: type[Value], parts: dict[str, Any], node: ast.AST
    ) -> Any:
        """`base` (Const or Dyn value) with `parts` replaced."""
        unknown = [n for n in parts if n not in cls.kinds]
        if unknown:
            known = ", ".join(cls.kinds)
            raise self.error(f"{cls.__name__} has no field {unknown[0]}", node, f"it has: {known}")
        kind = OfValue(cls)
        width = kind.width(self.world.sizes)
        if width > 64:
            raise self.error(f"{cls.__name__} has {width} bits; at most 64 fit", node)
        if isinstance(base, Const):
            fixed = {n: p.value for n, p in parts.items() if isinstance(p, Const)}
            base = Const(base.value.replace(**fixed))
            parts = {n: p for n, p in parts.items() if n not in fixed}
            if not parts:
                self.operand(base, kind, node, cls.__name__)  # it fits
                return base
        packed = self.operand(base, kind, node, cls.__name__)
        for position, (part, sub, shift, width) in enumerate(kind.parts(self.world.sizes)):
            if part not in parts:
                continue
            code = self.operand(parts[part], sub, node, f"{cls.__name__}.{part}")
            dst = self.temp(node, kind, f"p{position}")
            self.emit("insert", node, dst=dst, args=(packed, code), extra=(shift, width, sub.lo))
            packed = dst
        result = self.temp(node, kind)
        self.emit("mov", node, dst=result, args=(packed,))
        return Dyn(result, kind)

    def record_field(self, record: Record, name: str, node: ast.AST) -> Folded:
        if name in record.constants:
            return record.constants[name]
        if name not in record.cls.kinds:
            known = ", ".join([*record.cls.kinds, *record.constants])
            raise self.error(f"{record.cls.__name__} has no {name}", node, f"it has: {known}")
        kind = record.cls.kinds[name]
        given = record.given.get(name)
        if isinstance(given, Const) and (record.cls, name) not in self.assigned_fields:
            return given
        return Dyn(self.register(record.context, f"{record.name}.{name}", kind), kind)

    def make_record(self, cls: type[Local], parts: dict[str, Any], node: ast.Call) -> Folded:
        constants = {n: v for n, v in parts.items() if n not in cls.kinds}
        record = Record(cls, self.frame.base, f"_t{number_of(node)}", constants, parts)
        for name, kind in cls.kinds.items():
            value = parts.get(name, Const(kind.default()))
            code = self.operand(value, kind, node, f"{cls.__name__}.{name}")
            reg = self.register(record.context, f"{record.name}.{name}", kind)
            self.emit("mov", node, dst=reg, args=(code,))
        return record

    # -- operators -------------------------------------------------------------------------

    expr_UnaryOp = operators.unary
    expr_BinOp = operators.binary
    expr_Compare = operators.compare

    def expr_BoolOp(self, node: ast.BoolOp) -> Folded:
        """`and`/`or` as a value: evaluated by branches, since the right side may not run."""
        return self.by_branches(node, Const(True), Const(False))

    def expr_IfExp(self, node: ast.IfExp) -> Folded:
        raise NotImplementedError

    def by_branches(self, node: ast.expr, yes: Const, no: Const) -> Folded:
        raise NotImplementedError


def registers_of(value: Folded) -> Iterator[Reg]:
    """The registers that a value is in, or the handle to what it is part of."""
    if isinstance(value, Many):
        for item in value.items:
            yield from registers_of(item)
    elif isinstance(value, Dyn):
        yield value.reg
    elif isinstance(value, Place) and isinstance(value.of, Reg):
        yield value.of
