"""The name of a schedule: short enough to paste, complete enough to replay.

`ksm/v6.1/arm64/1.0b.1x3` is scenario, kernel, architecture and the steps: the number of the
process, a letter for its choice (b: 1, c: 2 ...; none: 0), xN if the step is taken N times.  The
kernel may carry changes: `v6.1,-change_pte_bracketed`.  `arm64:marks` is a program without claims.
"""

from __future__ import annotations

import re
from itertools import groupby

from mmuwitness.explore.explorer import Schedule

MARKS_ONLY = ":marks"
STEP = re.compile(r"^(\d+)([b-z]?)(?:x(\d+))?$")


class BadSchedule(ValueError):
    """A schedule name that cannot be read."""


def format_schedule(schedule: Schedule) -> str:
    parts = []
    for (pid, choice), same in groupby(schedule.steps):
        count = len(list(same))
        letter = chr(ord("a") + choice) if choice else ""
        parts.append(f"{pid}{letter}" + (f"x{count}" if count > 1 else ""))
    era = schedule.era.replace(" ", ",")
    arch = schedule.arch + ("" if schedule.claims else MARKS_ONLY)
    return "/".join([schedule.scenario, era, arch, ".".join(parts)])


def parse_schedule(text: str) -> Schedule:
    """The schedule that `format_schedule` named so; BadSchedule says what is wrong."""
    parts = text.strip().split("/")
    if len(parts) != 4:
        raise BadSchedule(f"{text!r} is not SCENARIO/KERNEL/ARCH/STEPS")
    steps: list[tuple[int, int]] = []
    for word in filter(None, parts[3].split(".")):
        match = STEP.match(word)
        if not match:
            raise BadSchedule(f"{word!r} is no step: a process, a letter for its choice, xN")
        pid, letter, count = match.groups()
        choice = ord(letter) - ord("a") if letter else 0
        steps += [(int(pid), choice)] * int(count or 1)
    arch = parts[2].removesuffix(MARKS_ONLY)
    return Schedule(parts[0], parts[1].replace(",", " "), arch, tuple(steps), arch == parts[2])
