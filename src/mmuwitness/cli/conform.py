"""The verb `conform`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from mmuwitness.cli.common import JsonOption, reading, say


def conform(
    trace: Annotated[str, typer.Argument(help="trace.dat, ftrace or perf text; - is stdin.")],
    as_json: JsonOption = False,
) -> None:
    """Does a real trace obey the model?  Its rules, its processes, and the first departure.

    Exit code 0: no departure; 1: it departs; 3: events were lost, or none was recorded that tells.

    Example: mmuwitness conform trace.dat
    """
    from mmuwitness.report.conform_report import conform_json, conform_text, exit_code
    from mmuwitness.trace.conform import check_rules
    from mmuwitness.trace.paths.check import PathsResult, check_paths

    with reading(trace) as opened:
        rules = check_rules(opened)
    paths: PathsResult | str = "not looked at: standard input can be read only once"
    if trace != "-":
        with reading(trace) as opened:
            paths = check_paths(opened)
    if as_json:
        say(json.dumps(conform_json(rules, paths), indent=1))
    else:
        say(conform_text(rules, paths))
    if code := exit_code(rules, paths):
        raise typer.Exit(code)
