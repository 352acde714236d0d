"""Folding for many pages: functions are counted and cost time, and loops over pages are loops.

The text is that of the model.  `for gfn in kvm.gfns:` with `if start <= gfn and gfn < end:` below
it is how process code says "for the gfns of a range"; here it visits only those.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection
from typing import Any

from mmuwitness.model.state import Bounded, World
from mmuwitness.process.calls import iteration
from mmuwitness.process.cfg import Builder
from mmuwitness.process.ir import Block, Context, Op, Reg
from mmuwitness.process.language import Source, number_of, qualified_name
from mmuwitness.process.statements import Loop
from mmuwitness.process.values import Const, Dyn, Folded, Place

WINDOW_OPENS = "kvm.kvm_main.kvm_mmu_notifier_invalidate_range_start"
"""Windows that zap nothing are counted: where this is entered and left is known to the machine
code."""

LAST_PLACE = 15
"""Of the places of a syntax node where a step may begin, the one that nothing else uses."""

UNROLLED_MAX = 8
"""A loop over more numbers than that is a loop of the machine code."""


class ManyBuilder(Builder):
    """priced: the functions that take time.  They are known by their qualified names."""

    def __init__(
        self,
        world: World,
        has_feature: Callable[[str], bool],
        overrides: dict[str, Any],
        priced: Collection[str] = (),
    ) -> None:
        super().__init__(world, has_feature, overrides)
        self.priced = priced
        self.stands_for = {qualified_name(made): name for name, made in overrides.items()}

    def access(self, code: str, place: Place, node: ast.AST, **parts: Any) -> Op:
        """A lock takes time, too, once it is held."""
        op = super().access(code, place, node, **parts)
        if code == "acquire":
            self.spend(f"lock {place.field.key}", node)
        return op

    def spend(self, name: str, node: ast.AST) -> None:
        if name in self.priced:
            self.emit("spend", node, extra=name, site=self.site(node, LAST_PLACE))

    def inline(
        self, source: Source, context: Context, values: Any, keywords: Any, node: ast.AST
    ) -> Folded:
        result = super().inline(source, context, values, keywords, node)
        if self.name_of(source) == WINDOW_OPENS:
            self.emit("leave", node)
        return result

    def entered(self, source: Source) -> None:
        """Counted where it is entered; then time passes, with the locks that the caller holds."""
        name = self.name_of(source)
        self.emit("count", source.tree, extra=name)
        self.spend(name, source.tree)

    def name_of(self, source: Source) -> str:
        """What stands in the place of a function has its name."""
        return self.stands_for.get(source.name, source.name)

    def stmt_For(self, node: ast.For) -> None:
        over = self.expr(node.iter)
        numbers = over.value if isinstance(over, Const) else None
        if isinstance(numbers, range) and numbers.step == 1 and len(numbers) > UNROLLED_MAX:
            assert isinstance(node.target, ast.Name)
            self.long_loop(node, node.target.id, numbers)
        else:
            self.unrolled(node, iteration(self, over, node))

    def long_loop(self, node: ast.For, name: str, numbers: range) -> None:
        """From the first to the last of the numbers, or of those that the guard lets through."""
        guard = guard_of(node.body, name)
        kind = Bounded(numbers.start, numbers.stop)
        variable = self.register(self.frame.base, f"_f{number_of(node)}", kind)
        first: Folded = Const(numbers.start)
        stop: Folded = Const(numbers.stop)
        body = node.body
        if guard is not None:
            low, high, body = guard
            first = self.smaller_range(node, "max", first, self.expr(low))
        code = self.operand(first, kind, node, name)
        self.emit("mov", node, dst=variable, args=(code,))
        head, inside, following, after = Block(), Block(), Block(), Block()
        self.block.end = ("jump", head)
        self.block = head
        if guard is not None:
            stop = self.smaller_range(node, "min", stop, self.expr(high))
        goes_on = self.temp(node, Bounded(0, 1), "c")
        bound = self.as_dyn(stop, node)[0]
        self.emit("bin", node, dst=goes_on, args=(variable, bound), extra="lt")
        self.block.end = ("branch", goes_on, inside, after)
        self.block = inside
        self.frame.names[name] = Dyn(variable, Bounded(numbers.start, numbers.stop - 1))
        self.mark_assigned(name)
        self.frame.loops.append(Loop(following, after, len(self.frame.held)))
        self.statements(body)
        self.frame.loops.pop()
        if self.block.end is None:
            self.block.end = ("jump", following)
        self.come_to(following)
        if following.reached:
            self.emit("bin", node, dst=variable, args=(variable, 1), extra="add")
            self.block.end = ("jump", head)
        self.come_to(after)

    def smaller_range(self, node: ast.AST, which: str, mine: Folded, asked: Folded) -> Folded:
        """The later start, or the earlier end, of two ranges."""
        (a, a_kind), (b, b_kind) = self.as_dyn(mine, node), self.as_dyn(asked, node)
        sizes = self.world.sizes
        function = {"max": max, "min": min}[which]
        kind = Bounded(function(a_kind.lo, b_kind.lo), function(a_kind.hi(sizes), b_kind.hi(sizes)))
        if isinstance(a, int) and isinstance(b, int):
            return Const(function(a, b))
        dst = self.temp(node, kind, which)
        self.emit("bin", node, dst=dst, args=(a, b), extra=which)
        return Dyn(dst, kind)

    def argument(self, name: str, kind: Any) -> Dyn:
        """An argument of an operation that is known only in a run: a register of its frame."""
        return Dyn(Reg((), name, kind), kind)


def guard_of(body: list[ast.stmt], name: str) -> tuple[ast.expr, ast.expr, list[ast.stmt]] | None:
    """(low, high, what is guarded) of a body that is one `if low <= name and name < high:`, be it
    with a third condition."""
    if len(body) != 1 or not isinstance(body[0], ast.If) or body[0].orelse:
        return None
    test = body[0].test
    if not isinstance(test, ast.BoolOp) or not isinstance(test.op, ast.And):
        return None
    low, high, *more = test.values
    if not isinstance(low, ast.Compare) or not isinstance(high, ast.Compare) or len(more) > 1:
        return None
    ranged = (
        isinstance(low.ops[0], ast.LtE)
        and isinstance(high.ops[0], ast.Lt)
        and is_name(low.comparators[0], name)
        and is_name(high.left, name)
    )
    inside = [narrower(body[0], more[0])] if more else body[0].body
    return (low.left, high.comparators[0], inside) if ranged else None


def narrower(node: ast.If, test: ast.expr) -> ast.stmt:
    """The same `if` with another test: its place in the text, and its number, are the same."""
    made = ast.copy_location(ast.If(test, node.body, []), node)
    made.number = number_of(node)  # type: ignore[attr-defined]
    return made


def is_name(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name
