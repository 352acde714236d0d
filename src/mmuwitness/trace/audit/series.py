"""Numbers over a long trace in bounded memory: distributions, counts over time, bursts."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

SAMPLES_MAX = 1 << 18
SLOTS_MAX = 4096
SLOT_NS = 1_000_000
STORM_SLOTS = 200  # at most so many in a trace, so that a burst is a burst
STORM_MIN = 16  # windows and retries in a burst
STORM_RATE_MIN = 1000  # of them a second: a storm whatever the rest of the trace is like
STORM_FACTOR = 4  # so many times the mean rate of the trace


class Distribution:
    """p50, p99 and max of ns. Once there are SAMPLES_MAX values, every second one is dropped."""

    def __init__(self) -> None:
        self.count = 0
        self.max: int | None = None
        self._values = array("q")
        self._every = 1

    def add(self, value: int | None) -> None:
        """One value, or nothing."""
        if value is None:
            return
        if self.count % self._every == 0:
            self._values.append(value)
            if len(self._values) >= SAMPLES_MAX:
                self._values = self._values[::2]
                self._every *= 2
        self.count += 1
        if self.max is None or value > self.max:
            self.max = value

    def at(self, share: float) -> int | None:
        """The value that this share of all does not exceed; None: there are none."""
        if not self._values:
            return None
        ordered = sorted(self._values)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    def summary(self) -> dict[str, int | None]:
        """As the report's JSON has it."""
        return {"count": self.count, "p50": self.at(0.5), "p99": self.at(0.99), "max": self.max}


class Timeline:
    """Counts per slot of time and series; when there are too many slots, they double in length."""

    def __init__(self) -> None:
        self.slot_ns = SLOT_NS
        self.slots: dict[int, Counter[tuple[str, str]]] = {}

    def add(self, time: int, kind: str, series: str) -> None:
        """One `kind` (window, refault, retry) of a cause."""
        slot = time // self.slot_ns
        if (counts := self.slots.get(slot)) is None:
            counts = self.slots[slot] = Counter()
            if len(self.slots) > SLOTS_MAX:
                self._double()
                counts = self.slots[time // self.slot_ns]
        counts[kind, series] += 1

    def coarsen(self, slot_ns: int) -> None:
        """Make slots at least so long."""
        while self.slot_ns < slot_ns:
            self._double()

    def _double(self) -> None:
        self.slot_ns *= 2
        merged: dict[int, Counter[tuple[str, str]]] = {}
        for slot, counts in self.slots.items():
            merged.setdefault(slot // 2, Counter()).update(counts)
        self.slots = merged


@dataclass(frozen=True)
class Storm:
    """A burst of windows and retries. Times are ns."""

    start: int
    end: int
    windows: int
    retries: int
    refaults: int
    causes: dict[str, int]  # windows and retries by cause, most first

    @property
    def rate(self) -> float:
        """Windows and retries a second."""
        return (self.windows + self.retries) / max(self.end - self.start, 1) * 1e9


def storms(timeline: Timeline, begin: int, end: int) -> list[Storm]:
    """Bursts, biggest first: neighbouring slots far above the trace's mean rate, or just high.

    The trace goes from `begin` to `end`, in ns.
    """
    duration_ns = end - begin
    timeline.coarsen(max(duration_ns // STORM_SLOTS, 1))
    total = sum(_busy(counts) for counts in timeline.slots.values())
    mean = total / max(duration_ns, 1) * 1e9
    limit = min(STORM_RATE_MIN, max(STORM_FACTOR * mean, 1.0)) * timeline.slot_ns / 1e9
    found = []
    for run in _runs([slot for slot, counts in timeline.slots.items() if _busy(counts) > limit]):
        counts = sum((timeline.slots[slot] for slot in run), Counter[tuple[str, str]]())
        if _busy(counts) >= STORM_MIN:
            by_cause = Counter[str]()
            for (kind, series), count in counts.items():
                if kind != "refault":
                    by_cause[series] += count
            found.append(
                Storm(
                    start=max(run[0] * timeline.slot_ns, begin),
                    end=min((run[-1] + 1) * timeline.slot_ns, end),
                    windows=_of(counts, "window"),
                    retries=_of(counts, "retry"),
                    refaults=_of(counts, "refault"),
                    causes=dict(by_cause.most_common()),
                )
            )
    return sorted(found, key=lambda storm: -(storm.windows + storm.retries))


def _of(counts: Counter[tuple[str, str]], wanted: str) -> int:
    return sum(count for (kind, _), count in counts.items() if kind == wanted)


def _busy(counts: Counter[tuple[str, str]]) -> int:
    return sum(count for (kind, _), count in counts.items() if kind != "refault")


def _runs(slots: list[int]) -> Iterator[list[int]]:
    """Neighbouring numbers together; one quiet slot does not end a run."""
    run: list[int] = []
    for slot in sorted(slots):
        if run and slot > run[-1] + 2:
            yield run
            run = []
        run.append(slot)
    if run:
        yield run
