"""What a rule over a trace is, and what it says when a trace departs from it.

One class for each rule; its docstring is the sentence that is printed. A rule holds only where its
evidence was recorded: `evidence` names groups of facts, and of each group one must be in the trace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from mmuwitness.trace.facts import Fact
from mmuwitness.trace.rules.world import World
from mmuwitness.trace.tracepoints import Kind

Handler = Callable[[Fact], object]


@dataclass(frozen=True)
class Evidence:
    """Kinds of which one must be in the trace, and the event to record for it."""

    kinds: frozenset[int]
    record: str


def evidence(record: str, *kinds: int) -> Evidence:
    return Evidence(frozenset(kinds), record)


@dataclass(frozen=True)
class Departure:
    """The first thing in a trace that a rule does not allow."""

    rule: str
    fact: Fact  # where it shows
    since: Fact | None  # what it contradicts, if that was an event
    allowed: str
    happened: str

    @property
    def rows(self) -> tuple[int, int]:
        """First and last row that the departure speaks of."""
        rows = [each.row for each in (self.fact, self.since) if each]
        return min(rows), max(rows)


class Rule:
    """A rule; subclasses say in `handlers` which facts they look at."""

    name: str
    text: str  # the docstring on one line
    evidence: tuple[Evidence, ...] = ()
    mmus: tuple[str, ...] = ()  # that it speaks of, as in kernel.py; () is all

    def __init_subclass__(cls) -> None:
        cls.text = " ".join((cls.__doc__ or "").split())

    def __init__(self, world: World, depart: Callable[[Departure], None]) -> None:
        self.world = world
        self.checked = 0
        self._report = depart

    def handlers(self) -> Iterable[tuple[int, Handler]]:
        raise NotImplementedError

    def finish(self) -> None:
        """The trace is at its end."""

    @classmethod
    def missing(cls, seen: set[int]) -> list[str]:
        """What to record so that the rule can be checked; empty if its evidence is there."""
        return [each.record for each in cls.evidence if seen.isdisjoint(each.kinds)]

    def depart(self, fact: Fact, allowed: str, happened: str, since: Fact | None = None) -> None:
        self._report(Departure(self.name, fact, since, allowed, happened))


def hex_range(start: int | None, end: int | None) -> str:
    return f"[{show_hex(start)}, {show_hex(end)})"


def show_hex(number: int | None) -> str:
    return "?" if number is None else f"{number:#x}"


X86 = ("tdp", "rmap", "shadow")
# What to record, by the names that `record` and `record --how` use, too.
MM_START = evidence("a probe on __mmu_notifier_invalidate_range_start", Kind.MN_START)
MM_END = evidence("a probe on __mmu_notifier_invalidate_range_end", Kind.MN_END)
KVM_END = evidence("a probe on kvm_mmu_notifier_invalidate_range_end", Kind.KVM_END)
ANY_START = evidence(MM_START.record, Kind.MN_START, Kind.KVM_START)
ANY_END = evidence(MM_END.record, Kind.MN_END, Kind.KVM_END)
UNMAP_GFN = evidence("a probe on kvm_unmap_gfn_range", Kind.UNMAP_GFN)
UNMAP_GFN_RET = evidence("a return probe on kvm_unmap_gfn_range", Kind.UNMAP_GFN_RET)
INSTALL = evidence(
    "kvmmmu:kvm_mmu_set_spte",
    Kind.SET_SPTE,
    Kind.SPTE_CHANGED,
    Kind.MAP,
    Kind.STAGE2_MAP,
    Kind.SPTE_STORE,
)
