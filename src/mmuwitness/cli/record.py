"""The verb `record`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from mmuwitness.trace.record.recorder import Recorded

FAILED, INCOMPLETE = 1, 3
EVENTS_SHOWN = 12


def record(
    command: Annotated[
        list[str] | None, typer.Argument(help="Recorded while it runs; else until Ctrl-C.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Where to; .zst compresses it.", dir_okay=False)
    ] = None,
    probes: Annotated[
        str,
        typer.Option(
            "--probes", help="stock: tracepoints and stacks; full: functions, with arguments, too."
        ),
    ] = "stock",
    pid: Annotated[
        int | None, typer.Option("--pid", min=1, help="Only this process, and ksmd and the like.")
    ] = None,
    how: Annotated[
        bool, typer.Option("--how", help="Print the commands that do it, and do nothing.")
    ] = False,
    clean: Annotated[
        bool, typer.Option("--clean", help="Only remove what a killed recorder left.")
    ] = False,
) -> None:
    """Record a trace for audit and conform on the running kernel. Needs root.

    Example: mmuwitness record --out storm.txt -- sleep 10
    """
    from mmuwitness.model.era import UnknownName
    from mmuwitness.trace.record.host import this_host
    from mmuwitness.trace.record.recorder import clean as remove_left
    from mmuwitness.trace.record.recorder import record as record_trace
    from mmuwitness.trace.record.tracefs import mounted_tracefs

    if probes not in ("stock", "full"):
        raise UnknownName("set of probes", probes, ["stock", "full"])
    path = out or Path(f"mmuwitness-{time.strftime('%Y%m%d-%H%M%S')}.txt")
    if how:
        typer.echo(how_to(path, probes, pid))
        return
    with mounted_tracefs() as (tracefs, notes):
        for note in notes:
            typer.echo(note, err=True)
        host = this_host(tracefs)
        if clean:
            for note in remove_left(tracefs, host.is_running) or ["nothing was left"]:
                typer.echo(note)
            return
        say = status_line if sys.stderr.isatty() else lambda text: None
        recorded = record_trace(host, path, command or [], probes=probes, pid=pid, say=say)
    typer.echo(summary(recorded))
    if recorded.lost or recorded.missed:
        raise typer.Exit(INCOMPLETE)
    if recorded.status:
        raise typer.Exit(FAILED)


def how_to(out: Path, probes: str, pid: int | None) -> str:
    from mmuwitness.trace.record.host import this_host
    from mmuwitness.trace.record.how import how_text
    from mmuwitness.trace.record.plan import BY_HAND, make_plan
    from mmuwitness.trace.record.tracefs import readable_tracefs

    host = this_host(readable_tracefs())
    return how_text(host, make_plan(host, BY_HAND, probes, pid), out)


def status_line(text: str) -> None:
    sys.stderr.write(f"\r\033[K{text}")
    sys.stderr.flush()


def summary(recorded: Recorded) -> str:
    """What was recorded, what is missing, and what to do next."""
    total = sum(recorded.events.values())
    size = recorded.path.stat().st_size
    lines = [
        f"{recorded.path}: {total:,} events and {recorded.stacks:,} stacks in "
        f"{recorded.seconds:.1f} s, {size / 1e6:,.1f} MB"
    ]
    lines += [f"{number:12,}  {name}" for name, number in recorded.events.most_common(EVENTS_SHOWN)]
    others = recorded.events.most_common()[EVENTS_SHOWN:]
    if others:
        lines.append(f"{sum(number for _, number in others):12,}  of {len(others)} other names")
    if recorded.lost:
        lines.append(
            f"lost: {recorded.lost:,} events, the buffers were full: record less, with --pid or "
            "--probes stock"
        )
    if recorded.missed:
        lines.append(f"missed: probes could not fire {recorded.missed:,} times")
    if recorded.ended_by:
        lines.append(f"ended by {recorded.ended_by}")
    if recorded.status:
        lines.append(f"the command failed: exit {recorded.status}")
    lines += [f"note: {note}" for note in recorded.notes]
    lines.append(f"next: mmuwitness audit {recorded.path}")
    return "\n".join(lines)
