"""What `bugs` prints: each historical bug, whether it is found, and whether its fix holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmuwitness.explore.bugs import Hunt
from mmuwitness.explore.schedule_id import format_schedule
from mmuwitness.report.explain import citation
from mmuwitness.report.text import wrap

COLUMNS = "{:4} {:9} {:25} {:12} {:>5} {:>10} {:>7}  {}"
HEAD = COLUMNS.format("bug", "", "claim", "arch", "steps", "states", "seconds", "with the fix")


def bugs_text(hunts: Sequence[Hunt]) -> str:
    lines = [*wrap(summary(hunts), ""), "", HEAD, "-" * 92]
    for each in hunts:
        lines += row(each)
    unverified = [each.bug.id for each in hunts if not each.bug.verified]
    lines += ["", *wrap("steps: of the shortest schedule that violates the claim; states and"
              " seconds: of exploring all of the scenario with the bug.", "")]  # fmt: skip
    if unverified:
        lines += wrap(f"Unverified, from memory: the commits of {', '.join(unverified)}.", "")
    lines += ["Sequentially consistent; bounds of each: `mmuwitness explain ID`."]
    lines += ["Timeline: `mmuwitness check --bug ID`."]
    return "\n".join(lines)


def summary(hunts: Sequence[Hunt]) -> str:
    found = sum(each.found for each in hunts)
    held = sum(each.fix_holds for each in hunts)
    return (
        f"{found} of {len(hunts)} bugs are found.  With the fix in place, {held} of"
        f" {len(hunts)} scenarios pass completely."
    )


def row(each: Hunt) -> list[str]:
    bug, result = each.bug, each.broken.result
    outcome = "found" if each.found else "NOT FOUND" if each.broken.complete else "undecided"
    claim = f"{bug.violates.number} {bug.claim}".strip()
    steps = str(each.steps) if each.found else "-"
    line = COLUMNS.format(
        bug.id, outcome, claim, bug.arch, steps, f"{result.states:,}", f"{each.seconds:.1f}",
        fix_outcome(each),
    )  # fmt: skip
    return [line, *wrap(citation(bug), "     ")]


def fix_outcome(each: Hunt) -> str:
    if each.fix_holds:
        return "all hold"
    broken = ", ".join(each.fixed.violated())
    if broken:
        return f"VIOLATES {broken}"
    return "DEADLOCK" if each.fixed.result.deadlock is not None else "undecided"


def bugs_json(hunts: Sequence[Hunt]) -> dict[str, Any]:
    return {
        "schema": 1,
        "memory_order": "sequentially consistent",
        "found": sum(each.found for each in hunts),
        "fixes_hold": sum(each.fix_holds for each in hunts),
        "bugs": [json_row(each) for each in hunts],
    }


def json_row(each: Hunt) -> dict[str, Any]:
    bug = each.bug
    return {
        "id": bug.id,
        "commit": bug.commit,
        "subject": bug.subject,
        "release": bug.release,
        "fixed": not bug.unfixed,
        "source": bug.source,
        "claim": bug.claim,
        "violated": sorted(each.broken.violated()),
        "kernel": str(bug.broken_era),
        "arch": bug.arch,
        "bounds": bug.scenario.bounds,
        "found": each.found,
        "complete": each.broken.complete,
        "steps": each.steps if each.found else None,
        "states": each.broken.result.states,
        "seconds": round(each.seconds, 3),
        "schedule": format_schedule(each.broken.schedule_of(bug.violates)) if each.found else None,
        "fix": {
            "kernel": str(bug.fixed_era),
            "complete": each.fixed.complete,
            "violated": sorted(each.fixed.violated()),
            "states": each.fixed.result.states,
        },
    }
