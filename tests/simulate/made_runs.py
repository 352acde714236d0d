"""Runs made by hand: what they counted is plain to see, and so is what has to come of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from mmuwitness.simulate.cost import Cost, CostTable, Spread
from mmuwitness.simulate.meters import EXITS, Run, Value
from mmuwitness.simulate.sweep import Tell

COPY = "mm.mm_types.copy_page"
WALK = "mm.gup.get_user_page_fast_only"
SWAP = "mm.memory.do_swap_page"


def table(**ns: tuple[float, float, float]) -> CostTable:
    """Costs by short names: exit, copy, walk, swap."""
    names = {"exit": EXITS, "copy": COPY, "walk": WALK, "swap": SWAP}
    who = {"exit": "vcpu", "walk": "host"}
    costs = {
        names[key]: Cost(
            names[key], key, Spread(*each), "assumed", who.get(key, "any"), key == "swap"
        )
        for key, each in ns.items()
    }
    return CostTable(costs, "made")


COSTS = table(exit=(500, 1000, 2000), copy=(100, 300, 900), walk=(10, 100, 1000))


def run(
    design: str,
    seed: int = 1,
    *,
    costs: CostTable = COSTS,
    seconds: float = 100.0,
    parameters: Mapping[str, Value] | None = None,
    **counts: int,
) -> Run:
    """A run that spent exactly what its counters cost. Names: exit, copy, walk, swap and others."""
    names = {"exit": EXITS, "copy": COPY, "walk": WALK, "swap": SWAP}
    counters = {names.get(key, key.replace("_", " ")): count for key, count in counts.items()}
    spent = {
        name: round(count * costs.typical(name))
        for name, count in counters.items()
        if name in costs and not costs[name].sleeps
    }
    exits = spent.pop(EXITS, 0)
    return Run(
        "made",
        design,
        seed,
        {"guests": 2} if parameters is None else parameters,
        seconds,
        counters,
        {"vcpu exits": exits, "ksmd": sum(spent.values())},
        exits,
        {"seconds": [0.0, seconds], "exits": [0.0, float(counts.get("exit", 0))]},
    )


def run_point(
    workload: str, design: str, seed: int, parameters: Mapping[str, Value], tell: Tell
) -> Run:
    """What a sweep calls in its processes: the counters tell what it was called with."""
    if parameters.get("fails") == design:
        raise ValueError("this design cannot run")
    if "log" in parameters:
        with Path(str(parameters["log"])).open("a", encoding="utf-8") as log:
            log.write(f"{design} {seed} {parameters['guests']}\n")
    if "hours" in parameters:
        time.sleep(float(parameters["hours"]))
    tell(0.5)
    counts = {"exit": 1000 * seed, "copy": int(parameters["guests"])}
    return replace(run(design, seed, parameters=parameters, **counts), workload=workload)
