"""The verb `export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmuwitness.cli.bugs import BugOption, bug_asked
from mmuwitness.cli.common import (
    ArchOption,
    EraOption,
    FeatureOption,
    VariantOption,
    kernel,
    reading,
    say,
)

INCONCLUSIVE = 3
OF_A_MODEL = ("era", "arch", "feature", "bug", "variant")


def export(
    context: typer.Context,
    trace: Annotated[
        str | None,
        typer.Argument(
            metavar="TRACE|SCENARIO",
            help="trace.dat, ftrace or perf text; - is stdin.  With --promela: a scenario.",
        ),
    ] = None,
    perfetto: Annotated[
        Path | None, typer.Option("--perfetto", help="The file to write.", dir_okay=False)
    ] = None,
    promela: Annotated[
        bool, typer.Option("--promela", help="Print a scenario as a Promela model, for SPIN.")
    ] = False,
    era: EraOption = "v7.3",
    arch: ArchOption = "x86-tdp",
    feature: FeatureOption = None,
    bug: BugOption = None,
    variant: VariantOption = None,
) -> None:
    """A trace for Perfetto's viewer, or a scenario of the model for SPIN.

    Perfetto: windows, faults and what connects them.  Exit code 3: events were lost or cut off, so
    something may be missing in it.

    Promela: the program that `check` explores, with the same states and steps.

    Example: mmuwitness export trace.dat --perfetto storm.pftrace

    Example: mmuwitness export --promela ksm --arch arm64 --era v6.1 > ksm.pml
    """
    if promela:
        if perfetto is not None:
            raise typer.BadParameter("--perfetto is for a trace, --promela for a scenario")
        return say(promela_of(context, trace, era, arch, feature, bug, variant))
    for name in OF_A_MODEL:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise typer.BadParameter(f"--{name} goes with --promela")
    if trace is None or perfetto is None:
        raise typer.BadParameter("say TRACE --perfetto FILE, or --promela SCENARIO")
    return export_trace(trace, perfetto)


def export_trace(trace: str, perfetto: Path) -> None:
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


def promela_of(
    context: typer.Context,
    name: str | None,
    era: str,
    arch: str,
    feature: list[str] | None,
    bug: str | None,
    variant: str | None,
) -> str:
    """The scenario that is asked for, as a Promela model."""
    from mmuwitness.explore.variant import load_variant
    from mmuwitness.model.scenarios import find_scenario
    from mmuwitness.report.promela.model import scenario_text

    if bug is not None:
        if name is not None:
            raise typer.BadParameter("a bug has a scenario of its own: leave SCENARIO out")
        asked = bug_asked(context, bug, ())
        assert not isinstance(asked.scenario, str)
        return scenario_text(asked.scenario, kernel(asked.era, [*asked.features]), asked.arch)
    if name is None:
        raise typer.BadParameter("name a scenario (`list scenarios`) or a --bug")
    scenario, of = find_scenario(name), kernel(era, feature)
    if variant is not None:
        scenario = load_variant(variant).scenario(scenario, arch)
    return scenario_text(scenario, of, arch)
