"""`simulate --plot DIR`: three pictures.

time.png         memory saved, and exits a second, over guest time, by design
break-even.png   the difference in CPU time by what an exit costs
sensitivity.png  the difference in CPU time at both ends of each cost's spread
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmuwitness.report.simulate_words import how
from mmuwitness.report.text import wrap
from mmuwitness.simulate.meters import EXITS, PAGE_BYTES, SAVED, Run
from mmuwitness.simulate.price import NS, Comparison, Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOTS = 110  # an inch
POINTS = 201
BARS_MAX = 10
DASHES = ("-", "--", "-.", ":")
GIB = 1 << 30
HONESTY = "virtual time, costs from a table: no measurement"


def make_directory(directory: Path) -> None:
    """ValueError if pictures cannot be put there."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--plot {directory}: {error.strerror}") from error


def plot_study(study: Study, directory: Path) -> list[Path]:
    """Draw what there is to draw: the files that were written."""
    import matplotlib as mpl

    mpl.use("agg")
    pictures = {}
    if any(run.series for run in study.runs):
        pictures["time.png"] = over_time(study)
    if study.comparisons:
        pictures["break-even.png"] = break_even(study)
        pictures["sensitivity.png"] = sensitivity(study)
    written = []
    for name, figure in pictures.items():
        try:
            figure.savefig(directory / name, dpi=DOTS)
        except OSError as error:
            raise ValueError(f"--plot {directory / name}: {error.strerror}") from error
        written.append(directory / name)
    return written


def new_figure(rows: int, height: float, title: str) -> tuple[Figure, list[Any]]:
    """A figure with so many axes below one another."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, height), layout="constrained")
    axes = figure.subplots(rows, 1, squeeze=False)[:, 0]
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    figure.supxlabel(HONESTY, fontsize=8, color="grey", x=0.99, ha="right")
    return figure, list(axes)


def colours(study: Study) -> Mapping[str, Any]:
    """One for each design, the same in every picture."""
    import matplotlib as mpl

    palette = mpl.colormaps["tab10"].colors  # type: ignore[attr-defined]
    return {name: palette[n % len(palette)] for n, name in enumerate(study.designs)}


def over_time(study: Study) -> Figure:
    """A line for each design, the mean of its seeds; around it, from the least to the most."""
    figure, (saved, exits) = new_figure(2, 7, f"{study.workload}, by design")
    for name, colour in colours(study).items():
        runs = study.of(name)
        band(saved, runs, SAVED, name, colour, scale=PAGE_BYTES / GIB)
        band(exits, runs, "exits", name, colour, rate=True)
    saved.set_ylabel("memory saved, GiB")
    exits.set_ylabel("exits a second")
    exits.set_xlabel("guest time, s")
    for axis in (saved, exits):
        axis.set_ylim(bottom=0)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=9)
        else:
            axis.text(0.5, 0.5, "not sampled", transform=axis.transAxes, ha="center", color="grey")
    return figure


def band(
    axis: Axes,
    runs: Sequence[Run],
    series: str,
    label: str,
    colour: Any,
    scale: float = 1.0,
    rate: bool = False,
) -> None:
    """The mean over seeds of what was sampled; of a counter its growth a second."""
    sampled = [run for run in runs if series in run.series]
    if not sampled:
        return
    length = min(len(run.series[series]) for run in sampled)
    times = np.array(sampled[0].series["seconds"][:length], dtype=float)
    values = np.array([run.series[series][:length] for run in sampled], dtype=float) * scale
    if rate and length > 1:
        values = np.diff(values, axis=1) / np.diff(times)
        values = np.concatenate([values, values[:, -1:]], axis=1)
    style: dict[str, Any] = {"drawstyle": "steps-post" if rate else "default"}
    style["linestyle"] = DASHES[len(axis.lines) % len(DASHES)]  # where lines lie on one another
    axis.plot(times, values.mean(axis=0), color=colour, label=label, **style)
    if len(sampled) > 1:
        low, high = values.min(axis=0), values.max(axis=0)
        shade: dict[str, Any] = {"step": "post"} if rate else {}
        axis.fill_between(times, low, high, color=colour, alpha=0.2, linewidth=0, **shade)


def break_even(study: Study) -> Figure:
    """The difference in CPU time against the exit cost, and where it is 0."""
    said = [f"{each.design} {how(each.break_even)}" for each in study.comparisons]
    title = "\n".join(wrap(f"Beside {study.baseline}: {'; '.join(said)}.", "", 100))
    figure, (axis,) = new_figure(1, 5.5, title)
    turns = [each.break_even.ns for each in study.comparisons if each.break_even.ns]
    spread = study.costs[EXITS].ns if EXITS in study.costs else None
    right = 1.3 * max([*turns, spread.high if spread else 0.0, 1000.0])
    exit_ns = np.linspace(0, right, POINTS)
    by_name = colours(study)
    for each in study.comparisons:
        lines = np.array([difference(each, pair, exit_ns) for pair in each.pairs])
        axis.plot(exit_ns, lines.mean(axis=0), color=by_name[each.design], label=each.design)
        for line in lines if len(lines) > 1 else ():
            axis.plot(exit_ns, line, color=by_name[each.design], alpha=0.25, linewidth=0.7)
        if each.break_even.ns is not None:
            axis.plot([each.break_even.ns], [0], "o", color=by_name[each.design])
    axis.axhline(0, color="black", linewidth=0.8)
    if spread:
        axis.axvspan(spread.low, spread.high, color="grey", alpha=0.15, label="the table's spread")
        axis.axvline(spread.typical, color="grey", linewidth=0.8, linestyle=":", label="typical")
    axis.set_xlim(0, right)
    axis.set_xlabel("what an exit costs, ns")
    axis.set_ylabel(f"CPU time less {study.baseline}, s\n(below 0: pays)")
    axis.legend(fontsize=9)
    return figure


def difference(found: Comparison, pair: tuple[Run, Run], exit_ns: Any) -> Any:
    """Of one pair, in s of CPU time, for these exit costs."""
    base, other = pair
    exits = other.count(EXITS) - base.count(EXITS)
    cpu = other.cpu_total_ns - base.cpu_total_ns
    return (cpu + exits * (exit_ns - found.costs.typical(EXITS))) / NS


def sensitivity(study: Study) -> Figure:
    """Bars from one end of a cost's spread to the other, most swing on top."""
    found = study.comparisons
    figure, axes = new_figure(
        len(found), 1.2 + 3.2 * len(found), f"CPU time less {study.baseline}, by one cost at a time"
    )
    for axis, each in zip(axes, found, strict=True):
        shown = each.sensitivities[:BARS_MAX][::-1]
        middle = each.cpu_seconds.mean
        for place, one in enumerate(shown):
            for ns, colour, label in ((one.low, "tab:blue", "low"), (one.high, "tab:red", "high")):
                end = ns / NS
                axis.barh(place, end - middle, left=middle, color=colour, height=0.6, label=label)
        names = [one.name.rpartition(".")[2] + (" *" if one.flips else "") for one in shown]
        axis.set_yticks(range(len(shown)), names, fontsize=8)
        axis.axvline(0, color="black", linewidth=0.8)
        axis.axvline(middle, color="grey", linewidth=0.8, linestyle=":")
        axis.set_xlabel(f"{each.design}, s (below 0: pays; * turns the answer round)", fontsize=9)
        handles, labels = axis.get_legend_handles_labels()
        if handles:
            axis.legend(handles[:2], [f"cost {label}" for label in labels[:2]], fontsize=8)
    return figure
