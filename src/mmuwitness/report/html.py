"""Results as HTML, for notebooks: plain elements without style, so they fit any theme."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from mmuwitness.explore.explorer import Exploration
from mmuwitness.explore.verdict import Cell
from mmuwitness.model.claims import Claim
from mmuwitness.report.check_report import bounds, discoveries, headline
from mmuwitness.report.verdict_table import (
    answer,
    explored,
    says,
    shown_spans,
    size,
    span_name,
)
from mmuwitness.report.witness import timeline_text


def element(name: str, text: str) -> str:
    return f"<{name}>{escape(text)}</{name}>"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = ["".join(element("th", cell) for cell in head)]
    lines += ["".join(element("td", cell) for cell in row) for row in rows]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def check_html(found: Exploration, claims: Sequence[Claim]) -> str:
    """Verdict, claims, bounds, and a timeline of each discovery to unfold."""
    rows = [(c.number, c.name, found.verdict_of(c), c.text) for c in claims]
    parts = [
        f"<p>{element('b', headline(found, claims))}</p>",
        table(("", "claim", "verdict", "what is claimed"), rows),
        element("p", " ".join(bounds(found))),
    ]
    for what, schedule in discoveries(found, claims):
        drawn = timeline_text(schedule, found.scenario)
        title = f"{what} ({len(schedule.steps)} steps)"
        parts.append(f"<details>{element('summary', title)}{element('pre', drawn)}</details>")
    return f"<div>{''.join(parts)}</div>"


def verdict_html(cells: Sequence[Cell]) -> str:
    """The answer, a row for each span of kernels, and what was explored."""
    rows = [
        (span[0].arch, span_name([cell.era for cell in span]), says(span[0]), size(span))
        for span in shown_spans(cells)
    ]
    parts = [
        f"<p>{element('b', answer(cells))}</p>",
        table(("arch", "kernels", ".change_pte()", "states"), rows),
        element("p", " ".join(line.strip() for line in explored(cells))),
    ]
    return f"<div>{''.join(parts)}</div>"
