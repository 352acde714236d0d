"""What `verdict --needed FUNCTION` prints: of every line, what it is needed for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmuwitness.explore.mutants import Judged
from mmuwitness.report.text import wrap


def mutants_text(function: str, kernel: str, judged: Sequence[Judged]) -> str:
    caught = sum(each.caught for each in judged)
    alike = sum(each.alike for each in judged)
    title = (
        f"{function}() on {kernel}: {len(judged)} changes, {caught} break a claim,"
        f" {alike} change nothing that is run, {len(judged) - caught - alike} change no verdict."
    )
    lines = [*wrap(title, ""), "", f"{'line':>4}  {'change':46} what becomes of it", "-" * 92]
    for each in judged:
        left = wrap(each.mutation.text, "", 46)
        right = wrap(says(each), "", 38)
        for row in range(max(len(left), len(right))):
            number = str(each.mutation.line) if row == 0 else ""
            cells = [part[row] if row < len(part) else "" for part in (left, right)]
            lines.append(f"{number:>4}  {cells[0]:46} {cells[1]}".rstrip())
    return "\n".join([*lines, "", *bounds(judged)])


def says(each: Judged) -> str:
    last = each.judgements[-1]
    if each.caught:
        where = last.place.scenario.name
        there = "" if last.place.arch == each.judgements[0].place.arch else last.place.arch
        return f"{last.by}, in {where} on {there}" if there else f"{last.by}, in {where}"
    if each.alike:
        return "the same program"
    whole = "" if each.complete else ", not complete"
    return f"no verdict changes in {len(scenarios([each]))} scenarios{whole}"


def scenarios(judged: Sequence[Judged]) -> set[str]:
    return {one.place.scenario.name for each in judged for one in each.judgements}


def bounds(judged: Sequence[Judged]) -> list[str]:
    asked = len(scenarios(judged))
    states = sum(one.states for each in judged for one in each.judgements)
    return wrap(
        f"{asked} scenarios, {states:,} states; of a change no more is asked after the"
        " first broken claim, deadlock or error of the model.  Every interleaving, sequentially"
        " consistent.  No verdict changed: not needed within these bounds, for these claims.",
        "",
    )


def mutants_json(function: str, kernel: str, judged: Sequence[Judged]) -> dict[str, Any]:
    return {
        "schema": 1,
        "function": function,
        "kernel": kernel,
        "memory_order": "sequentially consistent",
        "changes": [
            {
                "line": each.mutation.line,
                "kind": each.mutation.kind,
                "change": each.mutation.text,
                "caught": each.caught,
                "same_program": each.alike,
                "says": says(each),
                "arches": list(dict.fromkeys(one.place.arch for one in each.judgements)),
                "scenarios": len(scenarios([each])),
                "complete": each.complete,
            }
            for each in judged
        ],
    }
