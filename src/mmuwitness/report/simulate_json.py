"""`simulate --json`: everything that was counted, and what came of it. Times are s, costs ns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmuwitness.report.simulate_report import bounds
from mmuwitness.report.simulate_words import answer
from mmuwitness.simulate.meters import METERS, exit_reasons
from mmuwitness.simulate.paired import Interval, interval
from mmuwitness.simulate.price import BreakEven, Comparison, Sensitivity, Study

SCHEMA = 1


def simulate_json(study: Study, notes: Sequence[str] = ()) -> dict[str, Any]:
    """Of all runs."""
    first = study.runs[0]
    return {
        "schema": SCHEMA,
        "answer": answer(study),
        "workload": study.workload,
        "parameters": dict(first.parameters),
        "seeds": study.seeds,
        "baseline": study.baseline,
        "designs": {name: design_json(study, name) for name in study.designs},
        "comparisons": [comparison_json(each) for each in study.comparisons],
        "costs": {name: cost_json(study, name) for name in study.costs},
        "bounds": [*bounds(study), *notes],
    }


def design_json(study: Study, design: str) -> dict[str, Any]:
    """Of one design: the mean over its seeds, and what each of them counted."""
    runs = study.of(design)
    seconds = sum(run.guest_seconds for run in runs) / len(runs)
    meters = {
        meter.name: interval_json(interval([meter.read(run) for run in runs]))
        | ({} if meter.gauge else {"per_second": study.mean(design, meter) / seconds})
        for meter in METERS
    }
    return {
        "guest_seconds": seconds,
        "meters": meters,
        "exits": {each.name: study.mean(design, each) for each in exit_reasons(study.runs)},
        "cpu_seconds": study.cpu_seconds(design)._asdict(),
        "cpu_seconds_by_task": study.task_seconds(design),
        "guest_seconds_lost": study.stall_seconds(design)._asdict(),
        "runs": [
            {
                "seed": run.seed,
                "counters": dict(run.counters),
                "cpu_ns": dict(run.cpu_ns),
                "stall_ns": run.stall_ns,
                "series": {name: list(values) for name, values in run.series.items()},
            }
            for run in runs
        ],
    }


def comparison_json(found: Comparison) -> dict[str, Any]:
    """Of a design beside the baseline."""
    unit = found.exits_per_unit
    return {
        "design": found.design,
        "baseline": found.baseline,
        "seeds": [base.seed for base, _ in found.pairs],
        "meters": {meter.name: interval_json(found.difference(meter)) for meter in METERS},
        "exits_per": None if unit is None else {"unit": unit[0], "exits": unit[1]},
        "cpu_seconds": interval_json(found.cpu_seconds),
        "cpu_seconds_by_costs": found.cpu_seconds_by_costs._asdict(),
        "cpu_share": found.cpu_share,
        "guest_seconds_lost": interval_json(found.stall_seconds),
        "break_even": even_json(found.break_even),
        "break_even_by_seed": [even_json(each) for each in found.break_even_by_seed],
        "sensitivity": [sensitivity_json(each) for each in found.sensitivities],
    }


def interval_json(found: Interval) -> dict[str, Any]:
    """Without `low` and `high` where there is one value only."""
    ends = {} if found.half is None else {"low": found.low, "high": found.high}
    return {"mean": found.mean, **ends, "seeds": found.count}


def even_json(found: BreakEven) -> dict[str, Any]:
    """`exit_ns` is null where there is none."""
    return {"pays": str(found.pays), "exit_ns": found.ns}


def sensitivity_json(found: Sensitivity) -> dict[str, Any]:
    """CPU time in s with this cost at both ends of its spread."""
    return {
        "cost": found.name,
        "cpu_seconds_low": found.low / 1e9,
        "cpu_seconds_high": found.high / 1e9,
        "flips": found.flips,
        "turns_at_ns": found.turns_at,
    }


def cost_json(study: Study, name: str) -> dict[str, Any]:
    """An entry of the table."""
    cost = study.costs[name]
    return {
        "what": cost.what,
        "ns": cost.ns._asdict(),
        "assumed": cost.assumed,
        "source": cost.source,
    }
