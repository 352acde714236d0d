"""What the primitives, the methods of sequences and values, and a few builtins fold to."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

from mmuwitness.model.primitives import Primitive
from mmuwitness.model.state import Bool, Bounded, Lock, Ref, Sequence, Snapshot
from mmuwitness.process.ir import Block
from mmuwitness.process.language import number_of
from mmuwitness.process.values import Bound, Const, Dyn, Folded, Many, Place

if TYPE_CHECKING:
    from mmuwitness.process.statements import Statements

ACQUIRE = {"spin_lock": "w", "write_lock": "w", "read_lock": "r"}


def primitive(b: Statements, which: Primitive, node: ast.Call) -> Folded:
    """A call of a primitive as an expression or statement."""
    if which.name in ACQUIRE or which.name == "atomic":
        hint = f"write `with {which.name}(...):`"
        raise b.error(f"{which.name}() is used as a statement of its own", node, hint)
    return globals()["do_" + which.name](b, node)


def lock_argument(b: Statements, node: ast.Call) -> Place:
    place = b.expr(node.args[0]) if node.args else None
    if not isinstance(place, Place) or not isinstance(place.field.kind, Lock):
        raise b.error("this is not a lock", node)
    return place


def acquire(b: Statements, node: ast.Call, mode: str) -> Place:
    place = lock_argument(b, node)
    if mode == "r" and not place.field.kind.shared:
        raise b.error(f"{place.field.key} cannot be held shared", node, "declare it as RwLock()")
    b.access("acquire", place, node, extra=mode)
    return place


def release(b: Statements, place: Place, mode: str, node: ast.AST, depth: int = 0) -> None:
    b.access("release", place, node, extra=mode, sub=1 + depth)


def do_lock(b: Statements, node: ast.Call) -> Folded:
    acquire(b, node, "w")
    return Const(None)


def do_unlock(b: Statements, node: ast.Call) -> Folded:
    release(b, lock_argument(b, node), "w", node)
    return Const(None)


def do_trylock(b: Statements, node: ast.Call) -> Folded:
    place = lock_argument(b, node)
    got = b.temp(node, Bool())
    b.access("try", place, node, dst=got, extra="w")
    return Dyn(got, Bool())


def do_wait_until(b: Statements, node: ast.Call) -> Folded:
    """The predicate is one atomic evaluation; the step is disabled while it is false."""
    b.emit("wait", node, site=b.site(node))
    outer = enter_region(b)
    on_true, blocked = Block(), Block(end=("blocked",))
    known = b.condition(node.args[0], on_true, blocked)
    if known is not None:
        raise b.error(f"this is always {known}", node)
    b.block, b.frame.region = on_true, outer
    return Const(None)


def enter_region(b: Statements) -> int:
    """Start an atomic region; returns the enclosing one (a nested region is part of it)."""
    outer: int = b.frame.region
    if not outer:
        b.region_count += 1
        b.frame.region = b.region_count
    return outer


def do_choose(b: Statements, node: ast.Call) -> Folded:
    n = b.expr(node.args[0])
    if not isinstance(n, Const) or not isinstance(n.value, int) or n.value < 1:
        raise b.error("choose(n) takes a number known when the host is wired", node)
    if n.value == 1:
        return Const(0)
    kind = Bounded(0, n.value - 1)
    dst = b.temp(node, kind)
    b.emit("choose", node, dst=dst, extra=n.value, site=b.site(node))
    return Dyn(dst, kind)


def do_cover(b: Statements, node: ast.Call) -> Folded:
    text = b.expr(node.args[0])
    if not isinstance(text, Const) or not isinstance(text.value, str):
        raise b.error("cover() takes a text", node)
    b.emit("cover", node, extra=text.value)
    return Const(None)


def do_warn_on(b: Statements, node: ast.Call) -> Folded:
    """WARN_ON: a mark reached when the condition holds; the process goes on."""
    warned, after = Block(), Block()
    known = b.condition(node.args[0], warned, after)
    mark = f"WARN_ON in {b.frame.source.tree.name}()"
    if known is None:
        b.block = warned
    if known is not False:
        b.emit("cover", node, extra=mark)
        b.block.end = ("jump", after)
    else:
        b.block.end = ("jump", after)
    b.block = after
    return Const(None)


def do_bug_on(b: Statements, node: ast.Call) -> Folded:
    value = b.expr(node.args[0])
    message = f"BUG_ON in {b.frame.source.tree.name}()"
    code, _ = b.as_dyn(value, node)
    b.emit("check", node, args=(code,), extra=(0, 0, message))
    return Const(None)


def do_trace(b: Statements, node: ast.Call) -> Folded:
    name = b.expr(node.args[0])
    if not isinstance(name, Const):
        raise b.error("trace() takes the tracepoint's name", node)
    b.emit("trace", node, extra=name.value)
    return Const(None)


def method(b: Statements, bound: Bound, values: list[Any], keywords: Any, node: ast.Call) -> Folded:
    """bump and snapshot of a sequence, replace of a value."""
    target = bound.target
    if bound.name == "replace":
        cls = type(target.value) if isinstance(target, Const) else target.kind.cls
        return b.build_value(target, cls, keywords, node)
    if bound.name not in ("bump", "snapshot") or not isinstance(target.field.kind, Sequence):
        hint = "a sequence has bump(), snapshot(), == and !="
        raise b.error(f"a sequence has no {bound.name}", node, hint)
    if bound.name == "bump":
        b.access("bump", target, node)
        return Const(None)
    dst = b.temp(node, Snapshot())
    dst.snapshot_of = target.field
    b.access("snap", target, node, dst=dst)
    return Dyn(dst, Snapshot())


def builtin(b: Statements, function: Any, values: list[Any], node: ast.Call) -> Folded:
    if function is len and isinstance(values[0], Place):
        return Const(values[0].field.length(b.world.sizes))
    if function is bool and isinstance(values[0], Dyn):
        dst = b.temp(node, Bool())
        b.emit("bin", node, dst=dst, args=(values[0].reg, 0), extra="ne")
        return Dyn(dst, Bool())
    if function in (min, max) and not all(isinstance(v, Const) for v in values):
        return smallest(b, function, values, node)
    if all(isinstance(v, Const) for v in values) and callable(function):
        return Const(function(*(v.value for v in values)))
    name = getattr(function, "__name__", repr(function))
    raise b.error(f"{name}() cannot be called with values known only in a run", node)


def smallest(b: Statements, function: Any, values: list[Any], node: ast.Call) -> Folded:
    """min(a, b) and max(a, b)."""
    if len(values) != 2:
        raise b.error(f"{function.__name__}() takes two values here", node)
    (x, x_kind), (y, y_kind) = (b.as_dyn(v, node) for v in values)
    sizes = b.world.sizes
    kind = Bounded(function(x_kind.lo, y_kind.lo), function(x_kind.hi(sizes), y_kind.hi(sizes)))
    dst = b.temp(node, kind)
    b.emit("bin", node, dst=dst, args=(x, y), extra=function.__name__)
    return Dyn(dst, kind)


def iteration(b: Statements, node: ast.For) -> list[Folded]:
    """What a for loop runs over: objects known now, or range() of numbers known now."""
    over = b.expr(node.iter)
    if isinstance(over, Many):
        return list(over.items)
    if isinstance(over, Const):
        try:
            return [Const(item) for item in over.value]
        except TypeError:
            pass
    hint = "use a while loop where the bounds are known only in a run"
    raise b.error("a for loop runs over things known when the host is wired", node, hint)


def with_statement(b: Statements, node: ast.With) -> None:
    """`with spin_lock(x):` and `with atomic("why"):`."""
    if len(node.items) != 1 or node.items[0].optional_vars:
        raise b.error("one item without `as`, please", node)
    item = node.items[0].context_expr
    if isinstance(item, ast.IfExp):
        known = b.condition(item.test, Block(), Block())
        if known is None:
            raise b.error("which lock mode to take must be known when the host is wired", node)
        item = item.body if known else item.orelse
    callee = b.expr(item.func) if isinstance(item, ast.Call) else None
    name = callee.value.name if isinstance(callee, Const) and hasattr(callee.value, "name") else ""
    assert isinstance(item, ast.Call) or not name
    if name == "atomic":
        atomic_region(b, node)
    elif name in ACQUIRE:
        locked_region(b, node, item, ACQUIRE[name])  # type: ignore[arg-type]
    else:
        hint = "with spin_lock(x), read_lock(x), write_lock(x) or atomic(why)"
        raise b.error("this cannot be used in a with statement", node, hint)


def atomic_region(b: Statements, node: ast.With) -> None:
    outer = enter_region(b)
    if not outer:
        b.emit("begin", node, site=b.site(node))
    b.statements(node.body)
    b.frame.region = outer


def locked_region(b: Statements, node: ast.With, item: ast.Call, mode: str) -> None:
    if b.frame.region:
        raise b.error("a lock cannot be taken inside an atomic region", node)
    place = keep_handle(b, acquire(b, item, mode), node)
    b.frame.held.append((node, place, mode))
    b.statements(node.body)
    b.frame.held.pop()
    if b.block.end is None:
        release(b, place, mode, node)


def keep_handle(b: Statements, place: Place, node: ast.With) -> Place:
    """The lock that a with statement took, even if the variable that named it changes."""
    if isinstance(place.of, int):
        return place
    handle = b.register(b.frame.base, f"_l{number_of(node)}", Ref(place.field.struct))
    b.emit("mov", node, dst=handle, args=(place.of,))
    return Place(place.field, handle)
