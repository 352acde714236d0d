"""Folding of expressions: what is known now becomes a constant, the rest becomes operations.

Evaluation order is Python's own, because replay runs the same text: operands left to right, the
value of an assignment before its target.
"""

from __future__ import annotations

import ast
import builtins
import operator
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
    Snapshot,
    Struct,
    Value,
    World,
)
from mmuwitness.process.ir import Block, Op, Operand, Reg, Site, kind_of_constant
from mmuwitness.process.language import ALLOWED_EXPRESSIONS, number_of
from mmuwitness.process.values import Bound, Const, Dyn, Folded, Many, Place, Record

BINARY: dict[type, tuple[str, Any]] = {
    ast.Add: ("add", operator.add),
    ast.Sub: ("sub", operator.sub),
    ast.Mult: ("mul", operator.mul),
    ast.BitAnd: ("and", operator.and_),
    ast.BitOr: ("or", operator.or_),
    ast.BitXor: ("xor", operator.xor),
    ast.LShift: ("shl", operator.lshift),
    ast.RShift: ("lshr", operator.rshift),
}
COMPARE: dict[type, tuple[str, Any]] = {
    ast.Eq: ("eq", operator.eq),
    ast.NotEq: ("ne", operator.ne),
    ast.Lt: ("lt", operator.lt),
    ast.LtE: ("le", operator.le),
    ast.Gt: ("gt", operator.gt),
    ast.GtE: ("ge", operator.ge),
    ast.Is: ("eq", operator.is_),
    ast.IsNot: ("ne", operator.is_not),
}


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

    # -- emission --------------------------------------------------------------------------

    def site(self, node: ast.AST, sub: int = 0) -> Site:
        return Site(self.frame.context, number_of(node) * 16 + sub)

    def emit(self, code: str, node: ast.AST, **parts: Any) -> Op:
        op = Op(code, self.frame.source, node, **parts)
        op.region = self.frame.region
        self.block.ops.append(op)
        return op

    def temp(self, node: ast.AST, kind: Kind, suffix: str = "") -> Reg:
        name = f"_t{number_of(node)}{suffix}"
        return self.register(self.frame.base, name, kind)

    def register(self, context: Any, name: str, kind: Kind) -> Reg:
        raise NotImplementedError

    def error(self, message: str, node: ast.AST, hint: str = "") -> Exception:
        return self.frame.source.error(message, node, hint)

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

    def expr_Constant(self, node: ast.Constant) -> Folded:
        return Const(node.value)

    def expr_Tuple(self, node: ast.Tuple) -> Folded:
        return Many(tuple(self.expr(e) for e in node.elts))

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
        found = [getattr(i, name, None) for i in self.world.instances(base.kind.struct)]
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
        op.first = block.ops[start]
        return op

    def instance(self, place: Place, node: ast.AST) -> Operand:
        """The instance index of a place; a handle that is None is an error of the model."""
        if isinstance(place.of, int):
            return place.of
        struct = place.field.struct
        high = self.world.sizes[struct]
        if not any(
            op.code == "check" and op.args[0] is place.of and op.extra[0] == 1
            for op in self.block.ops
        ) or any(op.dst is place.of for op in self.block.ops):
            extra = (1, high, f"None used as a {struct}")
            self.emit("check", node, args=(place.of,), extra=extra)
        index = self.temp(node, Bounded(0, high - 1), "i")
        self.emit("bin", node, dst=index, args=(place.of, 1), extra="sub")
        return index

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
            return place
        return self.load(place, None, node)

    def load(self, place: Place, inner: Folded | None, node: ast.AST) -> Folded:
        dst = self.temp(node, place.field.kind)
        self.access("load", place, node, dst=dst, inner=inner)
        return Dyn(dst, place.field.kind)

    def expr_Subscript(self, node: ast.Subscript) -> Folded:
        base, index = self.expr(node.value), self.expr(node.slice)
        if isinstance(base, Place):
            return self.load(base, index, node)
        if isinstance(base, Many) and isinstance(index, Const):
            return base.items[index.value]
        if isinstance(base, Const) and isinstance(index, Const):
            return Const(base.value[index.value])
        if isinstance(base, Const) and isinstance(index, Dyn):
            return self.select_instance(base.value, index, node)
        raise self.error("this cannot be indexed", node)

    def select_instance(self, items: Any, index: Dyn, node: ast.AST) -> Folded:
        """items[index] where items are all instances of a struct in order: a handle."""
        world_items = self.world.instances(type(items[0]).__name__)
        if list(items) != list(world_items):
            raise self.error("only the full list of a struct's instances can be indexed", node)
        kind = Ref(type(items[0]).__name__)
        self.operand(index, Bounded(0, len(items) - 1), node, "index")
        dst = self.temp(node, kind)
        self.emit("bin", node, dst=dst, args=(index.reg, 1), extra="add")
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
        if isinstance(base, Const):
            fixed = {n: p.value for n, p in parts.items() if isinstance(p, Const)}
            base = Const(base.value.replace(**fixed))
            parts = {n: p for n, p in parts.items() if n not in fixed}
            if not parts:
                return base
        kind = OfValue(cls)
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

    def expr_UnaryOp(self, node: ast.UnaryOp) -> Folded:
        if not isinstance(node.op, ast.Not | ast.USub):
            raise self.error(f"{type(node.op).__name__} cannot be used", node)
        value = self.expr(node.operand)
        if isinstance(value, Const):
            return Const(not value.value if isinstance(node.op, ast.Not) else -value.value)
        code, kind = self.as_dyn(value, node)
        if isinstance(node.op, ast.Not):
            dst = self.temp(node, Bool())
            self.emit("bin", node, dst=dst, args=(code, 0), extra="eq")
            return Dyn(dst, Bool())
        sizes = self.world.sizes
        dst = self.temp(node, Bounded(-kind.hi(sizes), -kind.lo))
        self.emit("bin", node, dst=dst, args=(0, code), extra="sub")
        return Dyn(dst, dst.kind)

    def expr_BinOp(self, node: ast.BinOp) -> Folded:
        left, right = self.expr(node.left), self.expr(node.right)
        if type(node.op) not in BINARY:
            raise self.error(f"{type(node.op).__name__} cannot be used", node)
        name, function = BINARY[type(node.op)]
        if isinstance(left, Const) and isinstance(right, Const):
            return Const(function(left.value, right.value))
        return self.arithmetic(name, left, right, node)

    def arithmetic(self, name: str, left: Folded, right: Folded, node: ast.AST) -> Dyn:
        a, a_kind = self.as_dyn(left, node)
        b, b_kind = self.as_dyn(right, node)
        numbers = isinstance(a_kind, Bool | Bounded) and isinstance(b_kind, Bool | Bounded)
        if not numbers:
            raise self.error("only numbers can be computed with", node)
        kind = self.interval(name, a_kind, b_kind)
        dst = self.temp(node, kind)
        self.emit("bin", node, dst=dst, args=(a, b), extra=name)
        return Dyn(dst, dst.kind)

    def interval(self, name: str, a: Kind, b: Kind) -> Kind:
        """The range of a result, from the ranges of its operands."""
        sizes = self.world.sizes
        ends = [(x, y) for x in (a.lo, a.hi(sizes)) for y in (b.lo, b.hi(sizes))]
        if name in ("and", "or", "xor"):
            if isinstance(a, Bool) and isinstance(b, Bool):
                return Bool()
            top = max(a.hi(sizes), b.hi(sizes))
            return Bounded(0, (1 << top.bit_length()) - 1)
        function = dict(BINARY.values())[name]
        results = [function(x, y) for x, y in ends]
        return Bounded(min(results), max(results))

    def expr_Compare(self, node: ast.Compare) -> Folded:
        left, right = self.expr(node.left), self.expr(node.comparators[0])
        if type(node.ops[0]) not in COMPARE:
            raise self.error(f"{type(node.ops[0]).__name__} cannot be used", node)
        name, function = COMPARE[type(node.ops[0])]
        if isinstance(left, Const) and isinstance(right, Const):
            return Const(bool(function(left.value, right.value)))
        if isinstance(left, Place) or isinstance(right, Place):
            return self.compare_sequence(left, right, name, node)
        a, a_kind = self.as_dyn(left, node)
        b, b_kind = self.as_dyn(right, node)
        decided = self.decided_by_range(name, a_kind, b_kind)
        if decided is not None:
            return Const(decided)
        comparable = type(a_kind) is type(b_kind) or (
            isinstance(a_kind, Bool | Bounded) and isinstance(b_kind, Bool | Bounded)
        )
        if not comparable:
            what = f"{type(a_kind).__name__} and {type(b_kind).__name__}"
            raise self.error(f"{what} cannot be compared", node)
        dst = self.temp(node, Bool())
        self.emit("bin", node, dst=dst, args=(a, b), extra=name)
        return Dyn(dst, Bool())

    def decided_by_range(self, name: str, a: Kind, b: Kind) -> bool | None:
        """What an order comparison always gives, if the ranges of its sides do not overlap."""
        if name in ("eq", "ne") or not isinstance(a, Bool | Bounded):
            return None
        sizes = self.world.sizes
        function = dict(COMPARE.values())[name]
        low, high = function(a.lo, b.hi(sizes)), function(a.hi(sizes), b.lo)
        return bool(low) if low == high else None

    def compare_sequence(self, left: Folded, right: Folded, name: str, node: ast.Compare) -> Folded:
        """sequence == snapshot: fresh; != : stale.  A read of the sequence."""
        place, other = (left, right) if isinstance(left, Place) else (right, left)
        fits = isinstance(other, Dyn) and isinstance(other.kind, Snapshot)
        equality = type(node.ops[0]) in (ast.Eq, ast.NotEq)
        sequence = isinstance(place, Place) and isinstance(place.field.kind, Sequence)
        if not fits or not sequence or not equality:
            hint = "a sequence can be compared by == and != with its own snapshot only"
            raise self.error("this comparison has no meaning", node, hint)
        assert isinstance(other, Dyn) and isinstance(place, Place)
        fresh = self.temp(node, Bool())
        self.access("fresh", place, node, dst=fresh, rest=(other.reg,))
        if name == "eq":
            return Dyn(fresh, Bool())
        stale = self.temp(node, Bool(), "n")
        self.emit("bin", node, dst=stale, args=(fresh, 0), extra="eq")
        result = self.temp(node, Bool())
        self.emit("mov", node, dst=result, args=(stale,))
        return Dyn(result, Bool())

    def expr_BoolOp(self, node: ast.BoolOp) -> Folded:
        """`and`/`or` as a value: evaluated by branches, since the right side may not run."""
        return self.by_branches(node, Const(True), Const(False))

    def expr_IfExp(self, node: ast.IfExp) -> Folded:
        raise NotImplementedError

    def by_branches(self, node: ast.expr, yes: Const, no: Const) -> Folded:
        raise NotImplementedError
