"""What `check` prints: every claim of a scenario on one kernel, bounds, counterexamples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmuwitness.explore.explorer import Exploration, Schedule
from mmuwitness.explore.schedule_id import format_schedule
from mmuwitness.model.claims import Claim
from mmuwitness.report.text import wrap
from mmuwitness.report.witness import is_shipped, replay_command, timeline_text

HOLDS, VIOLATED, INCONCLUSIVE = 0, 1, 3

WHY = {
    "memory": "the memory limit was reached",
    "interrupted": "interrupted",
    "indices": "more states than can be numbered",
    "error": "the model itself went wrong",
}

FAIR = "Liveness: in every fair run.  Who can go on, from some time on, does go on; "
FAIR_LOCKS = {
    True: "who waits for a lock that is free again and again gets it.",
    False: "who waits for a lock may be overtaken for ever.",
}

CAUTION = (
    "This is a result about the model of {arch} on {era}, not about a machine.  If you find that a "
    "kernel in use does this, tell the kernel's security team first "
    "(Documentation/process/security-bugs.rst)."
)


def exit_code(found: Exploration, claims: Sequence[Claim]) -> int:
    verdicts = {found.verdict_of(claim) for claim in claims}
    if "violated" in verdicts or found.result.deadlock is not None:
        return VIOLATED
    return HOLDS if found.complete and not found.no_lassos else INCONCLUSIVE


def check_text(found: Exploration, claims: Sequence[Claim]) -> str:
    lines = [headline(found, claims), ""]
    for claim in claims:
        label = f"{claim.number} {claim.name}".strip()
        lines.append(f"  {found.verdict_of(claim):13} {label}")
    lines += ["", *bounds(found)]
    for problem in found.compiled.unguarded:
        lines += wrap(f"Unguarded: {problem}", "  ")
    found_ones = discoveries(found, claims)
    if exit_code(found, claims) == VIOLATED:
        lines += ["", *wrap(CAUTION.format(arch=found.arch, era=found.era), "")]
    if found_ones:
        what, schedule = found_ones[0]
        lines += ["", "-" * 92, what, "", timeline_text(schedule, found.scenario)]
    for what, schedule in found_ones[1:]:
        lines += ["", what, f"  {len(schedule.steps)} steps{how_to_replay(found, schedule)}"]
    return "\n".join(lines)


def how_to_replay(found: Exploration, schedule: Schedule) -> str:
    return f": {replay_command(schedule)}" if is_shipped(found.scenario) else ""


def headline(found: Exploration, claims: Sequence[Claim]) -> str:
    broken = [c.name for c in claims if found.verdict_of(c) == "violated"]
    where = f"{found.scenario.name} on {found.arch}, {found.era}"
    problems = ([f"violates {', '.join(broken)}"] if broken else []) + (
        ["has a deadlock"] if found.result.deadlock is not None else []
    )
    if problems:
        return "\n".join(wrap(f"{where}: {'; '.join(problems)}", "", 92))
    if not found.complete or found.no_lassos:
        return f"{where}: INCONCLUSIVE"
    asked = any(claim.kind != "sometimes" for claim in claims)
    return f"{where}: {'every claim holds' if asked else 'explored'}"


def bounds(found: Exploration) -> list[str]:
    result = found.result
    alike = f" up to symmetry of {' and '.join(found.symmetric)}" if found.symmetric else ""
    size = f"{result.states:,} states{alike}, {result.edges:,} steps, depth {result.depth}"
    rate = f"{result.states / max(result.seconds, 1e-9) / 1e6:.1f} M states/s"
    if found.complete:
        text = f"Complete: {found.scenario.bounds}; {size} ({rate})."
    else:
        why = WHY.get(result.stopped or "", result.stopped)
        text = f"NOT COMPLETE ({why}): {found.scenario.bounds}; {size} so far ({rate})."
        if result.error is not None:
            text += f"  {found.compiled.errors[result.error.site - 1]}"
    lines = [*wrap(text, ""), "Sequentially consistent; every interleaving of the steps above."]
    if found.no_lassos:
        lines += wrap(f"Liveness was not decided: {found.no_lassos}.", "")
    elif found.folding.liveness:
        lines += wrap(FAIR + FAIR_LOCKS[found.fair_locks], "")
    return lines


def discoveries(found: Exploration, claims: Sequence[Claim]) -> list[tuple[str, Schedule]]:
    """Counterexamples, shortest first: each with what it shows.  Claims that break in the same
    state share one."""
    shown: dict[tuple[tuple[int, int], ...], tuple[list[str], Schedule]] = {}
    for claim in claims:
        if found.verdict_of(claim) == "violated":
            schedule = found.schedule_of(claim)
            text = f"{claim.number} {claim.name} is violated: {claim.text}".strip()
            shown.setdefault(schedule.steps, ([], schedule))[0].append(text)
    result = found.result
    if result.deadlock is not None:
        schedule = found.schedule_to_state(result.deadlock)
        shown[schedule.steps] = (["A deadlock: processes wait for each other."], schedule)
    if result.error is not None:
        schedule = found.schedule_to_state(result.error.state)
        shown[schedule.steps] = (["The step after this schedule goes wrong."], schedule)
    ordered = sorted(shown.values(), key=lambda entry: len(entry[1].steps))
    return [("\n".join(line for t in texts for line in wrap(t, "")), s) for texts, s in ordered]


def fairness(found: Exploration) -> str | None:
    if not found.folding.liveness:
        return None
    return "weak, and locks are fair" if found.fair_locks else "weak"


def check_json(found: Exploration, claims: Sequence[Claim]) -> dict[str, Any]:
    result = found.result
    return {
        "schema": 1,
        "scenario": found.scenario.name,
        "kernel": str(found.era),
        "arch": found.arch,
        "bounds": found.scenario.bounds,
        "memory_order": "sequentially consistent",
        "fairness": fairness(found),
        "complete": found.complete,
        "stopped": result.stopped,
        "states": result.states,
        "symmetric": found.symmetric,
        "edges": result.edges,
        "depth": result.depth,
        "deadlock": result.deadlock is not None,
        "claims": {c.name: found.verdict_of(c) for c in claims},
        "witnesses": {
            c.name: format_schedule(found.schedule_of(c))
            for c in claims
            if found.verdict_of(c) in ("violated", "reached")
        },
    }
