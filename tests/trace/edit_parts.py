"""Parts of real traces, to be edited, and what the rules say of them then."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mmuwitness.trace.conform import RuleChecker
from mmuwitness.trace.facts import Fact, FactReader
from mmuwitness.trace.kernel import Dialect
from mmuwitness.trace.open import open_trace
from mmuwitness.trace.rules.rule import Departure
from mmuwitness.trace.tracepoints import Kind

DATA = Path(__file__).parents[1] / "data"
TRACES = (
    "x86/6.1-tdp-cow-break.txt.xz",
    "x86/6.12-tdp-cow-break.txt.xz",
    "x86/6.1-tdp-madvise.txt.xz",
    "x86/6.12-tdp-ksm-merge.txt.xz",
    "x86/6.1-npt-legacy-cow-break.txt.xz",
    "x86/6.1-shadow-cow-break.txt.xz",
    "x86/6.1-tdp-stress-ksm.txt.xz",
    "arm64/scn6.1_a57.trace.xz",
)
PART, STEP, MARGIN = 800, 500, 250  # facts in a part, from one to the next, behind an edit
NEAR = 12  # facts, of all tasks, between the edit and an event that the departure names

STARTS = {Kind.MN_START, Kind.KVM_START}
ENDS = {Kind.MN_END, Kind.KVM_END}
MM_WINDOW = (Kind.MN_START, Kind.MN_END)
INSTALLS = {Kind.MAP, Kind.SPTE_REQUESTED, Kind.SET_SPTE, Kind.SPTE_STORE, Kind.STAGE2_MAP}
CHANGES = {Kind.MN_CHANGE_PTE, Kind.KVM_CHANGE_PTE, Kind.SET_SPTE_GFN}
READINGS = {Kind.KVM_START, Kind.KVM_END, Kind.KVM_CHANGE_PTE, Kind.SET_SPTE_GFN}
LOCKED = INSTALLS | {  # what runs under mmu_lock
    Kind.SPTE_CHANGED,
    Kind.UNMAP_GFN,
    Kind.UNMAP_GFN_RET,
    Kind.TDP_UNMAP_GFN,
    Kind.TDP_UNMAP_GFN_RET,
    Kind.SET_SPTE_GFN,
    Kind.SET_SPTE_GFN_RET,
    Kind.TDP_SET_SPTE_GFN,
    Kind.TDP_SET_SPTE_GFN_RET,
    Kind.MAP_RET,
    Kind.STAGE2_MAP_RET,
    Kind.STAGE2_UNMAP,
    Kind.STAGE2_UNMAP_RET,
    Kind.RELAX,
    Kind.RELAX_RET,
}
BOUNDARIES = LOCKED | {  # and what bounds windows
    Kind.MN_START,
    Kind.MN_START_RET,
    Kind.MN_END,
    Kind.MN_END_RET,
    Kind.MN_INVALIDATE,
    Kind.MN_CHANGE_PTE,
    Kind.MN_CHANGE_PTE_RET,
    Kind.KVM_START,
    Kind.KVM_START_RET,
    Kind.KVM_END,
    Kind.KVM_END_RET,
    Kind.KVM_INVALIDATE,
    Kind.KVM_CHANGE_PTE,
    Kind.KVM_CHANGE_PTE_RET,
    Kind.UNMAP_HVA,
    Kind.SET_SPTE_HVA,
}


@dataclass(frozen=True)
class Part:
    """Facts of a real trace that follow each other, and the rules' state in front of them."""

    trace: str
    facts: tuple[Fact, ...]
    before: bytes  # a pickled RuleChecker
    fixed: int | None  # RET_PF_FIXED

    def departures(self, facts: Sequence[Fact]) -> list[Departure]:
        checker = pickle.loads(self.before)
        first = self.facts[0].row
        checker.feed(fact._replace(row=first + i) for i, fact in enumerate(facts))
        checker.finish(whole=len(self.facts) < PART)
        return list(checker.departures)


@dataclass(frozen=True)
class Edited:
    """facts: after the edit; places: in them, where it was made."""

    facts: list[Fact]
    places: tuple[int, ...]
    harmless: bool = False


@cache
def parts() -> tuple[tuple[Part, ...], ...]:
    """Of each trace, in pieces that overlap."""
    return tuple(tuple(pieces(name)) for name in TRACES)


def pieces(name: str) -> Iterator[Part]:
    reader, dialect, facts = FactReader(), Dialect(), list[Fact]()
    for batch in open_trace(str(DATA / name)).batches():
        facts += reader.read(batch).rows()
        dialect.learn(reader)
    facts = [fact._replace(row=row, stack=None) for row, fact in enumerate(facts)]
    checker = RuleChecker(dialect)
    for start in range(0, len(facts), STEP):
        yield Part(name, tuple(facts[start : start + PART]), pickle.dumps(checker), dialect.fixed)
        checker.feed(facts[start : start + STEP])
    assert not checker.departures


def pick(rng: random.Random, part: Part, wanted: Callable[[Fact], bool]) -> int | None:
    """The index of a random fact, not too near to the end of the part."""
    last = len(part.facts) - MARGIN
    found = [i for i, fact in enumerate(part.facts[:last]) if i >= NEAR and wanted(fact)]
    return rng.choice(found) if found else None


def without(facts: Sequence[Fact], indices: Sequence[int]) -> list[Fact]:
    gone = set(indices)
    return [fact for i, fact in enumerate(facts) if i not in gone]


def changed(part: Part, index: int, **fields: object) -> Edited:
    facts = list(part.facts)
    facts[index] = facts[index]._replace(**fields)
    return Edited(facts, (index,))


def call(facts: Sequence[Fact], index: int, last: int) -> list[int] | None:
    """The facts of a task from one that enters to the next of this kind, both included."""
    found = []
    for i in range(index, len(facts)):
        if facts[i].pid == facts[index].pid:
            found.append(i)
            if facts[i].kind == last:
                return found
    return None


def removed(part: Part, indices: Sequence[int]) -> Edited:
    return Edited(without(part.facts, indices), (indices[0],))
