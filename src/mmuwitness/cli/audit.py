"""The verb `audit`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from mmuwitness.cli.common import JsonOption, reading, say


def audit(
    trace: Annotated[
        str | None, typer.Argument(help="ftrace text, trace.dat or perf script; - reads stdin.")
    ] = None,
    demo: Annotated[bool, typer.Option("--demo", help="A real trace that comes with it.")] = False,
    as_json: JsonOption = False,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw it too: a .png or .svg.", dir_okay=False)
    ] = None,
    parquet: Annotated[
        Path | None,
        typer.Option("--parquet", help="Write the events as Parquet tables there, and stop."),
    ] = None,
    sql: Annotated[
        str | None,
        typer.Option("--sql", help="Ask the tables `events` and one per event name, and stop."),
    ] = None,
) -> None:
    """Who invalidated guest memory, did it hit anything, what did the guests pay, and why.

    Example: mmuwitness audit trace.dat --plot storm.png
    """
    if (trace is None) == (not demo):
        raise typer.BadParameter("give a trace, or --demo")
    if parquet is not None or sql is not None:
        ask(trace, parquet, sql, as_json)
        return
    from mmuwitness.report.audit_json import audit_json
    from mmuwitness.report.audit_report import audit_text, exit_code
    from mmuwitness.trace.audit.auditor import audit_trace

    if plot is not None:
        from mmuwitness.report.audit_plot import check_name, plot_audit

        check_name(plot)
    with reading(trace) as opened:
        found = audit_trace(opened)
    if plot is not None:
        plot_audit(found, plot)
    if as_json:
        say(json.dumps(audit_json(found), indent=1))
    else:
        say(audit_text(found))
    raise typer.Exit(exit_code(found))


def ask(trace: str | None, parquet: Path | None, sql: str | None, as_json: bool) -> None:
    """The events as tables: written to a directory, or asked."""
    from mmuwitness.report.audit_query import answer_text
    from mmuwitness.trace.audit.tables import EventTables, make_directory

    if parquet is not None:
        make_directory(parquet)
    with reading(trace) as opened, EventTables(opened, parquet) as tables:
        if sql is not None:
            say(answer_text(tables.query(sql), as_json))
        elif parquet is not None:
            for name, rows in tables.rows.most_common():
                say(f"{rows:12,}  {parquet / name}")
        for note in tables.notes:
            typer.echo(note, err=True)
        if not tables.complete:
            raise typer.Exit(3)
