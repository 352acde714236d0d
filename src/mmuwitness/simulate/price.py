"""What designs cost, and from which exit cost on one pays: counters times the cost table.

    study = Study(runs, load_costs("x86"), baseline="wrapped")
    study.compare("ksm-only").break_even

The simulator spends typical costs, in its virtual time. Other costs are applied to what it counted:
waits for locks, and which faults had to retry, stay as they were simulated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from mmuwitness.simulate.cost import CostTable, Spread
from mmuwitness.simulate.meters import DO_NOTHING, EXITS, UNITS, Meter, Run
from mmuwitness.simulate.paired import Interval, interval

NS = 1e9


class Pays(StrEnum):
    """For which exit costs a design takes less CPU time than the baseline."""

    ALWAYS = "always pays"
    NEVER = "never pays"
    ABOVE = "pays above"
    BELOW = "pays below"
    EQUAL = "makes no difference"


@dataclass(frozen=True)
class BreakEven:
    """The exit cost at which two designs take the same CPU time, if there is one."""

    pays: Pays
    ns: float | None = None

    def pays_at(self, ns: float) -> bool:
        """Less CPU time than the baseline where an exit costs so much."""
        if self.ns is None:
            return self.pays is Pays.ALWAYS
        return ns > self.ns if self.pays is Pays.ABOVE else ns < self.ns


@dataclass(frozen=True)
class Sensitivity:
    """The difference in CPU time at both ends of one cost's spread, the others being typical."""

    name: str
    low: float  # ns
    high: float
    flips: bool  # the sign at one of them is not that at the typical cost
    turns_at: float | None  # the cost at which the sign turns, inside its spread

    @property
    def swing(self) -> float:
        """How much it matters."""
        return abs(self.high - self.low)


def solve(fixed: float, exits: float) -> BreakEven:
    """Where fixed + exits * c is negative, for exit costs c of 0 and more."""
    if exits == 0:
        pays = Pays.EQUAL if fixed == 0 else Pays.ALWAYS if fixed < 0 else Pays.NEVER
        return BreakEven(pays)
    turn = -fixed / exits
    if exits < 0:
        return BreakEven(Pays.ABOVE, turn) if turn > 0 else BreakEven(Pays.ALWAYS)
    return BreakEven(Pays.BELOW, turn) if turn > 0 else BreakEven(Pays.NEVER)


def cpu_ns(run: Run, costs: CostTable, at: Mapping[str, float] | None = None) -> float:
    """CPU time of a run, with some costs other than typical."""
    awake = {name: ns for name, ns in (at or {}).items() if not costs[name].sleeps}
    return run.cpu_total_ns + _shift(run, costs, awake)


def stall_ns(run: Run, costs: CostTable, at: Mapping[str, float] | None = None) -> float:
    """Guest time lost. Of other costs, only those that a vCPU always pays move it."""
    vcpu = {name: ns for name, ns in (at or {}).items() if costs[name].who == "vcpu"}
    return run.stall_ns + _shift(run, costs, vcpu)


def _shift(run: Run, costs: CostTable, at: Mapping[str, float]) -> float:
    return math.fsum(run.count(name) * (ns - costs[name].ns.typical) for name, ns in at.items())


@dataclass(frozen=True)
class Comparison:
    """A design beside the baseline: pairs of runs with the same seed, baseline first."""

    design: str
    baseline: str
    pairs: Sequence[tuple[Run, Run]]
    costs: CostTable

    def difference(self, meter: Meter) -> Interval:
        """Design minus baseline."""
        return interval([meter.read(other) - meter.read(base) for base, other in self.pairs])

    @cached_property
    def exits(self) -> Interval:
        """The difference in exits."""
        return interval([other.count(EXITS) - base.count(EXITS) for base, other in self.pairs])

    @cached_property
    def cpu_seconds(self) -> Interval:
        """The difference in CPU time, at typical costs."""
        return interval([(b.cpu_total_ns - a.cpu_total_ns) / NS for a, b in self.pairs])

    @cached_property
    def stall_seconds(self) -> Interval:
        """The difference in guest time lost, at typical costs."""
        return interval([(b.stall_ns - a.stall_ns) / NS for a, b in self.pairs])

    @property
    def guest_seconds(self) -> float:
        """How long the guests ran, in the mean."""
        return math.fsum(base.guest_seconds for base, _ in self.pairs) / len(self.pairs)

    @property
    def cpu_share(self) -> float:
        """The difference as a share of one CPU."""
        return self.cpu_seconds.mean / self.guest_seconds

    def count_difference(self, name: str) -> float:
        """The mean difference of a counter."""
        found = [other.count(name) - base.count(name) for base, other in self.pairs]
        return math.fsum(found) / len(found)

    @cached_property
    def cpu_seconds_by_costs(self) -> Spread:
        """The least and the most that the mean can be while every cost stays within its spread."""
        low = high = typical = self.cpu_seconds.mean * NS
        for name, (least, middle, most) in self._awake.items():
            count = self.count_difference(name)
            ends = (count * (least - middle), count * (most - middle))
            low, high = low + min(ends), high + max(ends)
        return Spread(low / NS, typical / NS, high / NS)

    @property
    def _awake(self) -> dict[str, Spread]:
        return {name: cost.ns for name, cost in self.costs.items() if not cost.sleeps}

    @cached_property
    def break_even(self) -> BreakEven:
        """By the means over all seeds."""
        return self._break_even(self.pairs)

    @cached_property
    def break_even_by_seed(self) -> list[BreakEven]:
        """By each seed alone."""
        return [self._break_even([pair]) for pair in self.pairs]

    def _break_even(self, pairs: Sequence[tuple[Run, Run]]) -> BreakEven:
        exits = sum(other.count(EXITS) - base.count(EXITS) for base, other in pairs)
        cpu = sum(other.cpu_total_ns - base.cpu_total_ns for base, other in pairs)
        return solve(cpu - exits * self.costs.typical(EXITS), exits)

    @cached_property
    def sensitivities(self) -> list[Sensitivity]:
        """One for each cost that the designs do not pay equally often, most swing first."""
        middle = self.cpu_seconds.mean * NS
        found = []
        for name, spread in self._awake.items():
            if not (count := self.count_difference(name)):
                continue
            low = middle + count * (spread.low - spread.typical)
            high = middle + count * (spread.high - spread.typical)
            turn = spread.typical - middle / count
            inside = middle != 0 and spread.low < turn < spread.high
            flips = middle * low < 0 or middle * high < 0
            found.append(Sensitivity(name, low, high, flips, turn if inside else None))
        return sorted(found, key=lambda each: (-each.swing, each.name))

    @property
    def exits_per_unit(self) -> tuple[str, float] | None:
        """In what the difference in exits is best told, and how many of it there are for each.
        (That a merged page was read again only a design knows in which it was not mapped.)"""
        for words, name in UNITS:
            units = sum(max(base.count(name), other.count(name)) for base, other in self.pairs)
            if units:
                return words, self.exits.mean * len(self.pairs) / units
        return None


class Study:
    """Runs of one workload with one set of parameters, under several designs and seeds."""

    def __init__(self, runs: Sequence[Run], costs: CostTable, baseline: str | None = None) -> None:
        """baseline: what the others are compared with; None: the first that does something."""
        if not runs:
            raise ValueError("there are no runs to compare")
        first = runs[0]
        for run in runs:
            if (run.workload, dict(run.parameters)) != (first.workload, dict(first.parameters)):
                raise ValueError(
                    "runs of other workloads, or with other parameters, do not compare"
                )
        self.runs, self.costs, self.workload = runs, costs, first.workload
        self._by_design: dict[str, dict[int, Run]] = {}
        for run in runs:
            seeds = self._by_design.setdefault(run.design, {})
            if run.seed in seeds:
                raise ValueError(f"{run.design} was run twice with the seed {run.seed}")
            seeds[run.seed] = run
        # Doing nothing comes first: what everything else is measured by, in the end.
        self.designs = sorted(self._by_design, key=lambda name: name != DO_NOTHING)
        active = [name for name in self.designs if name != DO_NOTHING]
        self.baseline = baseline or (active or self.designs)[0]
        if self.baseline not in self._by_design:
            raise ValueError(f"no run of the baseline {self.baseline} ({', '.join(self.designs)})")

    def of(self, design: str) -> list[Run]:
        """Its runs, by seed."""
        return [run for _, run in sorted(self._by_design[design].items())]

    @property
    def seeds(self) -> list[int]:
        """All seeds that some design was run with."""
        return sorted({run.seed for run in self.runs})

    def mean(self, design: str, meter: Meter) -> float:
        """The mean of a meter."""
        found = self.of(design)
        return sum(meter.read(run) for run in found) / len(found)

    def cpu_seconds(self, design: str) -> Spread:
        """The mean CPU time with all costs low, typical and high."""
        found = self.of(design)
        return Spread(
            *(
                math.fsum(cpu_ns(run, self.costs, at) for run in found) / len(found) / NS
                for at in self._levels
            )
        )

    def stall_seconds(self, design: str) -> Spread:
        """The mean guest time lost with all costs low, typical and high."""
        found = self.of(design)
        return Spread(
            *(
                math.fsum(stall_ns(run, self.costs, at) for run in found) / len(found) / NS
                for at in self._levels
            )
        )

    def task_seconds(self, design: str) -> dict[str, float]:
        """The mean CPU time of each kind of task."""
        found = self.of(design)
        kinds = dict.fromkeys(kind for run in found for kind in run.cpu_ns)
        return {
            kind: sum(run.cpu_ns.get(kind, 0) for run in found) / len(found) / NS for kind in kinds
        }

    @property
    def _levels(self) -> tuple[dict[str, float], ...]:
        costs = self.costs.items()
        return (
            {name: cost.ns.low for name, cost in costs},
            {},
            {name: cost.ns.high for name, cost in costs},
        )

    def compare(self, design: str, baseline: str | None = None) -> Comparison:
        """A design beside the baseline, seed by seed."""
        base = baseline or self.baseline
        ones, others = self._by_design[base], self._by_design[design]
        pairs = [(ones[seed], others[seed]) for seed in sorted(ones.keys() & others.keys())]
        if not pairs:
            raise ValueError(f"{base} and {design} have no seed in common")
        return Comparison(design, base, pairs, self.costs)

    @property
    def comparisons(self) -> list[Comparison]:
        """Every design that does something beside the baseline."""
        others = [name for name in self.designs if name not in (self.baseline, DO_NOTHING)]
        return [self.compare(name) for name in others]
