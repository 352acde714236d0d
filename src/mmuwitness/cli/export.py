"""The verb `export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmuwitness.cli.common import reading

INCONCLUSIVE = 3


def export(
    trace: Annotated[str, typer.Argument(help="trace.dat, ftrace or perf text; - is stdin.")],
    perfetto: Annotated[
        Path, typer.Option("--perfetto", help="The file to write.", dir_okay=False)
    ],
) -> None:
    """Windows, faults and what connects them, to look at in Perfetto's viewer.

    Exit code 3: events were lost or cut off, so something may be missing in it.

    Example: mmuwitness export trace.dat --perfetto storm.pftrace
    """
    from mmuwitness.report.perfetto import check_output, export_perfetto

    check_output(trace, perfetto)
    with reading(trace) as opened:
        done = export_perfetto(opened, perfetto)
    typer.echo(
        f"{perfetto}: {done.windows:,} windows, {done.faults:,} faults, {done.arrows:,} arrows "
        f"from a zap to who mapped the page again; open it at https://ui.perfetto.dev"
    )
    for note in done.notes:
        typer.echo(note, err=True)
    if not done.windows and not done.faults:
        typer.echo(
            f"{trace} records no window and no fault: see `mmuwitness record --how`", err=True
        )
    if not done.complete:
        raise typer.Exit(INCONCLUSIVE)
