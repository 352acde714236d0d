"""One task along the automaton: the set of all points at which it may be, event by event."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from mmuwitness.process.ir import Operand, Reg
from mmuwitness.trace.paths.events import Recorded
from mmuwitness.trace.paths.graph import Graph, Point, Word
from mmuwitness.trace.paths.interlude import Interlude
from mmuwitness.trace.paths.match import PFN_ERROR, PFN_NO_SLOT, SPTE_ACCESS, Matcher, Names, Seen
from mmuwitness.trace.paths.observe import CALLS, SPTE_TRACEPOINTS, Label, Observer

HISTORY_MAX = 24
PLACES_MAX = 5
HUGE_LEAF = 1 << 7
NO_NAMES: Names = frozenset()

Position = tuple[tuple[Label, ...], Point]
"""Labels that have to come first, and the point behind them."""

Followers = dict[tuple[str, str], list[tuple[Label, Position]]]
"""What may be shown next, by what it is and its name, with the position behind each."""


@dataclass(frozen=True)
class Departure:
    """Where a task leaves the model: what it did up to there, what was allowed, what came."""

    seen: Seen
    process: str  # "" at the beginning of an activity
    history: tuple[Seen, ...]  # of the activity, oldest first
    allowed: tuple[str, ...]
    why: str

    def __str__(self) -> str:
        allowed = " or ".join(self.allowed) or "nothing"
        return (
            f"{self.seen.place}: {self.seen.task}-{self.seen.pid}: {self.seen}: {self.why}; "
            f"the model allows {allowed}"
        )


@dataclass
class Accepted:
    """The activities of one kind that are paths of the model."""

    activities: int = 0
    windows: int = 0
    events: int = 0


@dataclass
class NotModelled:
    """An activity that the model has no process for."""

    windows: int = 0
    events: int = 0
    places: list[int] = field(default_factory=list)  # of the first ones

    def add(self, windows: int, events: int, place: int) -> None:
        self.windows += windows
        self.events += events
        if len(self.places) < PLACES_MAX:
            self.places.append(place)


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
            return [(pending[0], (pending[1:], point))], False
        stack, seen, ends = [point], {point}, False
        labels: list[tuple[Label, Position]] = []
        while stack:
            for mark, words, after in self.graph.walk(stack.pop()):
                if mark is None:
                    ends = True
                    continue
                read: Callable[[Operand], Word] = self.reader(words)
                for shown, outcome in self.observer.at(mark, read, after.outcome):
                    visible = tuple(x for x in shown if self.recorded.shows(x.what, x.name))
                    behind = after._replace(outcome=outcome)
                    if visible:
                        labels.append((visible[0], (visible[1:], behind)))
                    elif behind not in seen:
                        seen.add(behind)
                        stack.append(behind)
        return list(dict.fromkeys(labels)), ends

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
        self.untold = 0  # events that are in no total yet

    def lose(self) -> None:
        """Nothing is known of the present activity any more."""
        if self.untold:
            self.totals.begun_before += self.lost_in == NO_BEGINNING
            self.tell(self.lost_in, self.untold)
        self.clear()
        self.interlude, self.lost = None, True

    def tell(self, elsewhere: str, events: int = 1) -> None:
        self.totals.elsewhere[elsewhere] += events
        self.untold -= events

    def feed(self, seen: Seen) -> Departure | None:
        if seen.what == "user":
            self.totals.elsewhere[seen.name] += 1
            return self.come_back(seen)
        self.untold += 1
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
        if self.interlude is None and not self.guessed:
            self.lost = False
        return departure

    def take(self, seen: Seen) -> Departure | None:
        if self.interlude is not None:
            return self.go_on(self.interlude, seen)
        if self.passed_over(seen):
            return None
        following, fresh = self.advance(seen)
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
        if following or (self.positions and not self.may_end()):
            return following, False
        for head in self.heads(seen):
            for label, behind in self.automaton.ahead(((), head))[0].get(key, ()):
                found = match(label, seen, NO_NAMES)
                if found is not None:
                    following.add((behind, found))
        return following, True

    def may_end(self) -> bool:
        return any(self.automaton.ahead(position)[1] for position, _ in self.positions)

    def heads(self, seen: Seen) -> Sequence[Point]:
        """The beginnings of all processes; of those without KVM's notifier only as long as the
        address space has not been seen to have it."""
        subscribed = seen.fields.get("mm") in self.totals.subscribed
        heads = self.automaton.heads
        names = self.automaton.graph.names
        return [h for h, n in zip(heads, names, strict=True) if not (subscribed and n == ALONE)]

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
                self.tell(f"{seen.name} of a page table")
            return True
        return False

    def not_modelled_fault(self, seen: Seen) -> str:
        """The name of a kind of guest faults that the model does not have; "" if it is none."""
        if not self.positions or self.automaton.names(self.positions) != {"guest fault"}:
            return ""
        ret, pfn = seen.fields.get("ret"), seen.fields.get("pfn")
        if seen.what == "user" and self.events == 1:
            return "guest fault that KVM's MMU does not see (MMIO)"
        if seen.what == "leave" and seen.name in FAULT_RETURNS:
            return "access that is emulated" if ret in self.automaton.emulated else ""
        if seen.name == "kvm_tdp_mmu_map" and isinstance(pfn, int) and pfn & PFN_NO_SLOT:
            return "access outside of every memslot (MMIO)"
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
        self.interlude, self.lost, self.guessed = None, True, True
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
        return None

    def finish(self) -> None:
        """The present activity is over."""
        if self.positions and self.first is not None:
            name = min(self.automaton.names(self.positions))
            if name == "guest fault" and self.windows:
                name = "cow-break"
            if self.inside:
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


@dataclass
class Window:
    """The last window of an activity: where the task was before it, and the events since."""

    before: set[tuple[Position, Names]]
    events_before: int
    events: list[Seen]


FAULT_RETURNS = frozenset(CALLS["page_fault"].kernel) | {"kvm_faultin_pfn", "kvm_tdp_mmu_map"}

NO_BEGINNING = "of activities whose beginning is not in the trace"

ALONE = "host-write without KVM"
"""The process of an address space that KVM does not subscribe to."""


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


@dataclass
class Totals:
    """What a whole trace came to."""

    accepted: dict[str, Accepted] = field(default_factory=dict)
    not_modelled: dict[str, NotModelled] = field(default_factory=dict)
    begun_before: int = 0
    subscribed: set[int] = field(default_factory=set)  # address spaces that have KVM's notifier
    elsewhere: Counter[str] = field(default_factory=Counter)

    def accept(self, name: str, windows: int, events: int) -> None:
        known = self.accepted.setdefault(name, Accepted())
        known.activities += 1
        known.windows += windows
        known.events += events
