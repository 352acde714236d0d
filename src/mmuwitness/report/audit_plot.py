"""The audit as a picture: windows, refaults and retries over time by cause, and where they hit."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmuwitness.report.audit_report import headline
from mmuwitness.report.text import wrap
from mmuwitness.trace.audit.auditor import Audit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROWS = (("window", "windows"), ("refault", "refaults"), ("retry", "retried faults"))
CAUSES_MAX = 7
GFN_BINS, TIME_BINS = 128, 120
GAP_FACTOR = 4  # between pages of two memslots that are drawn beside each other


def check_name(path: Path) -> None:
    """ValueError if the name does not say a format that can be drawn."""
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise ValueError(f"--plot {path}: the name must end in .png, .svg or .pdf")
    if not path.parent.is_dir():
        raise ValueError(f"--plot {path}: no directory {path.parent}")


def plot_audit(audit: Audit, path: Path) -> None:
    """Write it to `path`; its ending says the format (png, svg, pdf)."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 10), layout="constrained")
    axes = figure.subplots(4, 1, height_ratios=[1, 1, 1, 1.4])
    axes[0].set_title("\n".join(wrap(headline(audit), "", 110)), fontsize=11, loc="left")
    colours = _colours(audit)
    for axis, (kind, label) in zip(axes[:3], ROWS, strict=True):
        _series(axis, audit, kind, label, colours)
        axis.sharex(axes[0])
    _legend(figure, colours)
    _heat(figure, axes[3], audit)
    axes[3].sharex(axes[0])
    axes[0].set_xlim(0, max(audit.duration / 1e9, 1e-9))
    unit = "s of the trace" + (" (time stamps look emulated)" if audit.emulated else "")
    axes[3].set_xlabel(unit)
    try:
        figure.savefig(path, dpi=110)
    except OSError as error:
        raise ValueError(f"--plot {path}: {error.strerror}") from error


def _colours(audit: Audit) -> dict[str, Any]:
    """A colour for each of the causes with most going on; the rest are grey."""
    import matplotlib as mpl

    busy = Counter[str]()
    for counts in audit.totals.timeline.slots.values():
        for (_, cause), count in counts.items():
            busy[str(cause)] += count
    palette = mpl.colormaps["tab10"](range(CAUSES_MAX))
    names = [cause for cause, _ in busy.most_common()]
    colours: dict[str, Any] = dict(zip(names, palette, strict=False))
    if names[CAUSES_MAX:]:
        colours["others"] = (0.6, 0.6, 0.6)
    return colours


def _series(axis: Axes, audit: Audit, kind: str, label: str, colours: dict[str, Any]) -> None:
    """Stacked bars per slot of time."""
    timeline = audit.totals.timeline
    timeline.coarsen(audit.duration // TIME_BINS)
    slots = sorted(timeline.slots)
    starts = np.array([slot * timeline.slot_ns - audit.start for slot in slots]) / 1e9
    bottom = np.zeros(len(slots))
    for name, colour in colours.items():
        heights = np.array(
            [
                sum(
                    count
                    for (each, cause), count in timeline.slots[slot].items()
                    if each == kind and (cause if cause in colours else "others") == name
                )
                for slot in slots
            ],
            dtype=float,
        )
        width = timeline.slot_ns / 1e9
        axis.bar(starts, heights, width, bottom, align="edge", color=colour, linewidth=0)
        bottom += heights
    axis.set_ylabel(f"{label}\nper {timeline.slot_ns / 1e6:g} ms")
    axis.tick_params(labelbottom=False)
    axis.set_ylim(0, max(bottom, default=0) * 1.08 or 1)
    if not bottom.any():
        _say(axis, "none, or not recorded")


def _legend(figure: Figure, colours: dict[str, Any]) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=colour, label=name) for name, colour in colours.items()]
    if handles:
        figure.legend(handles=handles, loc="outside lower left", ncols=4, fontsize=9)


def _heat(figure: Figure, axis: Axes, audit: Audit) -> None:
    """SPTEs zapped, by gfn and time. Gaps between memslots are left out."""
    from matplotlib.ticker import MaxNLocator

    totals = audit.totals
    axis.set_ylabel("gfn")
    if not totals.point_gfns:
        _say(axis, "no zapped SPTE recorded")
        return
    gfns = np.array(totals.point_gfns, dtype=np.uint64)
    times = (np.array(totals.point_times) - audit.start) / 1e9
    pages = np.unique(gfns)
    # Pages far from one another are drawn beside each other, by their order.
    span = int(pages[-1] - pages[0]) + 1
    by_order = span > GAP_FACTOR * len(pages)
    places = np.searchsorted(pages, gfns) if by_order else (gfns - pages[0]).astype(np.int64)
    size = len(pages) if by_order else span
    bins = min(GFN_BINS, size)
    counts, _, _ = np.histogram2d(
        times, places, [TIME_BINS, bins], [[0, max(audit.duration / 1e9, 1e-9)], [0, size]]
    )
    image = axis.imshow(
        np.ma.masked_equal(counts.T * totals.point_every, 0),
        aspect="auto",
        origin="lower",
        interpolation="nearest",
        extent=(0, max(audit.duration / 1e9, 1e-9), 0, size),
        cmap="viridis",
        vmin=0,
    )
    ticks = np.linspace(0, size - 1, min(6, size)).astype(int)
    named = pages[ticks] if by_order else pages[0] + ticks.astype(np.uint64)
    axis.set_yticks(ticks + 0.5, [f"{int(gfn):#x}" for gfn in named])
    ticks_of_bar = MaxNLocator(nbins=5, integer=True)
    figure.colorbar(image, ax=axis, label="SPTEs zapped", pad=0.01, ticks=ticks_of_bar)


def _say(axis: Axes, text: str) -> None:
    axis.text(0.5, 0.5, text, transform=axis.transAxes, ha="center", va="center", color="grey")
