"""Does a trace obey the rules? All of them in one pass, each where its evidence was recorded.

    result = check_rules(open_trace("trace.dat"))
    result.departures[0].happened

A loss of events is a new beginning: what was open before it is not known to be open behind it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from mmuwitness.model.era import Era
from mmuwitness.trace.events import Trace
from mmuwitness.trace.facts import Fact, FactReader
from mmuwitness.trace.kernel import Dialect, era_of_release
from mmuwitness.trace.rules.change_pte import (
    ChangePteAlone,
    ChangePteCounted,
    ChangePteHandsDown,
    ChangePteInside,
)
from mmuwitness.trace.rules.count import CountMoves, RangeCovers, SeqMoves
from mmuwitness.trace.rules.departure import Around, Line
from mmuwitness.trace.rules.fault import (
    FreshLookup,
    InstallIsAsked,
    InstallOutsideWindows,
    PfnLookedUp,
    RetryHasReason,
)
from mmuwitness.trace.rules.lock import MmuLock
from mmuwitness.trace.rules.rule import Departure, Handler, Rule
from mmuwitness.trace.rules.spte import SpteChain, UnmapTells
from mmuwitness.trace.rules.windows import CallsReturn, KvmInsideMm, WindowsBalance
from mmuwitness.trace.rules.world import World

RULES: tuple[type[Rule], ...] = (
    WindowsBalance,
    KvmInsideMm,
    CallsReturn,
    InstallOutsideWindows,
    FreshLookup,
    PfnLookedUp,
    InstallIsAsked,
    RetryHasReason,
    SpteChain,
    UnmapTells,
    MmuLock,
    CountMoves,
    SeqMoves,
    RangeCovers,
    ChangePteInside,
    ChangePteCounted,
    ChangePteHandsDown,
    ChangePteAlone,
)
COLUMNS = (
    *("function", "start", "end", "address", "gfn", "gfn_end", "pfn", "old", "new", "level", "ret"),
    *("vcpu", "vm", "mn", "mm", "seq", "in_progress", "active", "range_start", "range_end"),
    *("slot", "size", "fixed", "text"),
)
DEPARTURES_MAX = 100  # kept: what is behind them follows from the first, if from anything


class RuleChecker:
    """Feed it facts in order; `departures` are those so far."""

    def __init__(self, dialect: Dialect | None = None, era: Era | None = None) -> None:
        """era: the kernel, where the trace says which; else one of v5.13 or later."""
        self.dialect = dialect or Dialect()
        self._era = era
        self.departures: list[Departure] = []
        self.checked = Counter[str]()
        self.seen = set[int]()
        self._unexplained = 0
        self._begin()

    def _begin(self) -> None:
        self._world = World(self.dialect, self._era)
        self._rules = [rule(self._world, self._depart) for rule in RULES]
        self._handlers: dict[int, list[Handler]] = {}
        for rule in self._rules:
            for kind, handler in rule.handlers():
                self._handlers.setdefault(kind, []).append(handler)

    def _depart(self, departure: Departure) -> None:
        if len(self.departures) < DEPARTURES_MAX:
            self.departures.append(departure)

    def feed(self, facts: Iterable[Fact]) -> None:
        see, handlers = self._world.see, self._handlers
        for fact in facts:
            see(fact)
            for handler in handlers.get(fact.kind, ()):
                handler(fact)

    def notes(self) -> list[str]:
        """What the rules let pass and a reader should know."""
        if not self._unexplained:
            return []
        return [
            f"mmu_invalidate_seq rose {self._unexplained} times without a window in the trace: "
            "KVM's own zaps (APICv, MTRRs, memory attributes), or events that are not recorded"
        ]

    def finish(self, *, whole: bool = True) -> None:
        """The facts end here: the trace's end if `whole`, else events were lost."""
        for rule in self._rules:
            if whole:
                rule.finish()
            self.checked[rule.name] += rule.checked
            if isinstance(rule, SeqMoves):
                self._unexplained += rule.unexplained
        self.seen |= self._world.seen
        self._begin()


@dataclass(frozen=True)
class RuleResult:
    """What a trace says of one rule."""

    name: str
    text: str
    checked: int  # how often it was held against what happened
    departures: int
    applies: bool  # False: it speaks of other MMUs
    record: tuple[str, ...]  # what would have to be recorded to check it; empty: it is there


@dataclass(frozen=True)
class RulesResult:
    """What a trace says of all rules."""

    path: str
    format: str
    rules: tuple[RuleResult, ...]
    departures: tuple[Departure, ...]  # in the trace's order, at most DEPARTURES_MAX
    around: tuple[Line, ...]  # the events around the first of them
    events: int
    lost: int
    complete: bool
    notes: tuple[str, ...]


def check_rules(trace: Trace) -> RulesResult:
    """Hold a whole trace against all rules. TraceError if it is none."""
    reader, around, checker = FactReader(columns=COLUMNS), Around(), RuleChecker()
    losses = events = 0
    for batch in trace.batches():
        if not events and trace.release:
            checker = RuleChecker(era=era_of_release(trace.release))
        facts = list(reader.read(batch).rows())
        checker.dialect.learn(reader)
        first = 0
        for loss in trace.losses[losses:]:
            cut = next((i for i, f in enumerate(facts) if f.row >= loss.row), len(facts))
            checker.feed(facts[first:cut])
            checker.finish(whole=False)
            first = max(first, cut)
        losses = len(trace.losses)
        checker.feed(facts[first:])
        around.see(batch, checker.departures)
        events += batch.events.height
    checker.finish(whole=trace.complete)
    departures = sorted(checker.departures, key=lambda each: each.fact.row)
    counts, mmu = Counter(each.rule for each in departures), checker.dialect.mmu
    rules = tuple(
        RuleResult(
            rule.name,
            rule.text,
            checker.checked[rule.name],
            counts[rule.name],
            not rule.mmus or mmu is None or mmu in rule.mmus,
            tuple(rule.missing(checker.seen)),
        )
        for rule in RULES
    )
    return RulesResult(
        trace.path,
        trace.format,
        rules,
        tuple(departures),
        around.lines(departures[0]) if departures else (),
        events,
        trace.lost,
        trace.complete,
        (*trace.notes, *checker.notes()),
    )
