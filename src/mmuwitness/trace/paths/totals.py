"""What a trace came to: what was accepted, what is not modelled, where it departs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from mmuwitness.trace.paths.match import Seen

PLACES_MAX = 5


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
