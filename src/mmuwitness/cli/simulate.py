"""The verbs `simulate` and `sweep`."""

from __future__ import annotations

import json
import os
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmuwitness.cli.common import ArchOption, EraOption, FeatureOption, JsonOption, Reporter, say

if TYPE_CHECKING:
    from mmuwitness.simulate.cost import CostTable
    from mmuwitness.simulate.runner import Runner
    from mmuwitness.simulate.sweep import Dataset, Progress, Sweep

EXTRA = {"allow_extra_args": True, "ignore_unknown_options": True}
"""`--guests 40`: what a workload's parameters are called is not known here."""

INTERRUPTED = 3

CostsOption = Annotated[
    Path | None, typer.Option("--costs", help="Your cost table: entries in place of those it has.")
]
CostsFromOption = Annotated[
    str | None, typer.Option("--costs-from", help="A trace of your machine, to take costs from.")
]
WorkersOption = Annotated[
    int, typer.Option("--workers", min=0, help="Processes; 0: as many as processors.")
]
BaselineOption = Annotated[
    str | None, typer.Option("--baseline", help="The design to compare with; else the first.")
]


def simulate(
    context: typer.Context,
    workload: Annotated[str | None, typer.Argument(help="None: all that there is.")] = None,
    designs: Annotated[str, typer.Option("--designs", help="Names or variant files: A,B.")] = "",
    seeds: Annotated[str, typer.Option("--seeds", help="How many, or which ones: 3,7.")] = "3",
    baseline: BaselineOption = None,
    era: EraOption = "v7.3",
    arch: ArchOption = "x86-tdp",
    feature: FeatureOption = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE, as --NAME VALUE. Repeatable.")
    ] = None,
    costs: CostsOption = None,
    costs_from: CostsFromOption = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw pictures in this directory.")
    ] = None,
    parquet: Annotated[
        Path | None, typer.Option("--parquet", help="Write all counters as tables there.")
    ] = None,
    workers: WorkersOption = 0,
    as_json: JsonOption = False,
) -> None:
    """What does a design cost or save: exits, faults, CPU time, memory?  In virtual time.

    Parameters of the workload are options, too: --guests 40 --memory 4 --hours 2.

    Example: mmuwitness simulate ksm-density --designs wrapped,removed --memory 0.25 --hours 0.01
    """
    if workload is None:
        say(all_there_is())
        return
    from mmuwitness.simulate.price import Study
    from mmuwitness.simulate.sweep import Dataset, Sweep, made_by

    table, notes = cost_table(arch, costs, costs_from)
    given = parameters([*context.args, *(settings or [])])
    names = with_nothing([name for name in designs.split(",") if name] or own_designs(workload))
    asked = Sweep(workload, names, seed_list(seeds), baseline, given, {})
    runner = checked(asked, era, arch, feature, table)
    if plot is not None:
        from mmuwitness.report.simulate_plot import make_directory, plot_study

        make_directory(plot)
    with tempfile.TemporaryDirectory(prefix="mmuwitness-") as directory:
        dataset = Dataset(Path(directory) / "runs", made_by(table))
        whole = run_all(asked, dataset, runner, workers)
        runs = dataset.runs(asked.points)
    if not whole:
        runs = [run for run in runs if all(has(runs, name, run.seed) for name in names)]
        notes.append("INTERRUPTED: only the seeds that every design had finished are here.")
        if not runs:
            say("interrupted before every design had finished one seed")
            raise typer.Exit(INTERRUPTED)
    study = Study(runs, table, baseline)
    if parquet is not None:
        from mmuwitness.simulate.tables import write_tables

        write_tables(runs, parquet)
    if plot is not None:
        plot_study(study, plot)
    show(study, notes, as_json)
    if not whole:
        raise typer.Exit(INTERRUPTED)


def show(study: Any, notes: Sequence[str], as_json: bool) -> None:
    """The report, for people or for machines."""
    from mmuwitness.report.simulate_json import simulate_json
    from mmuwitness.report.simulate_report import simulate_text

    say(
        json.dumps(simulate_json(study, notes), indent=1)
        if as_json
        else simulate_text(study, notes)
    )


def sweep(
    path: Annotated[Path, typer.Argument(metavar="FILE.toml", help="What to run.")],
    directory: Annotated[
        Path | None, typer.Option("--into", help="Where results are kept; else beside FILE.")
    ] = None,
    sql: Annotated[
        str | None,
        typer.Option("--sql", help="Ask the tables runs, counters, cpu, series; run nothing."),
    ] = None,
    era: EraOption = "v7.3",
    arch: ArchOption = "x86-tdp",
    feature: FeatureOption = None,
    costs: CostsOption = None,
    costs_from: CostsFromOption = None,
    workers: WorkersOption = 0,
    as_json: JsonOption = False,
) -> None:
    """A grid of parameters, under designs and seeds, on all cores.  What is finished is kept.

    Example: mmuwitness sweep grid.toml --sql "SELECT design, avg(exits) FROM runs GROUP BY 1"
    """
    from mmuwitness.report.audit_query import answer_text
    from mmuwitness.report.sweep_table import sweep_json, sweep_text
    from mmuwitness.simulate.sweep import Dataset, answer, made_by, read_sweep

    table, notes = cost_table(arch, costs, costs_from)
    asked = read_sweep(path)
    runner = checked(asked, era, arch, feature, table)
    kernel = f"{arch} {era} {' '.join(feature or ())}"
    dataset = Dataset(directory or path.with_suffix(""), f"{made_by(table)} {kernel}")
    if sql is not None:
        say(answer_text(answer(dataset, sql), as_json))
        return
    whole = run_all(asked, dataset, runner, workers)
    if as_json:
        say(json.dumps(sweep_json(asked, dataset, table, notes), indent=1))
    else:
        say(sweep_text(asked, dataset, table, notes))
    if not whole:
        raise typer.Exit(INTERRUPTED)


def run_all(asked: Sweep, dataset: Dataset, runner: Runner, workers: int) -> bool:
    """False: Ctrl-C ended it, and what was finished is there."""
    from mmuwitness.simulate.sweep import sweep as run_sweep

    reporter = Reporter()

    def tell(progress: Progress) -> None:
        if progress.seconds > 1:
            left = "" if progress.left is None else f", {duration(progress.left)} left"
            reporter.line(f"{progress.done:.1f} of {progress.total} runs{left}")

    try:
        run_sweep(asked, dataset, runner, workers or os.cpu_count() or 1, tell)
    except KeyboardInterrupt:
        return False
    finally:
        reporter.close()
    return True


def duration(seconds: float) -> str:
    """`3 min`."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def has(runs: Sequence[Any], design: str, seed: int) -> bool:
    """Whether it is among them."""
    return any((run.design, run.seed) == (design, seed) for run in runs)


def cost_table(arch: str, path: Path | None, trace: str | None) -> tuple[CostTable, list[str]]:
    """The costs, and what one has to know of those that a trace told."""
    from mmuwitness.model.host import find_arch
    from mmuwitness.simulate.cost import load_costs

    table = load_costs(find_arch(arch).kernel_arch, path)
    if trace is None:
        return table, []
    from mmuwitness.cli.common import reading
    from mmuwitness.report.simulate_report import taken_text
    from mmuwitness.simulate.trace_costs import costs_from

    with reading(trace) as opened:
        found = costs_from(opened, table)
    return table.with_costs(found.costs, Path(trace).name), taken_text(found)


def parameters(said: Sequence[str]) -> dict[str, Any]:
    """Of a workload: `--name value`, `--name=value` and `name=value`."""
    found, words = {}, list(said)
    while words:
        word = words.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if not equals:
            if not word.startswith("--") or not words or words[0].startswith("--"):
                raise typer.BadParameter(f"{word}: say --NAME VALUE, or --set NAME=VALUE")
            value = words.pop(0)
        found[name.replace("-", "_")] = value_of(value)
    return found


def value_of(text: str) -> Any:
    """As TOML reads it, 4, 0.5 and true; or a text."""
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    return value if isinstance(value, int | float | str | bool) else text


def seed_list(text: str) -> list[int]:
    """`3`: 1, 2 and 3; `3,7`: these."""
    try:
        numbers = [int(part) for part in text.split(",") if part]
    except ValueError:
        numbers = []
    if "," not in text and numbers and numbers[0] > 0:
        return list(range(1, numbers[0] + 1))
    if not numbers or "," not in text or len(set(numbers)) < len(numbers):
        raise typer.BadParameter(f"--seeds {text}: how many (3), or which ones (3,7)")
    return numbers


def own_designs(workload: str) -> list[str]:
    """Those that the question of a workload is about."""
    from mmuwitness.model.era import UnknownName
    from mmuwitness.simulate.workloads import WORKLOADS

    if workload not in WORKLOADS:
        raise UnknownName("workload", workload, list(WORKLOADS))
    return list(WORKLOADS[workload].designs)


def with_nothing(designs: list[str]) -> list[str]:
    """Doing nothing as well, where it is a design: what everything is measured by in the end."""
    from mmuwitness.simulate.designs import DESIGNS
    from mmuwitness.simulate.meters import DO_NOTHING

    if len(set(designs)) < len(designs):
        raise typer.BadParameter(f"--designs {','.join(designs)}: each only once")
    known = DO_NOTHING in DESIGNS and DO_NOTHING not in designs
    return [DO_NOTHING, *designs] if known else designs


def checked(
    asked: Sweep, era: str, arch: str, features: Sequence[str] | None, table: CostTable
) -> Runner:
    """What runs its points; wrong names and values are found before anything is run."""
    from mmuwitness.model.era import UnknownName
    from mmuwitness.simulate.runner import Runner, typical_costs
    from mmuwitness.simulate.simulator import resolved
    from mmuwitness.simulate.workloads import WORKLOADS

    if asked.workload not in WORKLOADS:
        raise UnknownName("workload", asked.workload, list(WORKLOADS))
    for setting in asked.settings:
        resolved(asked.workload, setting)
    runner = Runner(era, tuple(features or ()), arch, typical_costs(table))
    for design in asked.designs:
        runner.kernel(design)
    return runner


def all_there_is() -> str:
    """Workloads with their parameters, and designs."""
    from mmuwitness.simulate.designs import DESIGNS
    from mmuwitness.simulate.workloads import WORKLOADS

    lines = ["workloads, and their parameters"]
    for name, workload in WORKLOADS.items():
        lines.append(f"  {name}: {workload.text}")
        lines.append(f"    --designs {','.join(workload.designs)}")
        known: Mapping[str, Any] = workload.parameters
        lines += [f"    --{key} {each.default}  {each.text}" for key, each in known.items()]
    return "\n".join(
        [*lines, "designs", *(f"  {each.name}: {each.text}" for each in DESIGNS.values())]
    )
