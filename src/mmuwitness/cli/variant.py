"""`check --variant`: a user's own change, in the scenarios that touch it."""

from __future__ import annotations

import json
import os

import typer

from mmuwitness.cli.common import Reporter, kernel, say


def check_variant(
    path: str,
    scenario: str | None,
    era: str,
    arch: str,
    claim: list[str] | None,
    feature: list[str] | None,
    steps: str,
    threads: int,
    memory: int,
    as_json: bool,
) -> int:
    """Print it beside the unchanged model; with a scenario, that one at length.  The exit code."""
    from mmuwitness.explore.compare import Comparer
    from mmuwitness.explore.programs import Folding
    from mmuwitness.explore.variant import load_variant
    from mmuwitness.model.claims import CLAIMS, find_claims
    from mmuwitness.model.era import UnknownName
    from mmuwitness.model.host import find_arch
    from mmuwitness.model.scenarios import SCENARIOS
    from mmuwitness.report.variant_table import exit_code, one_text, variant_json, variant_text

    host_era, made, variant = kernel(era, feature), find_arch(arch), load_variant(path)
    if steps not in ("merged", "every"):
        raise UnknownName("way to step", steps, ["merged", "every"])
    own = variant.scenarios.values()
    wanted = [variant.find_scenario(scenario)] if scenario else [*SCENARIOS.values(), *own]
    absent = [each.absent(host_era, made) for each in wanted]
    if all(absent):
        raise typer.BadParameter(absent[0])
    reporter = Reporter()
    asked = Comparer(
        variant,
        host_era,
        arch,
        find_claims(claim or CLAIMS),
        Folding(every=steps == "every"),
        threads or min(os.cpu_count() or 1, 62),
        memory << 20,
        reporter.search,
    )
    compared = []
    try:
        for each in wanted:
            if each.absent(host_era, made):
                continue
            if scenario or each.name in variant.scenarios or asked.touched(each):
                comparison, found = asked.compare(each)
                compared.append(comparison)
    finally:
        reporter.close()
    if as_json:
        say(json.dumps(variant_json(asked, compared), indent=1))
    elif scenario:
        say(one_text(asked, comparison, found))
    else:
        say(variant_text(asked, compared, len(wanted)))
    return exit_code(compared)
