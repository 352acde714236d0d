"""Stands for the engine where the command line is tested: runs come from `made_runs`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mmuwitness.model.era import UnknownName
from mmuwitness.simulate.meters import DO_NOTHING, EXITS, MERGES, SAVED, Run, Value


@dataclass(frozen=True)
class MadeParameter:
    default: Value
    text: str


@dataclass(frozen=True)
class MadeWorkload:
    text: str = "made by hand"
    designs: tuple[str, ...] = ("wrapped",)
    parameters: Mapping[str, MadeParameter] = field(
        default_factory=lambda: {"guests": MadeParameter(2, "guests on the machine")}
    )


@dataclass(frozen=True)
class MadeDesign:
    name: str
    text: str = "a design"


WORKLOADS = {"made": MadeWorkload()}
DESIGNS = {name: MadeDesign(name) for name in (DO_NOTHING, "wrapped", "ksm-only")}


def resolved(workload: str, given: Mapping[str, Any]) -> dict[str, Value]:
    if set(given) - {"guests"}:
        raise ValueError(f"{workload} has no parameter {min(given)!r}; it has: guests")
    return {"guests": 2, **given}


@dataclass(frozen=True)
class MadeRunner:
    """As Runner: called in other processes."""

    era: str
    features: tuple[str, ...]
    arch: str
    costs: Mapping[str, int]

    def kernel(self, design: str) -> MadeDesign:
        if design not in DESIGNS:
            raise UnknownName("design", design, list(DESIGNS))
        return DESIGNS[design]

    def __call__(
        self,
        workload: str,
        design: str,
        seed: int,
        parameters: Mapping[str, Value],
        tell: Callable[[float], None],
    ) -> Run:
        known = resolved(workload, parameters)
        merges = 0 if design == DO_NOTHING else 1000 * int(known["guests"])
        saved = 51 * merges // 50 if design == "ksm-only" else 0
        exits = 10_000 + seed + (2 * merges - saved if merges else 0)
        walks = merges + (20 * merges if design == "ksm-only" else 0)
        counters = {
            EXITS: exits,
            "exit read": exits,
            MERGES: merges,
            "ksm read again": merges,
            "mm.gup.get_user_page_fast_only": walks,
            SAVED: merges,
        }
        spent = {name: count * self.costs.get(name, 0) for name, count in counters.items()}
        cpu = {"vcpu exits": spent.pop(EXITS), "ksmd": sum(spent.values())}
        series = {"seconds": [0.0, 50.0, 100.0], "exits": [0.0, exits / 2, float(exits)]}
        series[SAVED] = [0.0, merges / 2, float(merges)]
        return Run(workload, design, seed, known, 100.0, counters, cpu, cpu["vcpu exits"], series)
