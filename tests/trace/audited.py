"""Audits of the real traces in tests/data, once each, and of hand-written ftrace text."""

from functools import cache
from pathlib import Path

import mmuwitness.trace
from mmuwitness.trace.audit.auditor import Audit, audit_trace
from mmuwitness.trace.causes import Cause
from mmuwitness.trace.open import open_trace

DATA = Path(__file__).parents[1] / "data"
DEMO = Path(mmuwitness.trace.__file__).with_name("demo.txt.xz")
PLACES = {"x86/6.1-tdp-numa.txt.xz": DEMO}  # the bundled trace is that one


@cache
def audited(name: str) -> Audit:
    """The audit of this file of tests/data, or of the bundled one under its own name."""
    return audit_trace(open_trace(str(PLACES.get(name, DATA / name))))


def windows_of(audit: Audit) -> dict[Cause, int]:
    """Windows by cause."""
    return {cause: totals.windows for cause, totals in audit.totals.causes.items()}


def zapping(audit: Audit) -> int:
    """Windows that zapped something."""
    rows = audit.totals.causes.values()
    return sum(each.windows - each.empty - each.zapped_unknown for each in rows)


@cache
def audit_of(text: str, directory: Path) -> Audit:
    """The audit of ftrace text whose lines are `pid time event: payload`, CPU 0."""
    path = directory / "made.txt"
    path.write_text("# tracer: nop\n" + "".join(made_line(line) for line in text.splitlines()))
    return audit_trace(open_trace(str(path)))


def made_line(line: str) -> str:
    """An ftrace line of `task-pid microseconds rest`; ` => f` and blank lines as they are."""
    if not line.strip():
        return ""
    if line.lstrip().startswith("=>"):
        return f" {line.strip()}\n"
    who, micros, rest = line.split(maxsplit=2)
    return f" {who:>20} [000] ..... {int(micros) / 1e6:.6f}: {rest}\n"
