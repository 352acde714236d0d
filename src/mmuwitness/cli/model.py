"""The verbs that explore and explain the model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mmuwitness.cli.bugs import Asked, BugOption, bug_asked
from mmuwitness.cli.common import (
    ArchOption,
    EraOption,
    FeatureOption,
    JsonOption,
    LivenessOption,
    ReduceOption,
    Reporter,
    UnfairLocksOption,
    VariantOption,
    kernel,
    say,
)


def verdict(
    question: Annotated[
        str | None, typer.Argument(help="change_pte, a claim, a mark or a feature: see `list`.")
    ] = None,
    needed: Annotated[
        str | None,
        typer.Option("--needed", help="Take this feature, or each line of this function, away."),
    ] = None,
    every_line: Annotated[
        bool, typer.Option("--all", help="The lines of the model that never run.")
    ] = False,
    arch: Annotated[list[str] | None, typer.Option("--arch", help="Only this arch.")] = None,
    era: Annotated[list[str] | None, typer.Option("--era", help="Only this kernel.")] = None,
    feature: FeatureOption = None,
    as_json: JsonOption = False,
    verbose: Annotated[bool, typer.Option("-v", help="Print a witness of each effect.")] = False,
) -> None:
    """Can a hook, a line or a check ever do anything?  Is it needed?

    Per arch and kernel, by exploring every interleaving.

    Example: mmuwitness verdict change_pte --arch arm64 -v
    """
    from mmuwitness import api
    from mmuwitness.model.functions import functions

    if (question is not None) + (needed is not None) + every_line != 1:
        raise typer.BadParameter("ask one thing: a QUESTION (change_pte), --needed NAME or --all")
    if feature and not era:
        raise typer.BadParameter("--feature changes a kernel: say which with --era")
    if needed in functions():
        line_by_line(needed, arch or [], era or [], feature, as_json)
        return
    reporter = Reporter()
    asked: api.Asked = {
        "eras": era or (),
        "arches": arch or (),
        "features": feature or (),
        "progress": reporter.tasks,
    }
    result: api.VerdictResult | api.QuestionResult
    try:
        if question is not None:
            result = api.verdict(question, **asked)
        elif needed is not None:
            result = api.needed(needed, **asked)
        else:
            result = api.dead_lines(**asked)
    finally:
        reporter.close()
    say(result.to_json() if as_json else result.text(witnesses=verbose))
    raise typer.Exit(result.exit_code)


def line_by_line(
    function: str, arch: list[str], era: list[str], feature: list[str] | None, as_json: bool
) -> None:
    """Every line of a function is taken away or changed, on one kernel."""
    import json

    from mmuwitness.explore.mutants import ARCHES, judge_function
    from mmuwitness.report.mutants_table import mutants_json, mutants_text

    if len(era) > 1:
        raise typer.BadParameter("the lines of a function are asked of one --era")
    arches, wanted = arch or ARCHES, kernel(era[0] if era else "v7.3", feature)
    reporter = Reporter()
    try:
        judged = judge_function(function, wanted, arches, reporter.tasks)
    finally:
        reporter.close()
    asked = dict.fromkeys(at.place.arch for each in judged for at in each.judgements)
    where = f"{' and '.join(asked)}, {wanted}"
    if as_json:
        say(json.dumps(mutants_json(function, where, judged), indent=1))
    else:
        say(mutants_text(function, where, judged))


def check(
    context: typer.Context,
    scenario: Annotated[str | None, typer.Argument(help="See `list scenarios`.")] = None,
    era: EraOption = "v7.3",
    arch: ArchOption = "x86-tdp",
    claim: Annotated[list[str] | None, typer.Option("--claim", help="Only this claim.")] = None,
    feature: FeatureOption = None,
    liveness: LivenessOption = False,
    unfair_locks: UnfairLocksOption = False,
    steps: Annotated[
        str, typer.Option("--steps", help="merged, or every: each shared access is a step.")
    ] = "merged",
    reduce: ReduceOption = "auto",
    threads: Annotated[
        int, typer.Option("--threads", min=0, max=62, help="0: as many as processors.")
    ] = 0,
    memory: Annotated[int, typer.Option("--memory", min=1, help="Limit in MiB.")] = 8192,
    bug: BugOption = None,
    as_json: JsonOption = False,
    junit: Annotated[
        Path | None, typer.Option("--junit", help="Write JUnit XML there too.", dir_okay=False)
    ] = None,
    variant: VariantOption = None,
) -> None:
    """Is a protocol safe?  Every claim over every interleaving; shortest counterexamples.

    Example: mmuwitness check cow_migrate --arch arm64 --era v6.1
    """
    from mmuwitness import api
    from mmuwitness.report.junit import check_output, write_junit

    changed = variant if bug is None else None
    if changed is not None:
        if junit is not None:
            raise typer.BadParameter("--junit is for one scenario of the model, not for --variant")
        asked = Asked(scenario or "", era, arch, feature or (), claim or ())
    elif bug is not None:
        asked = bug_asked(context, bug, claim or ())
    elif scenario is not None:
        asked = Asked(scenario, era, arch, feature or (), claim or ())
    else:
        raise typer.BadParameter("name a scenario (`list scenarios`), a --bug or a --variant")
    if junit is not None:
        check_output(junit)
    reporter = Reporter()
    how: dict[str, Any] = {
        "era": asked.era,
        "arch": asked.arch,
        "claims": asked.claims,
        "features": asked.features,
        "liveness": liveness,
        "fair_locks": asked.fair_locks and not unfair_locks,
        "steps": steps,
        "reduce": reduce,
        "threads": threads,
        "memory_mib": memory,
        "progress": reporter.search,
    }
    result: api.CheckResult | api.VariantResult
    try:
        if changed is not None:
            result = api.check_variant(changed, scenario, **how)
        else:
            result = api.check(asked.scenario, **how)
    finally:
        reporter.close()
    if junit is not None and isinstance(result, api.CheckResult):
        write_junit(junit, result.junit())
    say(result.to_json() if as_json else result.text())
    raise typer.Exit(result.exit_code)


def replay(
    schedule: Annotated[str, typer.Argument(help="The ID that check or verdict printed.")],
    every_line: Annotated[
        bool, typer.Option("--pdb", help="Step through it in the Python debugger.")
    ] = False,
    variant: VariantOption = None,
) -> None:
    """Run one schedule again, on the text of the model itself, and draw it."""
    from mmuwitness.explore.schedule_id import parse_schedule
    from mmuwitness.explore.variant import changed_schedule
    from mmuwitness.report.witness import debug_schedule, timeline_text

    wanted, changed = changed_schedule(parse_schedule(schedule), variant)
    if every_line:
        debug_schedule(wanted, changed)
    say(timeline_text(wanted, changed))


def list_names(
    kind: Annotated[
        str,
        typer.Argument(help="scenarios, claims, arches, features, marks, bugs ..."),
    ],
) -> None:
    """What there is: scenarios, claims, arches, eras, features, functions, marks, bugs."""
    from mmuwitness.report.explain import list_text

    say(list_text(kind))


def explain(
    name: Annotated[
        str, typer.Argument(help="A scenario, claim, arch, feature, kernel, function, bug.")
    ],
    steps: Annotated[bool, typer.Option("--steps", help="Where a function's steps begin.")] = False,
    scenario: Annotated[str, typer.Option("--scenario", help="In which scenario.")] = "ksm",
    era: EraOption = "v6.1",
    arch: ArchOption = "x86-tdp",
) -> None:
    """What a name stands for, and where in the kernel it comes from.

    Example: mmuwitness explain wp_page_copy --steps
    """
    from mmuwitness.report.explain import explain_text, steps_text

    say(steps_text(name, scenario, kernel(era, None), arch) if steps else explain_text(name))
