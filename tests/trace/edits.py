"""Random edits of real traces: each must be rejected, at the place of the edit.

    python -m tests.trace.edits        # the share that is caught, by kind of edit

An edit works on the facts of a part of a real trace. It is *harmless* only if it swaps events of
different tasks neither of which bounds a lock section or an overlapping window: such an order is
not determined by the protocol. Everything else that the rules accept is *missed*, and counted so.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mmuwitness.trace.facts import Fact
from mmuwitness.trace.rules.rule import Departure
from mmuwitness.trace.tracepoints import Kind
from tests.trace.edit_parts import (
    BOUNDARIES,
    CHANGES,
    ENDS,
    INSTALLS,
    LOCKED,
    MARGIN,
    MM_WINDOW,
    NEAR,
    READINGS,
    STARTS,
    Edited,
    Part,
    call,
    changed,
    parts,
    pick,
    removed,
    without,
)

Edit = Callable[[random.Random, Part], Edited | None]
EDITS: dict[str, Edit] = {}


def edit(function: Edit) -> Edit:
    EDITS[function.__name__] = function
    return function


@edit
def end_removed(rng: random.Random, part: Part) -> Edited | None:
    """One event of an end."""
    index = pick(rng, part, lambda fact: fact.kind in ENDS)
    return None if index is None else removed(part, [index])


@edit
def whole_end_removed(rng: random.Random, part: Part) -> Edited | None:
    """mm's end() and all that is in it."""
    index = pick(rng, part, lambda fact: fact.kind == Kind.MN_END)
    if index is None:
        return None
    returns = any(fact.kind == Kind.MN_END_RET for fact in part.facts)
    found = call(part.facts, index, Kind.MN_END_RET) if returns else [index]
    return removed(part, found) if found else None


@edit
def start_removed(rng: random.Random, part: Part) -> Edited | None:
    """One event of a start."""
    index = pick(rng, part, lambda fact: fact.kind in STARTS)
    return None if index is None else removed(part, [index])


@edit
def whole_start_removed(rng: random.Random, part: Part) -> Edited | None:
    """mm's start() and all that is in it: nothing is zapped."""
    index = pick(rng, part, lambda fact: fact.kind == Kind.MN_START)
    found = None if index is None else call(part.facts, index, Kind.MN_START_RET)
    return removed(part, found) if found else None


@edit
def install_moved_into_window(rng: random.Random, part: Part) -> Edited | None:
    """All that a fault does under mmu_lock, to a place where its page is being invalidated."""
    facts = part.facts
    opened = pick(rng, part, lambda fact: fact.kind in (Kind.UNMAP_GFN, Kind.STAGE2_UNMAP))
    if opened is None or facts[opened].gfn is None:
        return None
    first = facts[opened].gfn or 0
    last = facts[opened].gfn_end or first + ((facts[opened].size or 0) >> 12)
    inside = call(facts, opened, Kind.MN_START_RET)
    if inside is None:
        return None
    asked = [
        i
        for i, fact in enumerate(facts)
        if fact.kind in (Kind.SPTE_REQUESTED, Kind.STAGE2_MAP, Kind.MAP)
        and first <= (fact.gfn or 0) < last
        and fact.memcache != 0
        and fact.pid != facts[opened].pid
    ]
    if not asked:
        return None
    begin = rng.choice(asked)
    group = [
        i for i in range(begin, min(begin + 40, len(facts))) if facts[i].pid == facts[begin].pid
    ]
    kept = []
    for i in group:
        if facts[i].kind in INSTALLS or facts[i].kind in (
            Kind.SPTE_CHANGED,
            Kind.MAP_RET,
            Kind.STAGE2_MAP_RET,
        ):
            kept.append(i)
        else:
            break
    rest = without(facts, kept)
    place = inside[-1] + 1 - sum(i <= inside[-1] for i in kept)
    moved = [facts[i] for i in kept]
    return Edited([*rest[:place], *moved, *rest[place:]], (place, begin))


def mapped_lookups(facts: Sequence[Fact]) -> set[int]:
    """Rows of lookups whose page a fault then maps; others are thrown away by a retry."""
    last, found = dict[int, int](), set[int]()
    for fact in facts:
        if fact.kind == Kind.HVA_TO_PFN_RET:
            last[fact.pid] = fact.row
        elif fact.kind == Kind.SPTE_REQUESTED and fact.pid in last:
            found.add(last[fact.pid])
    return found


@edit
def pfn_changed(rng: random.Random, part: Part) -> Edited | None:
    """The page frame in one event of a lookup or of an install."""
    kinds = {Kind.MAP, Kind.SPTE_REQUESTED, Kind.HVA_TO_PFN_RET, Kind.STAGE2_MAP}
    used = mapped_lookups(part.facts)
    ptes = {Kind.SPTE_CHANGED, Kind.SET_SPTE, Kind.SPTE_STORE} | CHANGES
    index = pick(
        rng,
        part,
        lambda fact: (
            (
                fact.kind in kinds
                and (fact.pfn or 1 << 63) < 1 << 40
                and (fact.kind != Kind.HVA_TO_PFN_RET or fact.row in used)
            )
            or (fact.kind in ptes and fact.level in (1, None) and ((fact.new or 0) & 0x801) != 0)
        ),
    )
    if index is None:
        return None
    fact, flip = part.facts[index], 1 << rng.randrange(12)
    if fact.kind in kinds:
        return changed(part, index, pfn=(fact.pfn or 0) ^ flip)
    return changed(part, index, new=(fact.new or 0) ^ (flip << 12))


@edit
def gfn_changed(rng: random.Random, part: Part) -> Edited | None:
    """The guest frame in one event of an install, a zap or a call of the arch."""
    kinds = INSTALLS | {Kind.SPTE_CHANGED, Kind.UNMAP_GFN, Kind.SET_SPTE_GFN}
    index = pick(
        rng,
        part,
        lambda fact: fact.kind in kinds and fact.gfn is not None and fact.level in (1, None),
    )
    if index is None:
        return None
    fact, by = part.facts[index], rng.choice((-2, -1, 1, 2))
    end = None if fact.gfn_end is None else fact.gfn_end + by
    return changed(part, index, gfn=(fact.gfn or 0) + by, gfn_end=end)


def is_zap(fact: Fact) -> bool:
    return (
        fact.kind == Kind.SPTE_CHANGED
        and fact.level == 1
        and bool((fact.old or 0) & 0x800)
        and not (fact.new or 0) & 0x800
    )


@edit
def zap_dropped(rng: random.Random, part: Part) -> Edited | None:
    index = pick(rng, part, is_zap)
    return None if index is None else removed(part, [index])


@edit
def install_dropped(rng: random.Random, part: Part) -> Edited | None:
    """One event of an install."""
    index = pick(
        rng,
        part,
        lambda fact: (
            fact.kind in INSTALLS
            or (fact.kind == Kind.SPTE_CHANGED and bool((fact.new or 0) & 0x800))
        ),
    )
    return None if index is None else removed(part, [index])


@edit
def change_pte_moved(rng: random.Random, part: Part) -> Edited | None:
    """A whole call of change_pte, to a place before or behind its window."""
    facts = part.facts
    index = pick(rng, part, lambda fact: fact.kind == Kind.MN_CHANGE_PTE)
    if index is None:
        return None
    returns = any(fact.kind == Kind.MN_CHANGE_PTE_RET for fact in facts)
    last = Kind.MN_CHANGE_PTE_RET if returns else Kind.KVM_CHANGE_PTE_RET
    group = call(facts, index, last)
    if group is None:
        return None
    own = [i for i, fact in enumerate(facts) if fact.pid == facts[index].pid]
    starts = [i for i in own if facts[i].kind == Kind.MN_START and i < index]
    ends = [i for i in own if facts[i].kind == Kind.MN_END_RET and i > index] or [
        i + 1 for i in own if facts[i].kind == Kind.MN_END and i > index
    ]
    if not starts or not ends:
        return None
    place = starts[-1] if rng.random() < 0.5 else ends[0] + 1
    place -= sum(i < place for i in group)
    rest = without(facts, group)
    moved = [facts[i] for i in group]
    return Edited([*rest[:place], *moved, *rest[place:]], (place, index))


@edit
def seq_altered(rng: random.Random, part: Part) -> Edited | None:
    index = pick(
        rng, part, lambda fact: fact.seq is not None and fact.kind in READINGS | {Kind.MAP}
    )
    if index is None:
        return None
    by = rng.choice((-3, -2, -1, 1, 2, 3))
    return changed(part, index, seq=max(0, (part.facts[index].seq or 0) + by))


@edit
def count_altered(rng: random.Random, part: Part) -> Edited | None:
    """mmu_invalidate_in_progress or mn_active_invalidate_count."""
    index = pick(rng, part, lambda fact: fact.kind in READINGS and fact.in_progress is not None)
    if index is None:
        return None
    name = rng.choice(("in_progress", "active"))
    return changed(
        part, index, **{name: (getattr(part.facts[index], name) or 0) + rng.choice((-1, 1))}
    )


@edit
def invalidate_range_altered(rng: random.Random, part: Part) -> Edited | None:
    """mmu_invalidate_range_start or _end, where the window is open."""
    kinds = (Kind.KVM_END, Kind.KVM_CHANGE_PTE)
    index = pick(
        rng,
        part,
        lambda fact: fact.kind in kinds and bool(fact.in_progress) and bool(fact.range_end),
    )
    if index is None:
        return None
    fact, page = part.facts[index], 1 if (part.facts[index].range_end or 0) < 1 << 32 else 1 << 12
    name = rng.choice(("range_start", "range_end"))
    return changed(part, index, **{name: getattr(fact, name) + rng.choice((-page, page))})


@edit
def window_range_altered(rng: random.Random, part: Part) -> Edited | None:
    """The range of one event of a window."""
    index = pick(rng, part, lambda fact: fact.kind in STARTS | ENDS)
    if index is None:
        return None
    name = rng.choice(("start", "end"))
    moved = (getattr(part.facts[index], name) or 0) + rng.choice((-1, 1)) * 4096
    return changed(part, index, **{name: moved})


@edit
def retry_invented(rng: random.Random, part: Part) -> Edited | None:
    """A fault that fixed its SPTE returns RET_PF_RETRY."""
    index = pick(
        rng,
        part,
        lambda fact: (
            fact.kind == Kind.FAULT_RET and part.fixed is not None and fact.ret == part.fixed
        ),
    )
    return None if index is None else changed(part, index, ret=1)


@edit
def fix_invented(rng: random.Random, part: Part) -> Edited | None:
    """A fault that was retried returns RET_PF_FIXED."""
    index = pick(
        rng,
        part,
        lambda fact: fact.kind == Kind.FAULT_RET and part.fixed is not None and fact.ret == 1,
    )
    return None if index is None else changed(part, index, ret=part.fixed)


@edit
def unmap_result_flipped(rng: random.Random, part: Part) -> Edited | None:
    kinds = (Kind.UNMAP_GFN_RET, Kind.TDP_UNMAP_GFN_RET)
    index = pick(rng, part, lambda fact: fact.kind in kinds)
    return None if index is None else changed(part, index, ret=1 - (part.facts[index].ret or 0))


@edit
def own_events_swapped(rng: random.Random, part: Part) -> Edited | None:
    """Two neighbours of one task, of different kinds, at least one of them of the protocol."""
    facts = part.facts
    index = pick(rng, part, lambda fact: fact.kind in BOUNDARIES)
    if index is None:
        return None
    own = next((i for i in range(index + 1, len(facts)) if facts[i].pid == facts[index].pid), None)
    if own is None or facts[own].kind == facts[index].kind:
        return None
    swapped = list(facts)
    swapped[index], swapped[own] = swapped[own], swapped[index]
    return Edited(swapped, (index, own))


@edit
def tasks_swapped(rng: random.Random, part: Part) -> Edited | None:
    """Two neighbours of different tasks."""
    facts = part.facts
    index = pick(rng, part, lambda fact: True)
    pairs = [i for i in range(NEAR, len(facts) - MARGIN) if facts[i].pid != facts[i + 1].pid]
    if index is None or not pairs:
        return None
    index = rng.choice(pairs)
    swapped = list(facts)
    swapped[index], swapped[index + 1] = swapped[index + 1], swapped[index]
    return Edited(swapped, (index, index + 1), harmless=may_swap(facts, index))


def may_swap(facts: Sequence[Fact], index: int) -> bool:
    """Neither of the two bounds a lock section, or a window that overlaps one of the other's."""
    pair = facts[index], facts[index + 1]
    if any(fact.kind in LOCKED for fact in pair):
        return False
    windows = [fact for fact in pair if fact.kind in BOUNDARIES]
    in_windows = all(in_window(facts[:index], fact.pid) or fact in windows for fact in pair)
    return not (windows and in_windows)


def in_window(facts: Sequence[Fact], pid: int) -> bool:
    own = [fact.kind for fact in facts if fact.pid == pid and fact.kind in MM_WINDOW]
    return bool(own) and own[-1] == Kind.MN_START


@edit
def event_given_away(rng: random.Random, part: Part) -> Edited | None:
    """An event of the protocol is another task's."""
    facts = part.facts
    index = pick(rng, part, lambda fact: fact.kind in BOUNDARIES)
    if index is None:
        return None
    others = sorted({(f.pid, f.task) for f in facts if f.pid != facts[index].pid})
    if not others:
        return None
    pid, task = rng.choice(others)
    return changed(part, index, pid=pid, task=task)


@dataclass
class Tally:
    """Of one kind of edit."""

    edits: int = 0
    at_place: int = 0
    elsewhere: int = 0
    harmless: int = 0
    missed: list[tuple[str, str]] = field(default_factory=list)
    by_rule: Counter[str] = field(default_factory=Counter)

    @property
    def share(self) -> float:
        """Of the edits that are not harmless, those rejected at their place."""
        return self.at_place / max(1, self.edits - self.harmless)


def what(part: Part, edited: Edited) -> str:
    """Which events an edit was made to."""
    place = min(edited.places)
    kinds = [Kind(part.facts[i].kind).name for i in sorted({place, *edited.places})]
    return "/".join(kinds)


def is_near(departure: Departure, places: Sequence[int]) -> bool:
    """One of the events that the departure names is where the edit was made."""
    named = [fact.row for fact in (departure.fact, departure.since) if fact]
    return any(abs(row - place) <= NEAR for row in named for place in places)


def run(seed: int, times: int) -> dict[str, Tally]:
    """Each kind of edit this many times, on random parts."""
    rng = random.Random(seed)
    tallies = {name: Tally() for name in EDITS}
    for name, make in EDITS.items():
        tally = tallies[name]
        for _ in range(times * 20):
            if tally.edits == times:
                break
            part = rng.choice(rng.choice(parts()))
            edited = make(rng, part)
            if edited is None or edited.facts == list(part.facts):
                continue
            places = [part.facts[0].row + place for place in edited.places]
            tally.edits += 1
            found = part.departures(edited.facts)
            if not found:
                if edited.harmless:
                    tally.harmless += 1
                else:
                    tally.missed.append((part.trace, what(part, edited)))
                continue
            first = min(found, key=lambda each: each.fact.row)
            tally.by_rule[first.rule] += 1
            if is_near(first, places):
                tally.at_place += 1
            else:
                tally.elsewhere += 1
    return tallies


def report(tallies: dict[str, Tally]) -> str:
    lines = [
        f"{'edit':28}{'edits':>6}{'at place':>10}{'elsewhere':>11}{'harmless':>10}{'missed':>8}"
    ]
    for name, tally in tallies.items():
        numbers = f"{tally.edits:6}{tally.at_place:10}{tally.elsewhere:11}"
        lines.append(f"{name:28}{numbers}{tally.harmless:10}{len(tally.missed):8}")
        for (trace, kind), count in Counter(tally.missed).most_common(6):
            lines.append(f"{'':32}missed {count} at {kind} in {trace}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(report(run(seed=3, times=200)))
