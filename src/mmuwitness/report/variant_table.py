"""What `check --variant` prints: a change beside the unchanged model."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from mmuwitness.explore.compare import Comparer, Comparison, Outcome
from mmuwitness.explore.explorer import Exploration, Schedule
from mmuwitness.explore.schedule_id import format_schedule
from mmuwitness.report.check_report import (
    CAUTION,
    FAIR,
    FAIR_LOCKS,
    HOLDS,
    INCONCLUSIVE,
    VIOLATED,
    WHY,
    check_text,
)
from mmuwitness.report.text import wrap
from mmuwitness.report.witness import replay_command

COLUMN = 36


def exit_code(compared: Sequence[Comparison]) -> int:
    """Of the changed model: 1 if it violates anything, 3 if something was not explored."""
    outcomes = [each.changed for each in compared]
    if any(outcome.violated or outcome.deadlock for outcome in outcomes):
        return VIOLATED
    return HOLDS if all(outcome.decided for outcome in outcomes) else INCONCLUSIVE


def variant_text(asked: Comparer, compared: Sequence[Comparison], scenarios: int) -> str:
    """compared: the scenarios that touch the change, out of so many."""
    lines = [*beside(asked, compared, scenarios)]
    if not all(each.own for each in compared):
        lines += ["", *differences(compared)]
    if compared:
        lines += ["", *bounds(asked, compared)]
    if exit_code(compared) == VIOLATED:
        lines += ["", *wrap(CAUTION.format(arch=asked.how.arch, era=asked.how.era), "")]
    return "\n".join(lines)


def one_text(asked: Comparer, compared: Comparison, found: Exploration) -> str:
    """One scenario: the comparison, then what `check` prints of the changed one; that alone where
    the scenario is the file's own."""
    if compared.own:
        return check_text(found, asked.claims)
    changes = [
        f"  {claim}: {before} -> {after}" for claim, before, after in compared.differences
    ] or ["  no verdict"]
    report = check_text(found, asked.claims)
    return "\n".join(
        [*beside(asked, [compared], 1), "", "What changes:", *changes, "", "=" * 92, report]
    )


def beside(asked: Comparer, compared: Sequence[Comparison], scenarios: int) -> list[str]:
    """The two models, scenario by scenario."""
    lines = [*headline(asked, compared, scenarios), *not_run(asked, compared)]
    if not compared:
        return lines
    width = max(len(each.scenario.name) for each in compared)
    width = max(width, len("scenario")) + 2
    lines += ["", f"{'scenario':{width}}{'unchanged':{COLUMN}}{asked.variant.tag}"]
    for each in compared:
        before, after = cell(each.unchanged), cell(each.changed)
        if each.same_program:
            after = ["the same program"]
        if each.own:
            before = ["the file's own"]
        name = each.scenario.name
        for left, right in zip_longest(before, after, fillvalue=""):
            lines.append(f"{name:{width}}{left:{COLUMN}}{right}".rstrip())
            name = ""
    return lines


def headline(asked: Comparer, compared: Sequence[Comparison], scenarios: int) -> list[str]:
    code = exit_code(compared)
    broken = [
        each.scenario.name for each in compared if each.changed.violated or each.changed.deadlock
    ]
    if not compared:
        says = f"none of {scenarios} scenarios runs what it changes"
    elif code == VIOLATED:
        says = f"violates claims in {', '.join(broken)}"
    elif code == INCONCLUSIVE:
        says = "INCONCLUSIVE"
    else:
        same = all(each.same_program for each in compared)
        says = "changes no program" if same else "every claim holds"
    if compared and scenarios > 1:
        own = sum(each.own for each in compared)
        told = [f"{len(compared) - own} of {scenarios - own} scenarios run what it changes"]
        if not asked.variant.names(asked.how.arch):
            told = []
        told += [f"{own} of its own"] if own else []
        says += f" ({'; '.join(told)})"
    return wrap(f"{asked.variant.path} on {asked.how.arch}, {asked.how.era}: {says}", "")


def not_run(asked: Comparer, compared: Sequence[Comparison]) -> list[str]:
    """What of the change has no part in the result."""
    run = frozenset[str]().union(*(each.touched for each in compared))
    idle = [name for name in asked.variant.names(asked.how.arch) if name not in run]
    text = f"Without effect here, unless the change itself calls or reads it: {', '.join(idle)}."
    lines = wrap(text, "") if idle else []
    gone = sorted(set[str]().union(*(each.gone for each in compared)))
    text = f"Gone from changed programs, so that no claim sees it there: {', '.join(gone)}."
    return lines + (wrap(text, "") if gone else [])


def cell(outcome: Outcome) -> list[str]:
    """`every claim holds`, or what does not; and the size."""
    problems = [*outcome.violated, *(["deadlock"] if outcome.deadlock else [])]
    says = [f"violates {problems[0]}", *(f"  {p}" for p in problems[1:])] if problems else []
    if not problems:
        says = ["every claim holds" if outcome.decided else "undecided"]
    if not outcome.decided:
        says.append("NOT COMPLETE")
    says.append(f"{outcome.states:,} states, depth {outcome.depth}")
    if outcome.symmetric:
        says.append(f"up to symmetry of {' and '.join(outcome.symmetric)}")
    return says


def differences(compared: Sequence[Comparison]) -> list[str]:
    """Each verdict that the change changes; where one breaks, the shortest schedule that shows it.
    (The others are in the machine output.)"""
    lines: list[str] = []
    others: dict[str, list[str]] = {}
    for each in compared:
        broken: dict[str, Schedule] = {}
        for claim, before, after in each.differences:
            if after == "violated" or (claim == "deadlock" and after == "reached"):
                shown = f"{claim}: {before} -> {after}"
                broken[shown] = each.changed.schedules[claim]
            else:
                others.setdefault(f"{claim}: {before} -> {after}", []).append(each.scenario.name)
        if each.changed.went_wrong:
            shown = f"the model goes wrong: {each.changed.went_wrong}"
            broken[shown] = each.changed.schedules["error"]
        if broken:
            shortest = min(broken.values(), key=lambda s: len(s.steps))
            lines += wrap(f"{each.scenario.name}: {'; '.join(broken)}", "  ")
            lines.append(f"    {len(shortest.steps)} steps: {replay_command(shortest)}")
    for shown, names in others.items():
        lines += wrap(f"{shown} in {', '.join(names)}", "  ")
    return ["What changes:", *lines] if lines else ["No verdict changes."]


def bounds(asked: Comparer, compared: Sequence[Comparison]) -> list[str]:
    lines = ["Bounds:"]
    for each in compared:
        both = (each.unchanged, each.changed)
        stops = {WHY.get(o.stopped, o.stopped) for o in both if o.stopped}
        stops |= {f"liveness: {o.no_lassos}" for o in both if o.no_lassos}
        kept = f"NOT COMPLETE ({', '.join(sorted(stops))})" if stops else "complete"
        lines += wrap(f"{each.scenario.name}: {kept}: {each.scenario.bounds}", "  ")
    names = ", ".join(claim.name for claim in asked.claims)
    lines += wrap(f"Claims asked: {names}.", "")
    lines.append("Sequentially consistent; every interleaving of the steps above.")
    if any(claim.kind == "eventually" for claim in asked.claims):
        lines += wrap(FAIR + FAIR_LOCKS[asked.how.fair_locks], "")
    return lines


def variant_json(asked: Comparer, compared: Sequence[Comparison]) -> dict[str, Any]:
    return {
        "schema": 1,
        "variant": asked.variant.path,
        "digest": asked.variant.digest,
        "kernel": str(asked.how.era),
        "arch": asked.how.arch,
        "features": list(asked.variant.features),
        "memory_order": "sequentially consistent",
        "fair_locks": asked.how.fair_locks,
        "scenarios": [
            {
                "scenario": each.scenario.name,
                "bounds": each.scenario.bounds,
                "own": each.own,
                "touched": sorted(each.touched),
                "same_program": each.same_program,
                "unchanged": None if each.own else outcome_json(each.unchanged),
                "changed": outcome_json(each.changed),
            }
            for each in compared
        ],
    }


def outcome_json(outcome: Outcome) -> dict[str, Any]:
    return {
        "complete": outcome.complete,
        "stopped": outcome.stopped,
        "states": outcome.states,
        "edges": outcome.edges,
        "depth": outcome.depth,
        "symmetric": list(outcome.symmetric),
        "claims": outcome.verdicts,
        "witnesses": {name: format_schedule(s) for name, s in outcome.schedules.items()},
    }
