"""The processes of one kernel as an automaton over the labels that one trace shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mmuwitness.process.ir import Operand, Reg
from mmuwitness.trace.paths.events import Recorded
from mmuwitness.trace.paths.graph import Graph, Point, Word
from mmuwitness.trace.paths.match import Matcher, Names, Seen
from mmuwitness.trace.paths.observe import EMULATED, GUEST_FAULT, Label, Observer, of_run

Position = tuple[tuple[Label, ...], Point]
"""Labels that have to come first, and the point behind them."""

Followers = dict[tuple[str, str], list[tuple[Label, Position]]]
"""What may be shown next, by what it is and its name, with the position behind each."""


def steps_of(labels: tuple[Label, ...], point: Point) -> list[tuple[Label, Position]]:
    """The first label, with what may come behind it."""
    steps: list[tuple[Label, Position]] = [(labels[0], (labels[1:], point))]
    if labels[0].repeats:
        steps.append((labels[0], (labels[1 : labels[0].repeats] + labels, point)))
    return steps


class Automaton:
    """The processes of one kernel as far as one trace shows them; walked lazily, kept."""

    def __init__(
        self, graph: Graph, observer: Observer, matcher: Matcher, recorded: Recorded
    ) -> None:
        self.graph, self.observer, self.matcher = graph, observer, matcher
        self.recorded = recorded
        self.followers: dict[Position, tuple[Followers, bool]] = {}
        self.heads = [graph.head(number) for number in range(len(graph.processes))]

    def ahead(self, position: Position) -> tuple[Followers, bool]:
        """What may be shown next, and whether the activity may be over without more."""
        found = self.followers.get(position)
        if found is None:
            labels, ends = self.search(position)
            followers: Followers = {}
            for label, behind in labels:
                followers.setdefault((label.what, label.name), []).append((label, behind))
            found = self.followers[position] = followers, ends
        return found

    def search(self, position: Position) -> tuple[list[tuple[Label, Position]], bool]:
        pending, point = position
        if pending:
            return steps_of(pending, point), False
        stack, seen, ends = [point], {point}, False
        labels: list[tuple[Label, Position]] = []
        while stack:
            for mark, words, after in self.graph.walk(stack.pop()):
                if mark is None:
                    ends = True
                    continue
                read: Callable[[Operand], Word] = self.reader(words)
                for shown, outcome in self.observer.at(mark, read, after.outcome):
                    process = self.graph.names[after.process]
                    visible = tuple(x for x in shown if self.shows(x, process))
                    if self.graph.runs[after.process]:
                        visible = tuple(of_run(x, process) for x in visible)
                    behind = after._replace(outcome=outcome)
                    if visible:
                        labels += steps_of(visible, behind)
                    elif behind not in seen:
                        seen.add(behind)
                        stack.append(behind)
        return list(dict.fromkeys(labels)), ends

    def shows(self, label: Label, process: str) -> bool:
        """A filter may hide which accesses the VMM emulates, that is, all but their return."""
        if process == EMULATED and label.name == GUEST_FAULT and self.recorded.hides_emulated:
            return False
        return self.recorded.shows(label.what, label.name)

    def reader(self, words: Mapping[Reg, Word]) -> Callable[[Operand], Word]:
        def read(operand: Operand) -> Word:
            if isinstance(operand, int):
                return operand
            return words.get(operand, ("load", -1 - self.graph.regs[operand]))

        return read

    def begins_window(self, seen: Seen) -> bool:
        """Whether it is where this trace shows that a window opens, at the outermost level."""
        return (seen.what, seen.name) == self.recorded.window_begins

    def names(self, positions: set[tuple[Position, Names]]) -> set[str]:
        """The processes that a task may be in."""
        return {self.graph.names[point.process] for (_, point), _ in positions}

    @property
    def emulated(self) -> tuple[int, ...]:
        return tuple(self.matcher.outcomes["emulate"])
