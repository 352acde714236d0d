"""One task along the automaton: the set of all points at which it may be, event by event."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from mmuwitness.trace.paths.automaton import Automaton, Position
from mmuwitness.trace.paths.graph import ALONE, Point
from mmuwitness.trace.paths.interlude import Interlude
from mmuwitness.trace.paths.match import PFN_ERROR, PFN_NO_SLOT, SPTE_ACCESS, Names, Seen
from mmuwitness.trace.paths.observe import (
    CALLS,
    EMULATED,
    RELEASE,
    SPTE_TRACEPOINTS,
    TOLD_BY_CALLER,
    Label,
)
from mmuwitness.trace.paths.totals import Departure, NotModelled, Totals

HISTORY_MAX = 24
HUGE_LEAF = 1 << 7
NO_NAMES: Names = frozenset()


class Task:
    """One thread. `feed` takes its events in order and returns its departure, if it departs.

    A task is lost where the trace does not show how its present activity began: before its first
    event, and where events were dropped. It is found where it is in the guest or in user mode, and
    guessed to be found where an event can begin an activity; a guess may prove wrong."""

    def __init__(self, automaton: Automaton, totals: Totals) -> None:
        self.automaton, self.totals = automaton, totals
        self.positions: set[tuple[Position, Names]] = set()
        self.history: deque[Seen] = deque(maxlen=HISTORY_MAX)
        self.first: Seen | None = None
        self.events = self.windows = 0
        self.inside: list[str] = []  # what is not modelled in the present activity
        self.interlude: Interlude | None = None
        self.refusal: Departure | None = None  # if the interlude turns out to be none,
        self.refused: list[Seen] = []  # and its events
        self.last_interlude = ""  # if nothing else came since
        self.window: Window | None = None
        self.lost, self.guessed = True, False
        self.lost_in = NO_BEGINNING
        self.outer: Outer | None = None  # the fault that the present activity is in
        self.mm: int | None = None  # the address space that the last event of it named
        self.freed = False  # page tables went since the task came back
        self.untold = 0  # events that are in no total yet

    def lose(self) -> None:
        """Nothing is known of the present activity any more."""
        if self.untold:
            self.totals.begun_before += self.lost_in == NO_BEGINNING
            self.tell(self.lost_in, self.untold)
        self.clear()
        self.interlude, self.outer, self.lost = None, None, True

    def tell(self, elsewhere: str, events: int = 1) -> None:
        self.totals.elsewhere[elsewhere] += events
        self.untold -= events

    def feed(self, seen: Seen) -> Departure | None:
        if seen.what == "user":
            self.totals.elsewhere[seen.name] += 1
            return self.come_back(seen)
        self.untold += 1
        self.mm = seen.fields.get("mm", self.mm)
        departure = self.take(seen)
        if departure is not None and self.window is not None:
            departure = self.reread(self.window, departure)
        if departure is not None and (name := self.not_modelled_fault(departure.seen)):
            self.give_up(name, departure.seen)
            return None
        if departure is not None and (self.lost or self.guessed):
            self.lose()
            self.guessed = True
            return None
        begin = self.first.name if self.first is not None else ""
        if departure is not None and self.outer is not None and begin not in TOLD_BY_CALLER:
            return self.outer.refusal
        if self.interlude is None and not self.guessed:
            self.guessed = self.lost and self.alone()
            self.lost = False
        return departure

    def alone(self) -> bool:
        """Only of an address space that KVM does not subscribe to, which is not certain yet."""
        names = self.automaton.names(self.positions)
        return all(name.endswith(ALONE) for name in names)

    def take(self, seen: Seen) -> Departure | None:
        if self.interlude is not None:
            return self.go_on(self.interlude, seen)
        if self.passed_over(seen):
            return None
        following, fresh = self.advance(seen)
        if not following and self.outer is not None and self.may_end():
            self.resume(self.outer)
            following, fresh = self.advance(seen)
        if not following and self.looks_up():
            following = self.begun(seen, MIGRATION)
            if following:
                self.interrupt(self.departure(seen))
                self.first = seen
        if not following:
            return self.go_on(self.begin_interlude(self.departure(seen)), seen)
        if fresh:
            self.finish()
            self.first = seen
        if self.automaton.begins_window(seen):
            self.windows += 1
            self.window = Window(set(self.positions), self.events, [])
        if self.window is not None:
            self.window.events.append(seen)
        self.positions = following
        self.last_interlude = ""
        self.events += 1
        self.history.append(seen)
        return None

    def reread(self, window: Window, departure: Departure) -> Departure | None:
        """Was the last window one that the model does not have, although it began like one?"""
        events = window.events + self.refused
        self.window, self.positions, self.events = None, window.before, window.events_before
        self.windows -= 1
        self.begin_interlude(departure)
        for seen in events:
            if self.take(seen) is not None:
                return departure
        return None

    def advance(self, seen: Seen) -> tuple[set[tuple[Position, Names]], bool]:
        """Where the event leads; whether it begins an activity."""
        match, key = self.automaton.matcher.match, (seen.what, seen.name)
        following = set()
        for position, names in self.positions:
            for label, behind in self.automaton.ahead(position)[0].get(key, ()):
                found = match(label, seen, names)
                if found is not None:
                    following.add((behind, found))
        if following or self.outer is not None or (self.positions and not self.may_end()):
            return following, False
        return self.begun(seen), True

    def begun(self, seen: Seen, process: str = "") -> set[tuple[Position, Names]]:
        """Where the event leads as the first one of an activity, of one process or of any."""
        match, key = self.automaton.matcher.match, (seen.what, seen.name)
        begun = set()
        for head in self.heads(seen):
            if process and self.automaton.graph.names[head.process] != process:
                continue
            for label, behind in self.automaton.ahead(((), head))[0].get(key, ()):
                found = match(label, seen, NO_NAMES)
                if found is not None:
                    begun.add((behind, found))
        return begun

    # -- migration in a fault --------------------------------------------------------------------

    def looks_up(self) -> bool:
        """A fault looks its page up: on the way the kernel may migrate it for NUMA balancing, which
        in the model is a process of its own."""
        if self.outer is not None or not self.history or self.may_end():
            return False
        if not self.automaton.names(self.positions) <= FAULTS:
            return False
        last, shows = self.history[-1], self.automaton.recorded.shows
        begins = "handle_mm_fault" if last.name == "handle_mm_fault" else "hva_to_pfn"
        if shows("enter", begins):
            return (last.what, last.name) == ("enter", begins)
        return (last.what, last.name) == ("trace", "kvm_page_fault")

    def interrupt(self, refusal: Departure) -> None:
        self.outer = Outer(
            refusal,
            self.positions,
            tuple(self.history),
            self.first,
            self.events,
            self.windows,
            tuple(self.inside),
        )
        self.clear()

    def resume(self, outer: Outer) -> None:
        """The migration is over, and the fault goes on."""
        self.finish()
        self.outer = None
        self.positions, self.first, self.window = outer.positions, outer.first, None
        self.events, self.windows = outer.events, outer.windows
        self.history.extend(outer.history)
        self.inside += outer.inside

    def may_end(self) -> bool:
        return any(self.automaton.ahead(position)[1] for position, _ in self.positions)

    def heads(self, seen: Seen) -> Sequence[Point]:
        """The beginnings of all processes; of those without KVM's notifier only as long as the
        address space has not been seen to have it; of what zaps outside of every window not where
        such a window was not modelled."""
        subscribed = seen.fields.get("mm", self.mm) in self.totals.subscribed
        heads = self.automaton.heads
        names = self.automaton.graph.names
        return [
            head
            for head, name in zip(heads, names, strict=True)
            if not (subscribed and name.endswith(ALONE))
            and not (self.last_interlude and name == RELEASE)
        ]

    # -- what is not modelled ------------------------------------------------------------------

    def passed_over(self, seen: Seen) -> bool:
        """Fast page faults, huge pages and page tables are in no process."""
        if seen.name == "fast_page_fault":
            if seen.fields.get("fixed") or seen.fields.get("spurious"):
                self.give_up("fast page fault", seen)
            else:
                self.tell("fast_page_fault that fixes nothing")
            return True
        if seen.name in SPTE_TRACEPOINTS and (seen.fields.get("level") or 1) > 1:
            new = seen.fields.get("new_spte") or seen.fields.get("spte") or 0
            old = seen.fields.get("old_spte") or 0
            asked = seen.name == "kvm_mmu_spte_requested"
            if asked or (new & HUGE_LEAF and new & SPTE_ACCESS) or old & HUGE_LEAF:
                self.give_up("huge page", seen)
            else:
                self.freed = self.freed or (old & SPTE_ACCESS != 0 and not new & SPTE_ACCESS)
                self.tell(f"{seen.name} of a page table")
            return True
        return False

    def not_modelled_fault(self, seen: Seen) -> str:
        """The name of a kind of guest faults that the model does not have; "" if it is none."""
        if not self.positions or self.automaton.names(self.positions) != {"guest fault"}:
            return ""
        ret, pfn = seen.fields.get("ret"), seen.fields.get("pfn")
        if seen.what == "user" and self.events == 1:
            return MMIO
        if seen.what == "leave" and seen.name in FAULT_RETURNS:
            return "access that is emulated" if ret in self.automaton.emulated else ""
        if seen.name == "kvm_tdp_mmu_map" and isinstance(pfn, int) and pfn & PFN_NO_SLOT:
            return EMULATED
        before = self.history[-1]
        if (seen.what, seen.name) == ("enter", "hva_to_pfn") == ("enter", before.name):
            failed = before.what == "leave" and before.fields.get("pfn", 0) & PFN_ERROR
            return "asynchronous page fault" if failed else ""
        return ""

    def give_up(self, name: str, seen: Seen) -> None:
        """The present activity is of this kind, which no process has; the rest is passed over."""
        first = self.first if self.positions and self.first is not None else seen
        self.count_not_modelled(name, self.windows, self.untold, first.place)
        self.clear()
        self.interlude, self.outer, self.lost, self.guessed = None, None, True, True
        self.lost_in = f"the rest of: {name}"

    def count_not_modelled(self, name: str, windows: int, events: int, place: int) -> None:
        self.totals.not_modelled.setdefault(name, NotModelled()).add(windows, events, place)
        self.untold -= events

    def begin_interlude(self, refusal: Departure) -> Interlude:
        """`refusal` is what comes out if it turns out to be none."""
        idle = not self.positions or self.may_end()
        self.interlude = Interlude(self.automaton.recorded, idle, self.last_interlude)
        self.refusal = refusal
        return self.interlude

    def go_on(self, interlude: Interlude, seen: Seen) -> Departure | None:
        if not interlude.feed(seen) and not interlude.refused:
            return None
        self.interlude = None
        if not interlude.accepted:
            self.refused = interlude.taken
            return self.refusal
        self.last_interlude = interlude.name
        self.count_not_modelled(
            interlude.name, interlude.windows, interlude.events, interlude.place
        )
        if self.positions and not self.may_end():
            self.inside.append(interlude.name)
        return None

    @property
    def open(self) -> bool:
        """In the middle of an activity."""
        return self.interlude is not None or (bool(self.positions) and not self.may_end())

    # -- the end of an activity ----------------------------------------------------------------

    def come_back(self, seen: Seen) -> Departure | None:
        self.last_interlude = ""
        if self.outer is not None and self.interlude is None and self.may_end():
            self.resume(self.outer)
        if self.lost or self.guessed:
            if self.open:
                self.lose()
            self.lost = self.guessed = False
        if self.interlude is not None:
            return self.refusal
        if name := self.open and self.not_modelled_fault(seen):
            self.give_up(name, seen)
            self.lost = self.guessed = False
        if self.open:
            return self.departure(seen)
        self.finish()
        self.freed = False
        return None

    def finish(self) -> None:
        """The present activity is over."""
        if self.positions and self.first is not None:
            ended = [p for p, _ in self.positions if self.automaton.ahead(p)[1]]
            name = self.automaton.graph.names[min(point.process for _, point in ended)]
            if name == "guest fault" and self.windows:
                name = "cow-break"
            if name == RELEASE and not self.freed:
                self.count_not_modelled(ZAPS, self.windows, self.events, self.first.place)
            elif self.inside:
                what = f"{name} with {self.inside[0]} in it"
                self.count_not_modelled(what, self.windows, self.events, self.first.place)
            else:
                self.totals.accept(name, self.windows, self.events)
                self.untold -= self.events
            self.lost = self.guessed = False
            self.lost_in = NO_BEGINNING
        self.clear()

    def clear(self) -> None:
        self.positions, self.events, self.windows, self.window = set(), 0, 0, None
        self.history.clear()
        self.inside.clear()

    def departure(self, seen: Seen) -> Departure:
        """What would have been allowed where `seen` came."""
        allowed: dict[str, None] = {}
        same = False
        ahead = [(self.automaton.ahead(position), names) for position, names in self.positions]
        if not ahead:
            ahead = [(self.automaton.ahead(((), h)), NO_NAMES) for h in self.heads(seen)]
        for (followers, ends), names in ahead:
            same = same or (seen.what, seen.name) in followers
            for label, _ in (each for labels in followers.values() for each in labels):
                allowed[described(label, names)] = None
            if ends and self.positions:
                allowed["the end of it"] = None
        if seen.what == "user":
            why = "the task is back although the activity is not over"
        elif same:
            why = "its arguments or its caller do not agree with what came before"
        elif self.positions:
            why = "it does not follow here"
        else:
            why = "no process of the model begins so"
        process = min(self.automaton.names(self.positions), default="")
        return Departure(seen, process, tuple(self.history), tuple(sorted(allowed)), why)


@dataclass(frozen=True)
class Outer:
    """A fault that goes on when the activity inside it is over.

    refusal: what comes out if that turns out to be none, and did not say by its name what it is."""

    refusal: Departure
    positions: set[tuple[Position, Names]]
    history: tuple[Seen, ...]
    first: Seen | None
    events: int
    windows: int
    inside: tuple[str, ...]


@dataclass
class Window:
    """The last window of an activity: where the task was before it, and the events since."""

    before: set[tuple[Position, Names]]
    events_before: int
    events: list[Seen]


FAULT_RETURNS = frozenset(CALLS["page_fault"].kernel) | {"kvm_faultin_pfn", "kvm_tdp_mmu_map"}

MIGRATION = "page migration"
MMIO = "guest fault that KVM's MMU does not see (MMIO)"
ZAPS = "zaps outside of every window"

FAULTS = {"guest fault", "host-write", "host-write" + ALONE}

NO_BEGINNING = "of activities whose beginning is not in the trace"


def described(label: Label, names: Names) -> str:
    """A label with the arguments that are known."""
    known = dict(names)
    shown = []
    for check in label.checks:
        for space in (check.role.removesuffix("_end"), "pfn"):
            value = known.get((space, check.word))
            if value is not None:
                shown.append(f"{check.names[0]}={value << 12 if space == 'hva' else value:#x}")
                break
        else:
            if isinstance(check.word, str):
                shown.append(f"{check.names[0]}={check.word}")
    return " ".join([str(label), *shown])
