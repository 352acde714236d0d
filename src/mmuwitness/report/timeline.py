"""A schedule as a kernel-style timeline: one lane for each process, time goes down.

Plain text, at most 100 columns: step number, the acting process in its lane, function, file and
line, then what the step changed in the shared state.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from mmuwitness.explore.path import Change, PathStep
from mmuwitness.model.state import Value

WIDTH = 100


def show_value(value: Any) -> str:
    """A value as the kernel's developers would write it: `page2 RW`, `none`, `3`."""
    if isinstance(value, Value):
        fields = {n: getattr(value, n) for n in value.kinds}
        if not any(fields.values()):
            return "none"
        page = fields.pop("page", None)
        bits = "RW" if fields.pop("write", False) else "RO"
        present = fields.pop("present", False)
        rest = [n for n, on in fields.items() if on]
        return " ".join(
            str(p) for p in ([page] if page else []) + ([bits] if present else []) + rest
        )
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def show_change(change: Change) -> str:
    return f"{change.name}: {show_value(change.old)} -> {show_value(change.new)}"


def lanes(steps: Sequence[PathStep], names: Sequence[str], loop: int = 0) -> list[str]:
    """The lines of a timeline; names: of the processes, in order, one lane each; loop: how many of
    the last steps are repeated for ever."""
    width = max(len(n) for n in names) + 1
    head = "step  " + "".join(n.ljust(width) for n in names) + "function, where, effect"
    margin = 6 + width * len(names)
    lines = [head, "-" * min(WIDTH, max(len(head), margin + 40))]
    for position, step in enumerate(steps):
        if loop and position == len(steps) - loop:
            lines.append("--- from here on, again and again ".ljust(len(lines[1]), "-"))
        marks = ["|" if i != step.pid else "*" for i in range(len(names))]
        lane = "".join(m.ljust(width) for m in marks)
        lines.append(f"{step.number:4}  {lane}{step.where.function}()  {step_place(step)}".rstrip())
        effects = [show_change(c) for c in step.changes] + [f"** {m}" for m in step.marks]
        bars = " " * 6 + "".join("|".ljust(width) for _ in names)
        for line in wrap(effects, WIDTH - margin - 2):
            lines.append(f"{bars}  {line}")
    return [clip(line) for line in lines]


def step_place(step: PathStep) -> str:
    chosen = f"  choose {step.choice}" if step.what == "choose" else ""
    return f"{step.where.file.removeprefix('model/')}:{step.where.line}{chosen}"


def wrap(effects: Sequence[str], width: int) -> list[str]:
    """Effects joined by semicolons, wrapped."""
    if not effects:
        return []
    return textwrap.wrap("; ".join(effects), max(width, 40), break_on_hyphens=False)


def clip(line: str) -> str:
    return line if len(line) <= WIDTH else line[: WIDTH - 1] + "…"


LEGEND = (
    "One line is one step: what runs without another process seeing it.  * marks who runs; below\n"
    "it, the shared state that the step changed.  RW, RO: present and writable, read-only."
)
