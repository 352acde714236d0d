"""A run as other processes call it: by names only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmuwitness.simulate.cost import CostTable
from mmuwitness.simulate.meters import Run, Value

if TYPE_CHECKING:
    from mmuwitness.simulate.designs import Kernel


@dataclass(frozen=True)
class Runner:
    """Which kernel, and what things take. Called with a point of a sweep."""

    era: str
    features: tuple[str, ...]
    arch: str
    costs: Mapping[str, int]

    def kernel(self, design: str) -> Kernel:
        """What this design is folded for. UnknownName, ProcessError: it cannot be."""
        from mmuwitness.model.era import Era
        from mmuwitness.model.host import find_arch
        from mmuwitness.simulate.designs import find_design

        return find_design(design).kernel(Era(self.era, self.features), find_arch(self.arch))

    def __call__(
        self,
        workload: str,
        design: str,
        seed: int,
        parameters: Mapping[str, Value],
        tell: Callable[[float], None],
    ) -> Run:
        from mmuwitness.simulate.designs import find_design
        from mmuwitness.simulate.simulator import resolved, simulate

        made, kernel, known = (
            find_design(design),
            self.kernel(design),
            resolved(workload, parameters),
        )
        return simulate(workload, made, kernel, seed, known, self.costs, tell)


def typical_costs(table: CostTable) -> dict[str, int]:
    """What the simulator spends: whole ns."""
    return {name: round(cost.ns.typical) for name, cost in table.items()}
