"""One step as structured Promela: what runs from where it begins to wherever it may end.

Within a step control never comes back, so its blocks are a graph without circles.  A branch becomes
an `if` that ends where its two sides meet for good; where they meet otherwise, a `goto` goes to a
label behind the step's main text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from mmuwitness.process.ir import Block, Op, Operand
from mmuwitness.report.promela.statements import Uses, Writer, bare, uses_in_block

INDENT = "   "
NOTHING = ("begin", "loop", "trace", "wait")


@dataclass(eq=False)
class Segment:
    """The operations of one block that a step runs, and where it goes on.

    stops: the number of the boundary where the step ends, or -1."""

    block: Block
    ops: list[Op]
    stops: int
    targets: list[Segment] = field(default_factory=list)
    before: int = 0

    @property
    def blocked(self) -> bool:
        return self.stops < 0 and self.block.end == ("blocked",)

    @property
    def idle(self) -> bool:
        """True if nothing is done here on the way to somewhere else."""
        nothing = all(op.code in NOTHING for op in self.ops)
        return nothing and self.stops < 0 and len(self.targets) == 1

    @property
    def tests(self) -> bool:
        """True if it ends in a branch of which both sides can be taken: who waits, has waited."""
        return len(self.targets) == 2


def segments_of(block: Block, position: int) -> list[Segment]:
    """What a step may run that begins there, in an order in which control comes to it."""
    found: dict[int, Segment] = {}
    order: list[Segment] = []

    def visit(segment: Segment) -> Segment:
        for target in segment.block.targets if segment.stops < 0 else ():
            if id(target) not in found:
                found[id(target)] = visit(cut(target, 0, 0))
            after = found[id(target)]
            while after.idle:
                after = after.targets[0]
            if not after.blocked:
                segment.targets.append(after)
        order.append(segment)
        return segment

    def cut(block: Block, position: int, start: int) -> Segment:
        for at in range(start, len(block.ops)):
            if block.ops[at].boundary >= 0:
                return Segment(block, block.ops[position:at], block.ops[at].boundary)
        return Segment(block, block.ops[position:], -1)

    reached = {visit(cut(block, position, position + 1))}
    for each in reversed(order):
        if each in reached:
            reached.update(each.targets)
            for target in each.targets:
                target.before += 1
    return [each for each in reversed(order) if each in reached]


def where_sides_meet(order: list[Segment]) -> dict[Segment, Segment | None]:
    """For each segment the first one that control comes to afterwards whatever happens."""
    after: dict[Segment, set[Segment]] = {}
    rank = {each: number for number, each in enumerate(order)}
    meets: dict[Segment, Segment | None] = {}
    for each in reversed(order):
        common = set.intersection(*(after[t] for t in each.targets)) if each.targets else set()
        meets[each] = min(common, key=lambda s: rank[s], default=None)
        after[each] = common | {each}
    return meets


class Flow:
    """Writes the segments of one step (or claim).

    ends: what to write where it ends, by the boundary's number (-1: the process is done)."""

    def __init__(
        self,
        order: list[Segment],
        writer: Writer,
        label: str,
        ends: Callable[[int], list[str]],
        result: Operand = 0,
    ) -> None:
        self.order, self.writer, self.label, self.ends = order, writer, label, ends
        self.meets = where_sides_meet(order)
        self.uses: dict[int, Uses] = {}
        self.result = result
        self.placed: set[Segment] = set()
        self.asked: list[Segment] = []

    def text(self) -> list[str]:
        """The lines of the step."""
        lines = self.run(self.order[0], None)
        while missing := [each for each in self.asked if each not in self.placed]:
            lines += [] if lines[-1].startswith("goto ") else [f"goto {self.label}_out;"]
            lines += self.run(missing[0], None)
        if self.asked:
            lines.append(f"{self.label}_out: skip")
        labels = {f"{self.name(each)}: skip;" for each in self.asked}
        return [line for line in lines if not self.is_label(line) or line.strip() in labels]

    def is_label(self, line: str) -> bool:
        return line.strip().startswith(f"{self.label}_at") and line.endswith(": skip;")

    def name(self, segment: Segment) -> str:
        return f"{self.label}_at{self.order.index(segment)}"

    def go(self, segment: Segment) -> list[str]:
        if segment not in self.asked:
            self.asked.append(segment)
        return [f"goto {self.name(segment)};"]

    def arrive(self, segment: Segment, stop: Segment | None) -> list[str]:
        """Control comes to a segment; `stop` follows in the text."""
        if segment is stop:
            return []
        if segment.before > 1:
            return self.go(segment)
        return self.run(segment, stop)

    def run(self, segment: Segment, stop: Segment | None) -> list[str]:
        lines: list[str] = []
        while True:
            self.placed.add(segment)
            if segment.before > 1:
                lines.append(f"{self.name(segment)}: skip;")
            lines += self.statements(segment)
            if not segment.targets:
                return [*lines, *self.ends(segment.stops)]
            following: Segment | None
            if segment.tests:
                following = self.meets[segment]
                lines += self.branch(segment, following)
                if following is None:
                    return lines
            else:
                following = segment.targets[0]
            if following is stop:
                return lines
            if following in self.placed or (following.before > 1 and not segment.tests):
                return lines + self.go(following)
            segment = following

    def statements(self, segment: Segment) -> list[str]:
        block = segment.block
        self.writer.pending.clear()
        if id(block) not in self.uses:
            self.uses[id(block)] = uses_in_block(block, self.result)
        self.writer.out = []
        self.writer.operations(segment.ops, self.uses[id(block)])
        return self.writer.out

    def branch(self, segment: Segment, following: Segment | None) -> list[str]:
        assert segment.block.end is not None
        test = self.writer.operand(segment.block.end[1])
        yes, no = (self.arrive(target, following) for target in segment.targets)
        if not yes and not no:
            return []
        return ["if", *arm(bare(str(test)), yes), *arm("else", no), "fi;"]


def arm(test: str, lines: list[str]) -> Iterator[str]:
    """One side of an `if`."""
    yield f":: {test}" + (" ->" if lines else "")
    for line in lines:
        yield INDENT + line
