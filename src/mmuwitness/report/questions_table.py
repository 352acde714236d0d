"""What `verdict MARK`, `verdict FEATURE`, `verdict --needed` and `verdict --all` print."""

from __future__ import annotations

import linecache
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from mmuwitness.explore.questions import Answer, Finding
from mmuwitness.explore.schedule_id import format_schedule
from mmuwitness.model.scenarios import SCENARIOS
from mmuwitness.process.language import PACKAGE
from mmuwitness.report.text import wrap
from mmuwitness.report.verdict_table import WHAT, row_lines, span_name

SHOWN = 3
"""Lines and scenarios named in a row of a table; --json has them all."""


@dataclass(frozen=True)
class Wording:
    """How the answers to a question are put: title, what the answers that say something are headed
    by and the others, what a row says of each, and of one where nothing was found."""

    title: str
    yes: str
    no: str
    row: Callable[[Answer], list[str]]
    nothing: str


def mark_wording(mark: str) -> Wording:
    return Wording(f"Is {mark!r} ever reached?", "Yes: on", "No.", reached, "never reached")


def need_wording(feature: str) -> Wording:
    title = f"Is {feature} needed?  Taken away from the kernels that have it:"
    return Wording(title, "Yes: claims change on", "No claim changes.", changes, "no claim changes")


def feature_wording(feature: str) -> Wording:
    title = f"Does {feature} ever make a difference to what is run?"
    return Wording(title, "Yes: on", "No.", lines, "the same lines run without it")


def lines_wording() -> Wording:
    title = "Which lines of the model does no scenario ever run?"
    return Wording(title, "There are some on", "None.", dead, "every line runs")


# Rows


def reached(answer: Answer) -> list[str]:
    return [f"in {some(scenarios)}" for scenarios in answer.found.values()]


def changes(answer: Answer) -> list[str]:
    return [
        f"{claim}: {before}, without it {after} ({some(scenarios)})"
        for (claim, before, after), scenarios in answer.found.items()
    ]


def lines(answer: Answer) -> list[str]:
    rows = [f"{how} it: {line_text(line)}" for how, line in answer.found]
    return [*rows[:SHOWN], f"and {len(rows) - SHOWN} lines more"] if len(rows) > SHOWN else rows


def dead(answer: Answer) -> list[str]:
    return [line_text(line) for line in dead_lines(answer)]


def dead_lines(answer: Answer) -> list[Any]:
    """(file, function, line) of what is in a program and is never run."""
    found: dict[object, set[object]] = {"has": set(), "ran": set()}
    for how, line in answer.found:
        found[how].add(line)
    return sorted(found["has"] - found["ran"], key=str)


def line_text(line: Any) -> str:
    file, function, number = line
    text = linecache.getline(str(PACKAGE / file), number).strip()
    return f"{function}() {file.removeprefix('model/')}:{number}  {text}"


def some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


# The whole


def questions_text(wording: Wording, answers: Sequence[Answer], replay: bool = False) -> str:
    """replay: with the ID of a shortest schedule to each finding."""
    spans = spans_of(answers)
    result = [wording.title, "", *wrap(answers_headline(wording, answers), ""), ""]
    result += [f"{'arch':13} {'kernels':19} {'':{WHAT}} {'states':>11}", "-" * 92]
    present = {span[0].arch for span in spans if span[0].parts}
    for span in spans:
        if span[0].parts or span[0].arch not in present:
            result += row(wording, span, replay)
    return "\n".join([*result, "", *bounds(answers)])


def spans_of(answers: Sequence[Answer]) -> list[list[Answer]]:
    """Runs of kernels of one architecture that say the same thing."""
    return [list(span) for _, span in groupby(answers, key=lambda each: each.key)]


def answers_headline(wording: Wording, answers: Sequence[Answer]) -> str:
    """One sentence, first."""
    positive: dict[str, list[str]] = {}
    for span in spans_of(answers):
        if wording.row(span[0]):
            kernels = span_name([each.era for each in span])
            positive.setdefault(span[0].arch, []).append(kernels)
    if positive:
        named = [f"{arch} ({', '.join(kernels)})" for arch, kernels in positive.items()]
        return f"{wording.yes} {', '.join(named)}."
    asked = [each for each in answers if each.parts]
    if not asked:
        return "No scenario says anything about it on the kernels asked."
    return wording.no if all(each.complete for each in asked) else "Not found, and not complete."


def row(wording: Wording, span: Sequence[Answer], replay: bool) -> list[str]:
    first = span[0]
    nothing = wording.nothing if first.complete else f"{wording.nothing}, not complete"
    said = wording.row(first) or [first.absent or (nothing if first.parts else "in no scenario")]
    text = [part for each in said for part in wrap(each, "", WHAT)]
    states = sum(programs(span).values())
    size = f"{states:,}" if states else "-"
    made = row_lines(first.arch, span_name([each.era for each in span]), text, size)
    for what in first.found if replay else ():
        schedule = span[-1].witness(what)
        if schedule is not None:
            made.append(f"{'':33} mmuwitness replay {format_schedule(schedule)}")
    return made


def bounds(answers: Sequence[Answer]) -> list[str]:
    scenarios = {name for each in answers for name in each.parts}
    states = programs(answers)
    whole = all(each.complete for each in answers)
    return wrap(
        f"{'Complete' if whole else 'NOT COMPLETE'}: {len(scenarios)} of {len(SCENARIOS)} scenarios"
        f" say something, {len(states)} distinct programs, {sum(states.values()):,} states, every"
        " interleaving, sequentially consistent.  Bounds: `mmuwitness explain SCENARIO`.",
        "",
    )


def programs(answers: Sequence[Answer]) -> dict[str, int]:
    """States of each distinct program."""
    parts = [part for each in answers for part in each.parts.values()]
    return {digest: states for part in parts for digest, states in part.programs.items()}


def questions_json(wording: Wording, answers: Sequence[Answer]) -> dict[str, Any]:
    return {
        "schema": 1,
        "question": wording.title,
        "memory_order": "sequentially consistent",
        "answers": [answer_json(wording, each) for each in answers],
    }


def answer_json(wording: Wording, answer: Answer) -> dict[str, Any]:
    return {
        "arch": answer.arch,
        "kernel": answer.era,
        "absent": answer.absent or None,
        "says": wording.row(answer),
        "complete": answer.complete,
        "scenarios": {name: sum(part.programs.values()) for name, part in answer.parts.items()},
        "schedules": [
            {"finding": [str(part) for part in what], "schedule": schedule_of(answer, what)}
            for what in answer.found
            if answer.witness(what)
        ],
    }


def schedule_of(answer: Answer, what: Finding) -> str | None:
    schedule = answer.witness(what)
    return format_schedule(schedule) if schedule else None
