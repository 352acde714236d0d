"""Whether a step can be taken, as one expression: the first statement of its `d_step`.

A process waits at an acquire, until the lock is free, or at the test of `wait_until`.  Where the
test itself would go wrong the step can be taken: it goes wrong then.
"""

from __future__ import annotations

from mmuwitness.process.expressions import PURE
from mmuwitness.process.ir import Block, Op, Operand
from mmuwitness.process.steps import Boundary
from mmuwitness.report.promela.statements import Expression, Writer, selected, within
from mmuwitness.report.promela.variables import Variable

LENGTH_MAX = 20_000
YES, NO = "true", "false"


class Symbolic(Writer):
    """A writer that computes nothing: every register stands for an expression of the state."""

    def define(self, op: Op, value: Expression) -> None:
        assert op.dst is not None
        self.pending[op.dst] = value

    def place(self, variable: Variable, element: Operand) -> Expression:
        index = self.operand(element)
        if isinstance(element, int) or variable.name not in index.reads:
            return super().place(variable, element)
        return selected(
            index, [Writer.place(self, variable, n) for n in range(len(variable.initial))]
        )


def enabled(boundary: Boundary, writer: Symbolic) -> str:
    """When the step that begins there can be taken."""
    op = boundary.op
    writer.pending.clear()
    if op is None or op.code not in ("acquire", "wait") or writer.is_left_out(op):
        return YES
    text = passes(boundary.block, boundary.position, writer, op)
    return text if text.startswith("(") or text in (YES, NO) else f"({text})"


def waits_for(boundary: Boundary, writer: Symbolic) -> str:
    """Whom a process waits for that cannot take the step; nobody in particular: an empty text."""
    op = boundary.op
    assert op is not None
    if op.code == "wait":
        return ""
    writer.pending.clear()
    for each in boundary.block.ops[boundary.position : boundary.block.ops.index(op)]:
        if each.code != "check":
            writer.statement(each)
    return writer.waits(op)


def passes(block: Block, position: int, writer: Symbolic, first: Op | None = None) -> str:
    """Whether control passes the acquire or the test `first`, from a place in a block; None: it
    is in the test."""
    for at in range(position, len(block.ops)):
        op = block.ops[at]
        if op is first and op.code == "acquire":
            return str(writer.free(op))
        if op is first:
            return passes(block, at + 1, writer)
        if op.code == "check":
            rest = passes(block, at + 1, writer, first)
            return choice(f"({within(writer.operand(op.args[0]), op)})", rest, YES)
        if first is None and (op.region == 0 or op.code not in PURE):
            return YES  # the test is over
        writer.statement(op)
    return at_end(block, writer)


def at_end(block: Block, writer: Symbolic) -> str:
    assert block.end is not None
    if block.end[0] == "blocked":
        return NO
    if block.end[0] == "jump":
        return passes(block.targets[0], 0, writer)
    if block.end[0] == "done":
        return YES
    asked, known = str(writer.operand(block.end[1])), dict(writer.pending)
    sides = []
    for target in block.targets:
        writer.pending = dict(known)
        sides.append(passes(target, 0, writer))
    text = choice(asked, *sides)
    if len(text) > LENGTH_MAX:
        raise ValueError(f"what {writer.own.prefix} waits for is too long for one expression")
    return text


def choice(asked: str, yes: str, no: str) -> str:
    """asked -> yes : no, in its shortest form."""
    if yes == no:
        return yes
    match yes, no:
        case "true", "false":
            return asked
        case "false", "true":
            return f"!{asked}"
        case "true", _:
            return f"({asked} || {no})"
        case _, "false":
            return f"({asked} && {yes})"
        case "false", _:
            return f"(!{asked} && {no})"
        case _, "true":
            return f"(!{asked} || {yes})"
    return f"({asked} -> {yes} : {no})"
