"""The corpus of historical bugs."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from mmuwitness.cli.common import JsonOption, Reporter, say

if TYPE_CHECKING:
    from mmuwitness.model.scenarios.scenario import Scenario

OF_A_BUG = {
    "scenario": "SCENARIO",
    "era": "--era",
    "arch": "--arch",
    "feature": "--feature",
    "variant": "--variant",
}

BugOption = Annotated[
    str | None, typer.Option("--bug", help="A historical bug in place of SCENARIO: `list bugs`.")
]


def bugs(
    name: Annotated[list[str] | None, typer.Argument(help="Only these: H7 R1 ...")] = None,
    threads: Annotated[
        int, typer.Option("--threads", min=0, max=62, help="0: as many as processors.")
    ] = 0,
    as_json: JsonOption = False,
) -> None:
    """Is every known bug found, and does every fix hold?  Historical fixes undone one by one.

    Example: mmuwitness bugs H2 H7
    """
    from mmuwitness.explore.bugs import hunt
    from mmuwitness.model.bugs.bug import corpus, find_bug
    from mmuwitness.report.bugs_table import bugs_json, bugs_text

    wanted = [find_bug(each) for each in name or corpus()]
    count = threads or min(os.cpu_count() or 1, 62)
    reporter = Reporter()
    hunts = []
    try:
        for number, bug in enumerate(wanted, 1):
            reporter.tasks(number - 1, len(wanted))
            hunts.append(hunt(bug, threads=count, progress=reporter.search))
    finally:
        reporter.close()
    say(json.dumps(bugs_json(hunts), indent=1) if as_json else bugs_text(hunts))
    if not all(each.decided for each in hunts):
        raise typer.Exit(3)
    if not all(each.found and each.fix_holds for each in hunts):
        raise typer.Exit(1)


class Asked(NamedTuple):
    """What `check` is asked to explore."""

    scenario: str | Scenario
    era: str
    arch: str
    features: Sequence[str]
    claims: Sequence[str]
    fair_locks: bool = True


def bug_asked(context: typer.Context, name: str, claims: Sequence[str]) -> Asked:
    """A bug brings its own scenario, kernel and architecture, and the claim that it violates."""
    from mmuwitness.model.bugs.bug import find_bug

    bug = find_bug(name)
    for option, given in OF_A_BUG.items():
        source = context.get_parameter_source(option)
        if source is not None and source.name == "COMMANDLINE":
            raise typer.BadParameter(
                f"{bug.id} has a scenario, a kernel and an architecture of its own: leave {given}"
                " out"
            )
    era = bug.broken_era
    wanted = claims or [bug.claim]
    return Asked(bug.broken_scenario, era.name, bug.arch, era.changes, wanted, bug.fair_locks)
