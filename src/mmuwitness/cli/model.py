"""The verbs that explore and explain the model."""

from __future__ import annotations

import json
import os
from typing import Annotated, Any

import typer

from mmuwitness.cli.common import (
    ArchOption,
    EraOption,
    FeatureOption,
    JsonOption,
    Reporter,
    kernel,
    say,
)


def verdict(
    question: Annotated[str, typer.Argument(help="change_pte")],
    arch: Annotated[list[str] | None, typer.Option("--arch", help="Only this arch.")] = None,
    era: Annotated[list[str] | None, typer.Option("--era", help="Only this kernel.")] = None,
    feature: FeatureOption = None,
    as_json: JsonOption = False,
    verbose: Annotated[bool, typer.Option("-v", help="Print a witness of each effect.")] = False,
) -> None:
    """Can a hook ever do anything?  Per arch and kernel, by exploring every interleaving.

    Example: mmuwitness verdict change_pte --arch arm64 -v
    """
    from mmuwitness.explore.verdict import verdict_change_pte
    from mmuwitness.model.era import UnknownName
    from mmuwitness.report.verdict_table import verdict_json, verdict_text

    if question != "change_pte":
        raise UnknownName("question", question, ["change_pte"])
    if feature and not era:
        raise typer.BadParameter("--feature changes a kernel: say which with --era")
    eras = [kernel(name, feature) for name in era or ()]
    reporter = Reporter()
    try:
        cells = verdict_change_pte(arch or (), eras, reporter.tasks)
    finally:
        reporter.close()
    if as_json:
        say(json.dumps(verdict_json(cells), indent=1))
    else:
        say(verdict_text(cells, witness_blocks(cells) if verbose else ()))
    if not all(cell.complete for cell in cells):
        raise typer.Exit(3)


def witness_blocks(cells: Any) -> list[str]:
    """A timeline for each effect of each span of the matrix."""
    from mmuwitness.explore.verdict import spans
    from mmuwitness.report.verdict_table import WORDS
    from mmuwitness.report.witness import timeline_text

    return [
        f"{'=' * 92}\n{span[0].arch}: {WORDS[effect]}\n{timeline_text(span[-1].witness(effect))}"
        for span in spans(cells)
        for effect in span[-1].effects
    ]


def check(
    scenario: Annotated[str, typer.Argument(help="See `list scenarios`.")],
    era: EraOption = "v7.3",
    arch: ArchOption = "x86-tdp",
    claim: Annotated[list[str] | None, typer.Option("--claim", help="Only this claim.")] = None,
    feature: FeatureOption = None,
    steps: Annotated[
        str, typer.Option("--steps", help="merged, or every: each shared access is a step.")
    ] = "merged",
    threads: Annotated[
        int, typer.Option("--threads", min=0, max=62, help="0: as many as processors.")
    ] = 0,
    memory: Annotated[int, typer.Option("--memory", min=1, help="Limit in MiB.")] = 8192,
    as_json: JsonOption = False,
) -> None:
    """Is a protocol safe?  Every claim over every interleaving; shortest counterexamples.

    Example: mmuwitness check cow_migrate --arch arm64 --era v6.1
    """
    from mmuwitness.explore.explorer import explore
    from mmuwitness.explore.programs import Folding
    from mmuwitness.model.claims import CLAIMS, find_claims
    from mmuwitness.model.era import UnknownName
    from mmuwitness.model.host import find_arch
    from mmuwitness.model.scenarios import find_scenario
    from mmuwitness.report.check_report import check_json, check_text, exit_code

    wanted, made = find_scenario(scenario), find_arch(arch)
    asked, host_era = find_claims(claim or CLAIMS), kernel(era, feature)
    if not made.applies(host_era):
        raise typer.BadParameter(f"{arch} has no MMU notifier in {host_era}'s KVM")
    if steps not in ("merged", "every"):
        raise UnknownName("way to step", steps, ["merged", "every"])
    reporter = Reporter()
    try:
        found = explore(
            wanted,
            host_era,
            arch,
            folding=Folding(every=steps == "every"),
            threads=threads or min(os.cpu_count() or 1, 62),
            memory_limit_bytes=memory << 20,
            progress=reporter.search,
        )
    finally:
        reporter.close()
    if as_json:
        say(json.dumps(check_json(found, asked), indent=1))
    else:
        say(check_text(found, asked))
    raise typer.Exit(exit_code(found, asked))


def replay(
    schedule: Annotated[str, typer.Argument(help="The ID that check or verdict printed.")],
    every_line: Annotated[
        bool, typer.Option("--pdb", help="Step through it in the Python debugger.")
    ] = False,
) -> None:
    """Run one schedule again, on the text of the model itself, and draw it."""
    from mmuwitness.explore.schedule_id import parse_schedule
    from mmuwitness.report.witness import debug_schedule, timeline_text

    wanted = parse_schedule(schedule)
    if every_line:
        debug_schedule(wanted)
    say(timeline_text(wanted))


def list_names(
    kind: Annotated[
        str, typer.Argument(help="scenarios, claims, arches, eras, features, functions")
    ],
) -> None:
    """What there is: scenarios, claims, arches, eras, features, functions."""
    from mmuwitness.report.explain import list_text

    say(list_text(kind))


def explain(
    name: Annotated[
        str, typer.Argument(help="A scenario, claim, arch, feature, kernel, function.")
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
