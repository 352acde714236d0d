"""The verdict on `.change_pte()` as text and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmuwitness.explore.schedule_id import format_schedule
from mmuwitness.explore.verdict import ALONE, QUESTION, Cell, spans
from mmuwitness.model.era import Era
from mmuwitness.model.features.feature import Feature
from mmuwitness.model.host import find_arch
from mmuwitness.model.scenarios import SCENARIOS
from mmuwitness.report.text import wrap
from mmuwitness.report.witness import timeline_text
from mmuwitness.trace.observed import ChangePteCounts, Observed, load_observed

WORDS = {
    "changes": "changes a present SPTE",
    "installs_read_only": "installs a read-only SPTE",
    "installs_writable": "installs a writable SPTE",
    "zaps": "zaps a present SPTE",
    "flushes": "flushes remote TLBs",
    "warns": "trips its WARN_ON",
}

SEEN = {
    ("x86", "tdp"): "x86-tdp",
    ("x86", "npt-legacy"): "x86-shadow",
    ("x86", "shadow"): "x86-shadow",
    ("arm64", "stage-2"): "arm64",
}
"""Which model architecture a recorded (arch, mmu) is."""

NEEDS = {
    "changed_present": {"changes", "zaps"},
    "installed_read_only": {"installs_read_only"},
    "installed_writable": {"installs_writable"},
    "flushed": {"flushes"},
    "warnings": {"warns"},
}
"""What was counted in traces, and the effects of which the model must have one then."""


WHAT = 47
"""Columns of what a row says."""


def acts(cell: Cell) -> bool:
    """Something happens to an SPTE; a flush alone is a cost, not an effect."""
    return any(effect not in ("flushes", "warns") for effect in cell.effects)


def says(cell: Cell) -> str:
    """What a cell says, in words."""
    if cell.absent:
        return cell.absent
    if not cell.effects:
        return "nothing" if cell.complete else "nothing found, not complete"
    if not acts(cell) and cell.effects == ("flushes",):
        return "flushes remote TLBs, nothing else"
    parts = []
    for effect in cell.effects:
        condition = " if its table page exists" if effect in cell.needs_table() else ""
        parts.append(WORDS[effect] + condition)
    return "; ".join(parts)


def answer(cells: Sequence[Cell]) -> str:
    """One sentence, first."""
    acting, flushing, idle = [], [], []
    for arch in dict.fromkeys(c.arch for c in cells):
        mine = [c for c in cells if c.arch == arch and not c.absent]
        on = [c.era for c in mine if acts(c)]
        if on:
            acting.append(f"{arch} ({span_name(on)})")
        elif any("warns" in c.effects for c in mine):
            acting.append(f"{arch} (only its WARN_ON)")
        elif any(c.effects for c in mine):
            flushing.append(arch)
        elif mine:
            idle.append(arch)
    text = "Yes: on " + ", ".join(acting) + "." if acting else "No."
    if flushing:
        text += f"  Only flushes on {', '.join(flushing)}."
    if idle:
        text += f"  Does nothing on {', '.join(idle)}."
    return text


def span_name(eras: Sequence[str]) -> str:
    return eras[0] if len(eras) == 1 else f"{eras[0]} to {eras[-1]}"


def size(span: Sequence[Cell]) -> str:
    """States explored over a span, each distinct program once."""
    programs = {p.digest: p.states for cell in span for p in cell.programs}
    return f"{sum(programs.values()):,}" if programs else "-"


def shown_spans(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Spans worth a line: all of an architecture that never has the callback, else where it has."""
    found = spans(cells)
    present = {span[0].arch for span in found if not span[0].absent}
    return [s for s in found if not s[0].absent or s[0].arch not in present]


def verdict_text(cells: Sequence[Cell], witnesses: Sequence[str] = ()) -> str:
    """The whole report; witnesses: further blocks of text, printed below the table."""
    lines = ["Can KVM's .change_pte() ever do anything to a secondary MMU?", ""]
    lines += wrap(answer(cells), "")
    lines += ["", f"{'arch':13} {'kernels':19} {'.change_pte()':47} {'states':>11}", "-" * 92]
    seen = load_observed()
    for span in shown_spans(cells):
        first = span[0]
        kernels = span_name([cell.era for cell in span])
        lines += row_lines(first.arch, kernels, wrap(says(first), "", WHAT), size(span))
        for row in observed_rows(seen, span):
            lines += wrap(f"seen: {row.sentence}", " " * 34, 66)
            for each in contradictions(span[-1], row.counts) if span[-1].complete else ():
                lines += wrap(f"WHICH CONTRADICTS THE MODEL: {each}", " " * 34, 66)
    lines += ["", *bounds(cells)]
    for block in witnesses:
        lines += ["", block]
    return "\n".join(lines)


def row_lines(arch: str, kernels: str, what: Sequence[str], states: str) -> list[str]:
    """A row of a table by architecture and kernels; what: lines of at most WHAT columns."""
    lines = [f"{arch:13} {kernels:19} {what[0]:{WHAT}} {states:>11}"]
    if len(kernels) > 19:
        lines = [*wrap(f"{arch}: {kernels}", ""), f"{'':33} {what[0]:{WHAT}} {states:>11}"]
    return [*lines, *(f"{'':33} {more}" for more in what[1:])]


def contradictions(cell: Cell, counts: ChangePteCounts) -> list[str]:
    """What was seen to happen that the model says cannot happen."""
    found = [
        f"{getattr(counts, name)} {name} in the trace"
        for name, effects in NEEDS.items()
        if getattr(counts, name) and not effects.intersection(cell.effects)
    ]
    if counts.kvm_calls and cell.absent:
        found.append(f"{counts.kvm_calls} calls in the trace of a kernel with {cell.absent}")
    if counts.no_memory and "installs_read_only" not in cell.needs_table():
        found.append(f"{counts.no_memory} without a table page in the trace")
    return found


def observed_rows(seen: Sequence[Observed], span: Sequence[Cell]) -> list[Observed]:
    """What real kernels of this span were seen to do."""
    releases = {Era(cell.era).release for cell in span if " " not in cell.era}
    return [
        row
        for row in seen
        if SEEN.get((row.arch, row.mmu)) == span[0].arch
        and Era(f"v{row.kernel}").release in releases
    ]


def bounds(cells: Sequence[Cell]) -> list[str]:
    """What was explored, what the result rests on, and how to see more."""
    if not any(cell.programs for cell in cells):
        return explored(cells)
    return [*explored(cells), "Add -v for a witness of each effect, --json for every cell."]


def explored(cells: Sequence[Cell]) -> list[str]:
    """What was explored, and what the result rests on."""
    programs = {p.digest: p for cell in cells for p in cell.programs}
    if not programs:
        return ["Nothing to explore: no kernel asked about has the callback."]
    whole = all(p.complete for p in programs.values())
    total = sum(p.states for p in programs.values())
    lines = wrap(
        f"{'Complete' if whole else 'NOT COMPLETE'}: {len(programs)} distinct programs, "
        f"{total:,} states, every interleaving, sequentially consistent.  Kernels with the same "
        "program share one exploration.",
        "",
    )
    for name in (*QUESTION, ALONE):
        lines += wrap(f"{name}: {SCENARIOS[name].bounds}.", "  ")
    unverified = unverified_rows(cells)
    if unverified:
        names = ", ".join(sorted({f"{row.name} ({row.source})" for row in unverified}))
        lines += wrap(f"Rests on rows that nobody has verified: {names}.", "")
    return lines


def witness_blocks(cells: Sequence[Cell]) -> list[str]:
    """A timeline for each effect of each span of the matrix."""
    return [
        f"{'=' * 92}\n{span[0].arch}: {WORDS[effect]}\n{timeline_text(span[-1].witness(effect))}"
        for span in spans(cells)
        for effect in span[-1].effects
    ]


def unverified_rows(cells: Sequence[Cell]) -> list[Feature]:
    found: list[Feature] = []
    for cell in cells:
        names = {name for p in cell.programs for name in p.features}
        era = Era(cell.era.split()[0], tuple(cell.era.split()[1:]))
        found += [
            r for r in era.unverified(names, find_arch(cell.arch).kernel_arch) if r not in found
        ]
    return found


def verdict_json(cells: Sequence[Cell]) -> dict[str, Any]:
    """Every cell, with a replayable witness of each effect.  schema: raised on any change."""
    return {
        "schema": 1,
        "question": "change_pte",
        "memory_order": "sequentially consistent",
        "scenarios": {name: SCENARIOS[name].bounds for name in (*QUESTION, ALONE)},
        "cells": [cell_json(cell) for cell in cells],
    }


def cell_json(cell: Cell) -> dict[str, Any]:
    return {
        "arch": cell.arch,
        "kernel": cell.era,
        "absent": cell.absent or None,
        "acts": acts(cell),
        "effects": {
            effect: {"witness": format_schedule(cell.witness(effect))} for effect in cell.effects
        },
        "needs_table_page": list(cell.needs_table()) if cell.programs else [],
        "complete": cell.complete,
        "programs": [
            {
                "scenario": p.scenario,
                "digest": p.digest[:16],
                "states": p.states,
                "edges": p.edges,
                "depth": p.depth,
                "complete": p.complete,
            }
            for p in cell.programs
        ],
    }
