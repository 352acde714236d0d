"""What `simulate` prints: the answer, the designs side by side, and what all of it rests on.

At most 72 columns, so that it can be put into a mail.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from mmuwitness.report.simulate_words import answer, ns, number, plus_minus, signed
from mmuwitness.report.text import wrap
from mmuwitness.simulate.cost import Spread
from mmuwitness.simulate.meters import (
    METERS,
    PAGE_BYTES,
    Meter,
    exit_reasons,
    quantile,
    stalls,
)
from mmuwitness.simulate.price import Comparison, Study
from mmuwitness.simulate.trace_costs import TraceCosts

WIDTH = 72
LABEL = 24
MEAN, DIFFERENCE = 16, 24  # columns that a design has in each table
SENSITIVITIES_MAX = 6
NAME = 34
MIB = 1 << 20


def simulate_text(study: Study, notes: Sequence[str] = ()) -> str:
    """All of it. notes: what else one has to know, as of a trace that costs were taken from."""
    lines = [line for text in answer(study) for line in [*wrap(text, "", WIDTH), ""]]
    lines += in_columns(study, study.designs, means, MEAN)
    if study.comparisons:
        count = min(len(each.pairs) for each in study.comparisons)
        sure = f"95 %, Student's t over {count} seeds" if count > 1 else "one seed, no interval"
        lines += [f"Difference to {study.baseline}, paired by seed ({sure})"]
        others = [each.design for each in study.comparisons]
        lines += in_columns(study, others, differences, DIFFERENCE)
    for each in study.comparisons:
        lines += sensitivity(each)
    lines += ["How this was counted"]
    for text in [*bounds(study), *notes]:
        first, *rest = wrap(text, "  ", WIDTH)
        lines += [
            first,
            *(f"  {line}" for part in rest for line in wrap(part.strip(), "  ", WIDTH - 2)),
        ]
    return "\n".join(line.rstrip() for line in lines)


Rows = list[tuple[str, list[str]]]


def in_columns(
    study: Study, designs: Sequence[str], rows: Callable[[Study, Sequence[str]], Rows], width: int
) -> list[str]:
    """A column for each design; so many side by side as fit, the others below."""
    lines = []
    most = (WIDTH - LABEL) // width
    for start in range(0, len(designs), most):
        some = designs[start : start + most]
        table = [("", [cut(name, width - 1) for name in some]), *rows(study, some)]
        for label, cells in table:
            lines.append(f"{cut(label, LABEL):{LABEL}}" + "".join(f"{c:>{width}}" for c in cells))
        lines.append("")
    return lines


def cut(text: str, width: int) -> str:
    """At most so many columns."""
    return text if len(text) <= width else f"{text[: width - 1]}…"


def means(study: Study, designs: Sequence[str]) -> Rows:
    """What was counted, then what it costs."""
    return [*counters(study, designs), ("", []), *price(study, designs)]


def counters(study: Study, designs: Sequence[str]) -> Rows:
    """The mean of each meter that counted anything; exits also by reason."""
    exits, *others = METERS
    rows: Rows = []
    for meter in (exits, *exit_reasons(study.runs), *others):
        if not any(meter.read(run) for run in study.runs):
            continue
        label = meter.name if meter in METERS else f"  {meter.name}"
        rows.append((label, [number(round(study.mean(name, meter), 1)) for name in designs]))
    return rows


def price(study: Study, designs: Sequence[str]) -> Rows:
    """CPU time by kind of task and in all, guest time lost, memory."""
    kinds = list(dict.fromkeys(kind for name in study.designs for kind in study.task_seconds(name)))
    tasks = {name: study.task_seconds(name) for name in designs}
    rows: Rows = [
        (f"  {kind}", [number(tasks[name].get(kind, 0.0)) for name in designs]) for kind in kinds
    ]
    cpu = [study.cpu_seconds(name) for name in designs]
    stall = [study.stall_seconds(name) for name in designs]
    saved = Meter("", METERS[-1].counters)
    memory = [study.mean(name, saved) * PAGE_BYTES / MIB for name in designs]
    return [
        ("CPU time, s", [number(each.typical) for each in cpu]),
        *rows,
        ("  by the costs", [ends(each) for each in cpu]),
        ("guest time lost, s", [number(each.typical) for each in stall]),
        ("  by the costs", [ends(each) for each in stall]),
        *stall_times(study, designs),
        ("memory saved, MiB", [number(each) for each in memory]),
    ]


def stall_times(study: Study, designs: Sequence[str]) -> Rows:
    """How long an access waits that is not let at once, if some were."""
    found = [stalls([run for run in study.runs if run.design == name]) for name in designs]
    if not any(found):
        return []
    return [
        (f"  {words} below, us", [number(quantile(each, share) / 1e3) for each in found])
        for words, share in (("half", 0.5), ("99 %", 0.99), ("longest", 1.0))
    ]


def ends(found: Spread) -> str:
    """`0.12..0.56`."""
    return f"{number(found.low)}..{number(found.high)}"


def differences(study: Study, designs: Sequence[str]) -> Rows:
    """Of each meter that differs, and of CPU time and guest time lost."""
    found = [study.compare(name) for name in designs]
    rows: Rows = []
    for meter in METERS:
        each = [one.difference(meter) for one in found]
        if any(one.mean or one.half for one in each):
            rows.append((meter.name, [plus_minus(one) for one in each]))
    return [
        *rows,
        ("CPU time, ms", [plus_minus(one.cpu_seconds, 1e3) for one in found]),
        ("  of one CPU, %", [signed(one.cpu_share * 100) for one in found]),
        ("guest time lost, ms", [plus_minus(one.stall_seconds, 1e3) for one in found]),
    ]


def sensitivity(found: Comparison) -> list[str]:
    """Which costs matter, and which ones can turn the answer round."""
    shown = found.sensitivities[:SENSITIVITIES_MAX]
    if not shown:
        return []
    title = f"CPU time of {found.design} less {found.baseline}, ms, by one cost at a time"
    lines = [*wrap(title, "", WIDTH), f"{'':{NAME}}{'ns':>16}{'low':>10}{'high':>10}"]
    for each in shown:
        spread = found.costs[each.name].ns
        name = each.name.rpartition(".")[2]
        name = name if len(name) < NAME else f"…{name[-NAME + 2 :]}"  # start and end differ there
        span = f"{number(spread.low)}..{number(spread.high)}"
        ms = [f"{signed(value / 1e6):>10}" for value in (each.low, each.high)]
        lines.append(f"{name:{NAME}}{span:>16}{ms[0]}{ms[1]}")
    turns = [each for each in found.sensitivities if each.flips]
    said = [
        f"{each.name.rpartition('.')[2]} (at {number(each.turns_at)} ns)"
        for each in turns
        if each.turns_at is not None
    ]
    text = f"Within its spread, can turn the answer round: {', '.join(said)}."
    if not said:
        text = "No cost, within its spread and alone, turns the answer round."
    return [*lines, *wrap(text, "", WIDTH), ""]


def bounds(study: Study) -> list[str]:
    """What it rests on."""
    first = study.runs[0]
    said = ", ".join(f"{name} {value}" for name, value in sorted(first.parameters.items()))
    used = [
        cost for name, cost in study.costs.items() if any(run.count(name) for run in study.runs)
    ]
    assumed = sum(cost.assumed for cost in used)
    seeds = ", ".join(map(str, study.seeds))
    lasted = math.fsum(run.guest_seconds for run in study.runs) / len(study.runs)
    return [
        "Virtual time, costs from a table: no measurement.",
        f"{study.workload}: {said or 'no parameters'}.",
        f"{number(lasted)} s of guest time; seeds {seeds}. The same seed gives the same run.",
        f"Costs: {study.costs.origin}; {len(used)} entries matter here, {assumed} of them assumed "
        "(no published figure found). Simulated with the typical ones; the others were applied to "
        "what was counted then: waits for locks and retries stay as simulated.",
        "`exit costs` are of the round trip alone, without what KVM and mm do about it.",
    ]


def taken_text(found: TraceCosts) -> list[str]:
    """What was taken from a trace, and from how many events."""
    taken = [
        f"Taken from the trace: {name.rpartition('.')[2]} {number(cost.ns.typical)} ns "
        f"({ends(cost.ns)}), from {found.counts[name]:,} spans. {cost.source.capitalize()}."
        for name, cost in found.costs.items()
    ]
    exits = ", ".join(
        f"{reason} {count:,} x {ns(at)}" for reason, (count, at) in found.exits.items()
    )
    told = [f"Exit to entry in the trace, in the median: {exits}."] if exits else []
    return [*(taken or ["Nothing was taken from the trace."]), *told, *found.notes]
