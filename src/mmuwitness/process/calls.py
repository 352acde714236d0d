"""What the primitives, the methods of sequences and values, and a few builtins fold to."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

from mmuwitness.model.primitives import Primitive
from mmuwitness.model.state import (
    Bool,
    Bounded,
    Local,
    Lock,
    Ref,
    Sequence,
    Snapshot,
    Value,
)
from mmuwitness.process import operators
from mmuwitness.process.ir import Block
from mmuwitness.process.language import number_of
from mmuwitness.process.marks import warning
from mmuwitness.process.values import Bound, Const, Dyn, Folded, Many, Place

if TYPE_CHECKING:
    from mmuwitness.process.statements import Statements

ACQUIRE = {"spin_lock": "w", "write_lock": "w", "read_lock": "r"}
VALUES = {"choose", "trylock"}
"""The primitives that have a value; the others are statements."""


def primitive(b: Statements, which: Primitive, node: ast.Call) -> Folded:
    """A call of a primitive as an expression or statement."""
    if which.name in (*ACQUIRE, "atomic", "non_block"):
        hint = f"write `with {which.name}(...):`"
        raise b.error(f"{which.name}() is used as a statement of its own", node, hint)
    check_call(b, which, node)
    if which.name not in VALUES and node is not b.statement:
        hint = "write it as a statement of its own"
        raise b.error(f"{which.name}() has no value", node, hint)
    return globals()["do_" + which.name](b, node)


def check_call(b: Statements, which: Primitive, node: ast.Call) -> None:
    """Primitives are called by a name of the module, as replay finds them; with one argument."""
    scope = b.frame.source.function.__globals__
    if not isinstance(node.func, ast.Name) or scope.get(node.func.id) is not which:
        hint = f"from mmuwitness.model.primitives import {which.name}"
        raise b.error(f"{which.name}() is called by the name that it is imported under", node, hint)
    if which.name == "might_sleep":
        if node.keywords or node.args:
            raise b.error("might_sleep() takes no argument", node)
    elif node.keywords or not node.args or (len(node.args) > 1 and which.name != "trace"):
        raise b.error(f"{which.name}() takes one argument, without its name", node)


def lock_argument(b: Statements, node: ast.Call) -> Place:
    place = b.expr(node.args[0])
    if not isinstance(place, Place) or not isinstance(place.field.kind, Lock):
        raise b.error("this is not a lock", node)
    return place


def acquire(b: Statements, node: ast.Call, mode: str) -> Place:
    place = lock_argument(b, node)
    if mode == "r" and not place.field.kind.shared:
        raise b.error(f"{place.field.key} cannot be held shared", node, "declare it as RwLock()")
    if not place.field.kind.spins and not b.is_claim:
        do_might_sleep(b, node)
    b.access("acquire", place, node, extra=mode)
    return place


def do_might_sleep(b: Statements, node: ast.Call) -> Folded:
    """A mark if nothing may sleep here: known now inside non_block, and with a lock once all of
    the process is folded (see `sleeping`)."""
    b.emit("sleep", node, extra=b.frame.non_block)
    return Const(None)


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
    outer, effects = enter_region(b), b.effects
    on_true, blocked = Block(), Block(end=("blocked",))
    known = b.condition(node.args[0], on_true, blocked)
    if known is not None:
        raise b.error(f"this is always {known}", node)
    if b.effects != effects:
        hint = "it may be evaluated any number of times: compute first, then wait"
        raise b.error("a test that waits cannot change anything", node, hint)
    b.frame.region = outer
    b.come_to(on_true)
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
    if not isinstance(n, Const) or type(n.value) is not int or n.value < 1:
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
    mark = warning(b.frame.source.tree.name)
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
    known = operators.truth(b, value, node)
    code = int(known) if known is not None else b.as_dyn(value, node)[0]
    b.emit("check", node, args=(code,), extra=(0, 0, message))
    return Const(None)


def do_trace(b: Statements, node: ast.Call) -> Folded:
    """A tracepoint.  Replay notes its arguments; here they must be such that nothing can happen
    while they are evaluated."""
    name = b.expr(node.args[0])
    if not isinstance(name, Const) or not isinstance(name.value, str):
        raise b.error("trace() takes the tracepoint's name", node)
    here, apart = b.block, Block()
    b.block, apart.assigned = apart, here.assigned
    for argument in node.args[1:]:
        b.expr(argument)
    reads = {"load", "mov", "bin", "extract"}
    if b.block is not apart or any(op.code not in reads for op in apart.ops):
        hint = "bind what it needs to a local first"
        raise b.error("an argument of trace() does more than read", node, hint)
    b.block = here
    b.emit("trace", node, extra=name.value)
    return Const(None)


def other(b: Statements, callee: Folded, values: Any, keywords: Any, node: ast.Call) -> Folded:
    """A call of what is neither a primitive nor a function of the model."""
    if isinstance(callee, Bound):
        return method(b, callee, values, keywords, node)
    if not isinstance(callee, Const):
        raise b.error("this cannot be called", node)
    cls = callee.value
    if isinstance(cls, type) and issubclass(cls, Value | Local):
        if values:
            names = ", ".join(f"{name}=..." for name in cls.kinds)
            raise b.error(f"{cls.__name__} is built by keyword", node, f"write {names}")
        if issubclass(cls, Value):
            return b.build_value(Const(cls()), cls, keywords, node)
        return b.make_record(cls, keywords, node)
    return builtin(b, callee.value, values, keywords, node)


def method(b: Statements, bound: Bound, values: list[Any], keywords: Any, node: ast.Call) -> Folded:
    """bump and snapshot of a sequence, replace of a value."""
    target = bound.target
    if values or (keywords and bound.name != "replace"):
        raise b.error(f"{bound.name}() takes no positional arguments", node)
    if bound.name == "replace":
        cls = type(target.value) if isinstance(target, Const) else target.kind.cls
        return b.build_value(target, cls, keywords, node)
    if bound.name not in ("bump", "snapshot") or not isinstance(target.field.kind, Sequence):
        hint = "a sequence has bump(), snapshot(), == and !="
        raise b.error(f"a sequence has no {bound.name}", node, hint)
    sequence = operators.sequence_of(b, target)
    if bound.name == "bump":
        b.access("bump", target, node, extra=sequence)
        return Const(None)
    dst = b.temp(node, Snapshot())
    b.access("snap", target, node, dst=dst, extra=sequence)
    return Dyn(dst, Snapshot())


def builtin(
    b: Statements, function: Any, values: list[Any], keywords: Any, node: ast.Call
) -> Folded:
    name = getattr(function, "__name__", repr(function))
    if keywords:
        raise b.error(f"{name}() takes no keywords here", node)
    if function is bool and len(values) == 1:
        return truth_value(b, values[0], node)
    if all(isinstance(v, Const) for v in values) and callable(function):
        return operators.known_now(b, function, *(v.value for v in values), node=node)
    if function is len and len(values) == 1 and isinstance(values[0], Many):
        return Const(len(values[0].items))
    if function is len and len(values) == 1 and isinstance(values[0], Place):
        if values[0].field.array is None:
            raise b.error(f"{values[0].field.key} is not an array", node)
        return Const(values[0].field.length(b.world.sizes))
    if function in (min, max):
        return smallest(b, function, values, node)
    raise b.error(f"{name}() cannot be called with values known only in a run", node)


def truth_value(b: Statements, value: Folded, node: ast.Call) -> Folded:
    """bool(value)."""
    known = operators.truth(b, value, node)
    if known is not None:
        return Const(known)
    dst = b.temp(node, Bool())
    b.emit("bin", node, dst=dst, args=(b.as_dyn(value, node)[0], 0), extra="ne")
    return Dyn(dst, Bool())


def smallest(b: Statements, function: Any, values: list[Any], node: ast.Call) -> Folded:
    """min(a, b) and max(a, b)."""
    if len(values) != 2:
        raise b.error(f"{function.__name__}() takes two values here", node)
    (x, x_kind), (y, y_kind) = (b.as_dyn(v, node) for v in values)
    if not operators.is_number(x_kind) or not operators.is_number(y_kind):
        raise b.error(operators.NUMBERS, node)
    sizes = b.world.sizes
    kind = Bounded(function(x_kind.lo, y_kind.lo), function(x_kind.hi(sizes), y_kind.hi(sizes)))
    dst = b.temp(node, kind)
    b.emit("bin", node, dst=dst, args=(x, y), extra=function.__name__)
    return Dyn(dst, kind)


def iteration(b: Statements, over: Folded, node: ast.For) -> list[Folded]:
    """What a for loop runs over: objects known now, or range() of numbers known now."""
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
        for arm in (item.body, item.orelse):
            if with_primitive(b, arm) not in ACQUIRE:
                raise b.error("this cannot be used in a with statement", arm, WITH)
        known = b.condition(item.test, Block(), Block())
        if known is None:
            raise b.error("which lock mode to take must be known when the host is wired", node)
        item = item.body if known else item.orelse
    name = with_primitive(b, item)
    if name not in (*ACQUIRE, "atomic", "non_block"):
        raise b.error("this cannot be used in a with statement", node, WITH)
    assert isinstance(item, ast.Call)
    if name == "atomic":
        atomic_region(b, node, item)
    elif name == "non_block":
        non_block_region(b, node, item)
    else:
        locked_region(b, node, item, ACQUIRE[name])


WITH = "with spin_lock(x), read_lock(x), write_lock(x), atomic(why) or non_block(why)"


def with_primitive(b: Statements, item: ast.expr) -> str:
    """The primitive that an item of a with statement calls, or ""."""
    if not isinstance(item, ast.Call):
        return ""
    callee = b.expr(item.func)
    if not isinstance(callee, Const) or not isinstance(callee.value, Primitive):
        return ""
    check_call(b, callee.value, item)
    return callee.value.name


def check_reason(b: Statements, item: ast.Call, name: str) -> None:
    why = b.expr(item.args[0])
    if not isinstance(why, Const) or not isinstance(why.value, str):
        raise b.error(f"{name}() takes the reason, a text", item)


def non_block_region(b: Statements, node: ast.With, item: ast.Call) -> None:
    check_reason(b, item, "non_block")
    outer = b.frame.non_block
    b.frame.non_block = True
    b.statements(node.body)
    b.frame.non_block = outer


def atomic_region(b: Statements, node: ast.With, item: ast.Call) -> None:
    check_reason(b, item, "atomic")
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
