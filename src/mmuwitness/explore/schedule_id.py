"""The name of a schedule: short enough to paste, complete enough to replay.

`ksm/v6.1/arm64/1.0b.1x3` is scenario, kernel, architecture and the steps: the number of the
process, a letter for its choice (b: 1, c: 2 ...; none: 0), xN if the step is taken N times.  The
kernel may carry changes: `v6.1,-change_pte_bracketed`.  `arm64:marks` is a program without
claims, `arm64:every` one in which each shared access is a step, `arm64:any` one in which the
allocator hands out any free page, `arm64:liveness` one with the `eventually` claims.  Of a lasso
the steps are the stem, `~` and the loop: `1.0b~0x2.1`.
"""

from __future__ import annotations

import re
from itertools import groupby

from mmuwitness.explore.explorer import Schedule
from mmuwitness.explore.programs import Folding

WAYS = ("marks", "every", "any", "liveness")
STEPS_MAX = 100_000
STEP = re.compile(r"^(\d+)([b-z]?)(?:x(\d+))?$")


class BadSchedule(ValueError):
    """A schedule name that cannot be read."""


def format_schedule(schedule: Schedule) -> str:
    stem = len(schedule.steps) - schedule.loop
    steps = format_steps(schedule.steps[:stem])
    if schedule.loop:
        steps += f"~{format_steps(schedule.steps[stem:])}"
    era = schedule.era.replace(" ", ",")
    arch = ":".join([schedule.arch, *ways_of(schedule.folding)])
    return "/".join([schedule.scenario, era, arch, steps])


def format_steps(steps: tuple[tuple[int, int], ...]) -> str:
    parts = []
    for (pid, choice), same in groupby(steps):
        count = len(list(same))
        letter = chr(ord("a") + choice) if choice else ""
        parts.append(f"{pid}{letter}" + (f"x{count}" if count > 1 else ""))
    return ".".join(parts)


def ways_of(folding: Folding) -> list[str]:
    """What makes a step another one than in the program with all `always` claims, merged."""
    given = {
        "marks": not folding.claims,
        "every": folding.every,
        "any": folding.any_page_first,
        "liveness": folding.liveness,
    }
    return [way for way in WAYS if given[way]]


def folding_of(ways: list[str]) -> Folding:
    for way in ways:
        if way not in WAYS or ways.count(way) > 1:
            raise BadSchedule(f"{way!r} is no way to fold: {', '.join(WAYS)}")
    return Folding(
        "marks" not in ways,
        "every" in ways,
        any_page_first="any" in ways,
        liveness="liveness" in ways,
    )


def parse_schedule(text: str) -> Schedule:
    """The schedule that `format_schedule` named so; BadSchedule says what is wrong."""
    parts = text.strip().split("/")
    if len(parts) != 4:
        raise BadSchedule(f"{text!r} is not SCENARIO/KERNEL/ARCH/STEPS")
    stem, tilde, loop = parts[3].partition("~")
    steps, repeated = parse_steps(stem), parse_steps(loop)
    if tilde and not repeated:
        raise BadSchedule(f"{text!r} has a loop without steps")
    if len(steps) + len(repeated) > STEPS_MAX:
        raise BadSchedule(f"not a schedule of this model: more than {STEPS_MAX:,} steps")
    arch, *ways = parts[2].split(":")
    era = parts[1].replace(",", " ")
    whole = (*steps, *repeated)
    return Schedule(parts[0], era, arch, whole, folding_of(ways), loop=len(repeated))


def parse_steps(text: str) -> list[tuple[int, int]]:
    steps: list[tuple[int, int]] = []
    for word in filter(None, text.split(".")):
        match = STEP.match(word)
        if not match:
            raise BadSchedule(f"{word!r} is no step: a process, a letter for its choice, xN")
        pid, letter, count = match.groups()
        choice = ord(letter) - ord("a") if letter else 0
        if len(steps) + int(count or 1) > STEPS_MAX:
            raise BadSchedule(f"not a schedule of this model: more than {STEPS_MAX:,} steps")
        steps += [(int(pid), choice)] * int(count or 1)
    return steps
