"""What `sweep` prints: each point of the grid in a few lines. The rest is for --sql."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mmuwitness.report.simulate_json import SCHEMA, comparison_json
from mmuwitness.report.simulate_report import WIDTH, bounds, cut
from mmuwitness.report.simulate_words import how, number, plus_minus, signed
from mmuwitness.report.text import wrap
from mmuwitness.simulate.cost import CostTable
from mmuwitness.simulate.meters import Value
from mmuwitness.simulate.price import Comparison, Pays, Study
from mmuwitness.simulate.sweep import Dataset, Point, Sweep

ALWAYS = {Pays.ALWAYS: "always", Pays.NEVER: "never", Pays.EQUAL: "no difference"}
HEAD = f"{'design':16}{'exits':>24}{'% of one CPU':>14}  pays"


def settings_studied(
    asked: Sweep, dataset: Dataset, costs: CostTable
) -> Iterator[tuple[dict[str, Value], Study | None, int]]:
    """Each setting of the grid, what its finished runs say, and how many are missing."""
    for setting in asked.settings:
        points = [
            Point(asked.workload, design, seed, setting)
            for design in asked.designs
            for seed in asked.seeds
        ]
        runs = dataset.runs(points)
        seeds = {run.seed for run in runs}
        whole = {
            seed for seed in seeds if sum(run.seed == seed for run in runs) == len(asked.designs)
        }
        kept = [run for run in runs if run.seed in whole]
        study = Study(kept, costs, asked.baseline) if kept else None
        yield setting, study, len(points) - len(kept)


def sweep_text(asked: Sweep, dataset: Dataset, costs: CostTable, notes: Sequence[str]) -> str:
    """A table for each setting."""
    lines: list[str] = []
    last = None
    for setting, study, missing in settings_studied(asked, dataset, costs):
        said = ", ".join(f"{name} {setting[name]}" for name in asked.grid) or "one setting"
        short = f" ({missing} runs missing)" if missing else ""
        lines += wrap(f"{said}{short}", "", WIDTH)
        if study is not None:
            last = study
            lines += [HEAD, *(row(each) for each in study.comparisons)]
        lines.append("")
    if last is None:
        return "\n".join([*lines, "no setting has all its designs for any seed"])
    lines.append(f"Beside {last.baseline}, means over seeds, 95 % by Student's t.")
    fixed = [text for text in bounds(last) if not text.startswith(asked.workload)]
    for text in [*fixed, *notes, f"All counters: --sql, or the tables in {dataset.directory}."]:
        lines += wrap(text, "", WIDTH)
    return "\n".join(line.rstrip() for line in lines)


def row(found: Comparison) -> str:
    """A design beside the baseline."""
    even = found.break_even
    word = (
        str(even.pays) if even.ns is None else f"{str(even.pays).split()[1]} {number(even.ns)} ns"
    )
    share = signed(found.cpu_share * 100)
    return f"{cut(found.design, 15):16}{plus_minus(found.exits):>24}{share:>14}  {word}"


def sweep_json(
    asked: Sweep, dataset: Dataset, costs: CostTable, notes: Sequence[str]
) -> dict[str, Any]:
    """The same for machines."""
    return {
        "schema": SCHEMA,
        "workload": asked.workload,
        "designs": asked.designs,
        "seeds": asked.seeds,
        "settings": [
            {
                "parameters": setting,
                "missing": missing,
                "baseline": None if study is None else study.baseline,
                "comparisons": []
                if study is None
                else [
                    comparison_json(each) | {"answer": how(each.break_even)}
                    for each in study.comparisons
                ],
            }
            for setting, study, missing in settings_studied(asked, dataset, costs)
        ],
        "notes": list(notes),
    }
