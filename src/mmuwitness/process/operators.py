"""Folding of operators: arithmetic with the ranges of its results, comparison, `not`.

What Python would do with operands of other kinds (None in a sum, the order of two handles, the
truth of a value struct) has no meaning here and is refused.
"""

from __future__ import annotations

import ast
import operator
from typing import TYPE_CHECKING, Any

from mmuwitness.model.state import (
    Bool,
    Bounded,
    Kind,
    OfValue,
    Ref,
    Sequence,
    Snapshot,
    Value,
)
from mmuwitness.process.ir import SequenceOf, kind_of_constant
from mmuwitness.process.values import Bound, Const, Dyn, Folded, Many, Place

if TYPE_CHECKING:
    from mmuwitness.process.expressions import Expressions

BINARY: dict[type, tuple[str, Any]] = {
    ast.Add: ("add", operator.add),
    ast.Sub: ("sub", operator.sub),
    ast.Mult: ("mul", operator.mul),
    ast.BitAnd: ("and", operator.and_),
    ast.BitOr: ("or", operator.or_),
    ast.BitXor: ("xor", operator.xor),
    ast.LShift: ("shl", operator.lshift),
    ast.RShift: ("ashr", operator.rshift),
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
SHIFT_MAX = 62
"""Numbers are signed and have 64 bits."""

NUMBERS = "only numbers can be computed with"


def is_number(kind: Kind) -> bool:
    return isinstance(kind, Bool | Bounded)


def known_now(b: Expressions, function: Any, *values: Any, node: ast.AST) -> Const:
    """What an operator or a builtin gives for values that are known now."""
    try:
        return Const(function(*values))
    except Exception as error:
        raise b.error(str(error), node) from None


# -- truth and arithmetic ------------------------------------------------------------------


def truth(b: Expressions, value: Folded, node: ast.AST) -> bool | None:
    """The truth of a value: None if it is known only in a run (the value is a `Dyn` then)."""
    if isinstance(value, Dyn):
        if isinstance(value.kind, OfValue | Snapshot):
            hint = "ask for one of its parts, or compare it"
            raise b.error(f"{noun(value.kind)} is neither true nor false", node, hint)
        return None
    if isinstance(value, Place | Bound | Many):
        raise b.error("this is always true", node)
    if isinstance(value, Const) and isinstance(value.value, Value):
        raise b.error(f"{type(value.value).__name__} is neither true nor false", node)
    return bool(value.value) if isinstance(value, Const) else True  # a record is true


def unary(b: Expressions, node: ast.UnaryOp) -> Folded:
    if not isinstance(node.op, ast.Not | ast.USub):
        raise b.error(f"{type(node.op).__name__} cannot be used", node)
    value = b.expr(node.operand)
    if isinstance(node.op, ast.Not):
        known = truth(b, value, node)
        if known is not None:
            return Const(not known)
        code, kind = b.as_dyn(value, node)
        dst = b.temp(node, Bool())
        b.emit("bin", node, dst=dst, args=(code, 0), extra="eq")
        return Dyn(dst, Bool())
    if isinstance(value, Const):
        return known_now(b, operator.neg, value.value, node=node)
    code, kind = b.as_dyn(value, node)
    if not is_number(kind):
        raise b.error(NUMBERS, node)
    sizes = b.world.sizes
    dst = b.temp(node, Bounded(-kind.hi(sizes), -kind.lo))
    b.emit("bin", node, dst=dst, args=(0, code), extra="sub")
    return Dyn(dst, dst.kind)


def binary(b: Expressions, node: ast.BinOp) -> Folded:
    left, right = b.exprs(node.left, node.right)
    if type(node.op) not in BINARY:
        raise b.error(f"{type(node.op).__name__} cannot be used", node)
    name, function = BINARY[type(node.op)]
    if isinstance(left, Const) and isinstance(right, Const):
        return known_now(b, function, left.value, right.value, node=node)
    one, other = b.as_dyn(left, node), b.as_dyn(right, node)
    if not is_number(one[1]) or not is_number(other[1]):
        raise b.error(NUMBERS, node)
    kind = interval(b, name, one[1], other[1], node)
    dst = b.temp(node, kind)
    b.emit("bin", node, dst=dst, args=(one[0], other[0]), extra=name)
    return Dyn(dst, dst.kind)


def interval(b: Expressions, name: str, one: Kind, other: Kind, node: ast.AST) -> Kind:
    """The range of a result, from the ranges of its operands."""
    sizes = b.world.sizes
    ends = [(x, y) for x in (one.lo, one.hi(sizes)) for y in (other.lo, other.hi(sizes))]
    if name in ("and", "or", "xor"):
        return bits(one, other, sizes)
    if name in ("shl", "ashr") and (other.lo < 0 or other.hi(sizes) > SHIFT_MAX):
        hint = f"it may be {other.lo}..{other.hi(sizes)} here"
        raise b.error(f"a shift is by a number from 0 to {SHIFT_MAX}", node, hint)
    function = dict(BINARY.values())[name]
    results = [function(x, y) for x, y in ends]
    if min(results) < -(1 << SHIFT_MAX) or max(results) > 1 << SHIFT_MAX:
        raise b.error("the result may need more than 64 bits", node)
    return Bounded(min(results), max(results))


def bits(one: Kind, other: Kind, sizes: dict[str, int]) -> Kind:
    """The range of `&`, `|` and `^`."""
    if isinstance(one, Bool) and isinstance(other, Bool):
        return Bool()
    ends = (one.lo, other.lo, one.hi(sizes), other.hi(sizes))
    top = (1 << max((~end if end < 0 else end).bit_length() for end in ends)) - 1
    return Bounded(-top - 1 if min(ends) < 0 else 0, top)


# -- comparison ----------------------------------------------------------------------------


def compare(b: Expressions, node: ast.Compare) -> Folded:
    left, right = b.exprs(node.left, node.comparators[0])
    sign = type(node.ops[0])
    if sign not in COMPARE:
        raise b.error(f"{sign.__name__} cannot be used", node)
    name, function = COMPARE[sign]
    if sign in (ast.Is, ast.IsNot) and not may_be_identical(left, right):
        hint = "write == or !="
        raise b.error("`is` is for handles, for None and for what is known now", node, hint)
    if isinstance(left, Const) and isinstance(right, Const):
        return known_now(b, function, left.value, right.value, node=node)
    if isinstance(left, Place) or isinstance(right, Place):
        return compare_sequence(b, left, right, name, node)
    one, other = b.as_dyn(left, node), b.as_dyn(right, node)
    refuse_incomparable(b, one[1], other[1], name, node)
    decided = decided_by_range(b, name, one[1], other[1])
    if decided is not None:
        return Const(decided)
    dst = b.temp(node, Bool())
    b.emit("bin", node, dst=dst, args=(one[0], other[0]), extra=name)
    return Dyn(dst, Bool())


def may_be_identical(left: Folded, right: Folded) -> bool:
    """True if one side is None, or neither is a number, a value or a snapshot: those are not one
    thing wherever they are named."""
    kinds = []
    for side in (left, right):
        if isinstance(side, Const) and side.value is None:
            return True
        kinds.append(side.kind if isinstance(side, Dyn) else kind_of_constant(known(side)))
    return all(kind is None or isinstance(kind, Ref) for kind in kinds)


def known(side: Folded) -> Any:
    return side.value if isinstance(side, Const) else None


def noun(kind: Kind) -> str:
    """What values of a kind are called, for an error message."""
    if isinstance(kind, Ref):
        return kind.struct or "None"
    if isinstance(kind, OfValue):
        return kind.cls.__name__
    return "a snapshot" if isinstance(kind, Snapshot) else "a number"


def refuse_incomparable(b: Expressions, one: Kind, other: Kind, name: str, node: ast.AST) -> None:
    """Numbers compare with numbers, and have an order; handles of a struct and None, and values
    of a class, are equal or not.  A snapshot compares with its sequence only."""
    if is_number(one) and is_number(other):
        return
    same = False
    if isinstance(one, Ref) and isinstance(other, Ref):
        same = one.struct == other.struct or not one.struct or not other.struct
    elif isinstance(one, OfValue) and isinstance(other, OfValue):
        same = one.cls is other.cls
    if not same:
        hint = "compare it with its sequence" if isinstance(one, Snapshot) else ""
        raise b.error(f"{noun(one)} and {noun(other)} cannot be compared", node, hint)
    if name not in ("eq", "ne"):
        raise b.error(f"{noun(one)} has no order: only numbers have", node)


def decided_by_range(b: Expressions, name: str, one: Kind, other: Kind) -> bool | None:
    """What an order comparison always gives, if the ranges of its sides do not overlap."""
    if name in ("eq", "ne"):
        return None
    sizes = b.world.sizes
    function = dict(COMPARE.values())[name]
    low, high = function(one.lo, other.hi(sizes)), function(one.hi(sizes), other.lo)
    return bool(low) if low == high else None


def sequence_of(b: Expressions, place: Place) -> SequenceOf:
    """Which sequence a place is."""
    if isinstance(place.of, int):
        return place.field.key, place.of
    return place.field.key, 0 if b.world.sizes[place.field.struct] == 1 else None


def compare_sequence(
    b: Expressions, left: Folded, right: Folded, name: str, node: ast.Compare
) -> Folded:
    """sequence == snapshot: fresh; != : stale.  A read of the sequence."""
    place, other = (left, right) if isinstance(left, Place) else (right, left)
    fits = isinstance(other, Dyn) and isinstance(other.kind, Snapshot)
    equality = type(node.ops[0]) in (ast.Eq, ast.NotEq)
    sequence = isinstance(place, Place) and isinstance(place.field.kind, Sequence)
    if not fits or not sequence or not equality:
        hint = "a sequence can be compared by == and != with its own snapshot only"
        raise b.error("this comparison has no meaning", node, hint)
    assert isinstance(other, Dyn) and isinstance(place, Place)
    fresh = b.temp(node, Bool())
    b.access("fresh", place, node, dst=fresh, rest=(other.reg,), extra=sequence_of(b, place))
    if name == "eq":
        return Dyn(fresh, Bool())
    stale = b.temp(node, Bool(), "n")
    b.emit("bin", node, dst=stale, args=(fresh, 0), extra="eq")
    result = b.temp(node, Bool())
    b.emit("mov", node, dst=result, args=(stale,))
    return Dyn(result, Bool())
