"""The verdict on `.change_pte()`: what it says of kernels that are known, that its witnesses are
what they say, and that it contradicts nothing that was seen on real kernels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest

from mmuwitness.explore.schedule_id import parse_schedule
from mmuwitness.explore.verdict import EFFECTS, QUESTION, Cell, spans, verdict_change_pte
from mmuwitness.model.claims import CLAIMS
from mmuwitness.model.era import Era, UnknownName
from mmuwitness.model.host import ARCHES
from mmuwitness.model.releases import RELEASES
from mmuwitness.model.scenarios import SCENARIOS
from mmuwitness.report.verdict_table import (
    SEEN,
    acts,
    contradictions,
    says,
    verdict_json,
    verdict_text,
)
from mmuwitness.report.witness import steps_of
from mmuwitness.trace.observed import Observed, load_observed

GONE, NO_NOTIFIER = "no .change_pte()", "no MMU notifier in this KVM"
NO_TDP_MMU = "no TDP MMU in this KVM"
READ_ONLY, WRITABLE = "installs_read_only", "installs_writable"


def ask(arch: str, *kernels: str) -> list[Cell]:
    return verdict_change_pte((arch,), tuple(Era(name) for name in kernels))


@pytest.fixture(scope="module")
def at_v6_1() -> dict[str, Cell]:
    return {cell.arch: cell for cell in verdict_change_pte((), (Era("v6.1"),))}


# What is known of each architecture


@pytest.mark.parametrize(
    ("arch", "effects", "needs_table"),
    [
        ("x86-tdp", (), ()),
        ("x86-shadow", (), ()),
        ("arm64", (READ_ONLY,), (READ_ONLY,)),
        ("riscv", (READ_ONLY, "flushes"), ()),  # its table pages stay once they exist
        ("mips", (READ_ONLY, WRITABLE), ()),
        ("powerpc-hv", (), ()),
        ("powerpc-hpt", (), ()),
        ("powerpc-pr", (), ()),
        ("powerpc-e500", ("flushes",), ()),
    ],
)
def test_v6_1(
    at_v6_1: dict[str, Cell], arch: str, effects: tuple[str, ...], needs_table: tuple[str, ...]
) -> None:
    cell = at_v6_1[arch]
    assert cell.complete and not cell.absent
    assert cell.effects == effects
    assert cell.needs_table() == needs_table


def test_v6_1_where_there_is_nothing_to_ask(at_v6_1: dict[str, Cell]) -> None:
    assert at_v6_1["s390"].absent == at_v6_1["loongarch"].absent == NO_NOTIFIER
    assert at_v6_1["s390"].programs == [] and at_v6_1["s390"].states == 0


@pytest.mark.parametrize(
    ("arch", "era", "effects"),
    [
        ("x86-shadow", "v2.6.32", ("changes", "zaps", "flushes")),
        ("x86-shadow", "v3.6", ("changes", "zaps", "flushes")),
        ("x86-shadow", "v3.7", ()),
        ("arm64", "v3.11", (READ_ONLY,)),
        ("arm64", "v6.9", (READ_ONLY,)),
        ("loongarch", "v6.7", ()),
        ("powerpc-hpt", "v3.6", ("zaps",)),
    ],
)
def test_other_kernels(arch: str, era: str, effects: tuple[str, ...]) -> None:
    (cell,) = ask(arch, era)
    assert cell.complete and not cell.absent
    assert cell.effects == effects


@pytest.mark.parametrize("arch", [a for a in ARCHES if a != "s390"])
def test_the_callback_is_gone_since_v6_10(arch: str) -> None:
    assert [cell.absent for cell in ask(arch, "v6.10", "v6.12", "v7.3")] == [GONE] * 3


def test_s390_subscribes_after_the_callback_is_gone() -> None:
    assert [cell.absent for cell in ask("s390", "v2.6.32", "v6.12", "v7.0")] == [
        *(NO_NOTIFIER, NO_NOTIFIER, GONE)
    ]


def test_before_an_architecture_subscribes_there_is_nothing_to_ask() -> None:
    assert [cell.absent for cell in ask("arm64", "v3.10", "v3.11")] == [NO_NOTIFIER, ""]
    assert [cell.absent for cell in ask("x86-tdp", "v5.9", "v5.10")] == [NO_TDP_MMU, ""]


def test_a_stable_kernel_is_as_good_as_a_release(at_v6_1: dict[str, Cell]) -> None:
    (cell,) = ask("arm64", "v6.1.192")
    assert cell.era == "v6.1.192"
    assert cell.key == at_v6_1["arm64"].key
    # a backport of v6.1.y makes it another program: the snapshot is taken before mmap_lock goes
    assert [p.digest for p in cell.programs] != [p.digest for p in at_v6_1["arm64"].programs]


def test_without_the_table_page_arm64_does_nothing(at_v6_1: dict[str, Cell]) -> None:
    effects = {p.scenario: tuple(p.effects) for p in at_v6_1["arm64"].programs}
    assert effects["ksm"] == (READ_ONLY,)
    assert effects["ksm_alone"] == ()
    assert says(at_v6_1["arm64"]) == "installs a read-only SPTE if its table page exists"


def test_a_flush_alone_is_not_called_acting(at_v6_1: dict[str, Cell]) -> None:
    assert {arch for arch, cell in at_v6_1.items() if acts(cell)} == {"arm64", "riscv", "mips"}
    assert says(at_v6_1["powerpc-e500"]) == "flushes remote TLBs, nothing else"


def test_unknown_names_are_errors() -> None:
    with pytest.raises(UnknownName, match="did you mean arm64"):
        ask("arm46", "v6.1")


@pytest.mark.slow
def test_the_whole_matrix() -> None:
    cells = verdict_change_pte()
    assert len(cells) == len(ARCHES) * len(RELEASES)
    assert all(cell.complete for cell in cells)
    said = {
        (span[0].arch, span[0].era, span[-1].era): span[0].effects
        for span in spans(cells)
        if not span[0].absent
    }
    assert said == {
        ("x86-tdp", "v5.10", "v6.9"): (),
        ("x86-shadow", "v2.6.32", "v3.6"): ("changes", "zaps", "flushes"),
        ("x86-shadow", "v3.7", "v6.9"): (),
        ("arm64", "v3.11", "v6.9"): (READ_ONLY,),
        ("riscv", "v5.16", "v6.9"): (READ_ONLY, "flushes"),
        ("mips", "v4.11", "v6.9"): (READ_ONLY, WRITABLE),
        ("loongarch", "v6.7", "v6.9"): (),
        ("powerpc-hv", "v4.11", "v6.9"): (),
        ("powerpc-hpt", "v3.4", "v3.6"): ("zaps",),
        ("powerpc-hpt", "v3.7", "v6.9"): (),
        ("powerpc-pr", "v3.8", "v3.12"): ("zaps",),
        ("powerpc-pr", "v3.13", "v6.9"): (),
        ("powerpc-e500", "v3.8", "v6.9"): ("flushes",),
    }


# Spans, text, JSON


def test_spans_hold_every_cell_once_and_say_one_thing() -> None:
    cells = ask("x86-shadow", "v3.5", "v3.6", "v3.7", "v6.9", "v6.10", "v7.3")
    found = spans(cells)
    assert [cell for span in found for cell in span] == cells
    assert [[cell.era for cell in span] for span in found] == [
        *(["v3.5", "v3.6"], ["v3.7", "v6.9"], ["v6.10", "v7.3"])
    ]
    assert all(len({cell.key for cell in span}) == 1 for span in found)
    assert all(one[0].key != two[0].key for one, two in pairwise(found))


def test_text_and_json_say_the_same(at_v6_1: dict[str, Cell]) -> None:
    cells = list(at_v6_1.values())
    text, data = verdict_text(cells), verdict_json(cells)
    acting = [cell["arch"] for cell in data["cells"] if cell["acts"]]
    assert acting == ["arm64", "riscv", "mips"]
    assert "Yes: on arm64 (v6.1), riscv (v6.1), mips (v6.1)." in text
    assert "Only flushes on powerpc-e500." in " ".join(text.split())


def test_json_has_this_shape(at_v6_1: dict[str, Cell]) -> None:
    data = verdict_json([*at_v6_1.values(), *ask("arm64", "v6.10")])
    assert json.loads(json.dumps(data)) == data
    assert set(data) == {"schema", "question", "memory_order", "scenarios", "cells"}
    assert (data["schema"], data["question"]) == (1, "change_pte")
    assert data["memory_order"] == "sequentially consistent"
    assert data["scenarios"].items() <= {s.name: s.bounds for s in SCENARIOS.values()}.items()
    assert set(QUESTION) <= set(data["scenarios"])
    for cell in data["cells"]:
        assert set(cell) == {
            *("arch", "kernel", "absent", "acts", "effects"),
            *("needs_table_page", "complete", "programs"),
        }
        assert cell["arch"] in ARCHES and str(Era(cell["kernel"])) == cell["kernel"]
        assert cell["absent"] in (None, GONE, NO_NOTIFIER)
        assert bool(cell["programs"]) == (cell["absent"] is None)
        assert set(cell["effects"]) <= set(EFFECTS) and cell["complete"] is True
        assert set(cell["needs_table_page"]) <= set(cell["effects"])
        for program in cell["programs"]:
            assert set(program) == {*("scenario", "digest", "states", "edges", "depth", "complete")}
            assert program["scenario"] in data["scenarios"]
            assert program["states"] > program["depth"] > 0


# Witnesses


@pytest.mark.slow
def test_every_witness_ends_with_its_effect(at_v6_1: dict[str, Cell]) -> None:
    data = verdict_json([*at_v6_1.values(), *ask("x86-shadow", "v3.6"), *ask("arm64", "v6.1.192")])
    count = 0
    for cell in data["cells"]:
        for effect, shown in cell["effects"].items():
            schedule = parse_schedule(shown["witness"])
            assert (schedule.era, schedule.arch) == (cell["kernel"], cell["arch"])
            _, steps = steps_of(schedule)
            mark = CLAIMS[effect].mark
            assert [mark in step.marks for step in steps] == [False] * (len(steps) - 1) + [True]
            count += 1
    assert count == 2 + 2 + 1 + 1 + 3 + 1


def test_a_witness_is_the_shortest_of_its_cell(at_v6_1: dict[str, Cell]) -> None:
    cell = at_v6_1["mips"]
    for effect in cell.effects:
        lengths = [len(p.effects[effect].steps) for p in cell.programs if effect in p.effects]
        assert len(cell.witness(effect).steps) == min(lengths)


# Real kernels: what was seen has to be possible


def cell_of(row: Observed) -> Cell:
    (cell,) = ask(SEEN[row.arch, row.mmu], row.kernel)
    return cell


@pytest.mark.parametrize("row", load_observed(), ids=lambda r: f"{r.arch}-{r.mmu}-{r.kernel}")
def test_nothing_was_seen_that_cannot_happen(row: Observed) -> None:
    cell = cell_of(row)
    assert cell.complete and contradictions(cell, row.counts) == []


def test_what_was_seen() -> None:
    """The rows are evidence of something: that arm64 acts, that x86 does not though it is called,
    that nobody calls after v6.10."""
    seen = {(SEEN[r.arch, r.mmu], Era(r.kernel).release): r.counts for r in load_observed()}
    assert seen["arm64", "v6.1"].installed_read_only > 1000
    for arch in ("x86-tdp", "x86-shadow"):
        counts = seen[arch, "v6.1"]
        assert counts.kvm_calls == counts.did_nothing > 0
    for arch in ("x86-tdp", "arm64"):
        assert seen[arch, "v6.12"].kvm_calls == 0 < seen[arch, "v6.12"].kvm_windows


@pytest.mark.parametrize(
    ("arch", "mmu", "series", "edited"),
    [
        ("x86", "tdp", "v6.1", {"changed_present": 1}),
        ("x86", "tdp", "v6.1", {"flushed": 1}),
        ("x86", "shadow", "v6.1", {"installed_read_only": 1}),
        ("x86", "npt-legacy", "v6.1", {"warnings": 1}),
        ("arm64", "stage-2", "v6.1", {"installed_writable": 1}),
        ("arm64", "stage-2", "v6.1", {"changed_present": 1}),
        ("arm64", "stage-2", "v6.12", {"kvm_calls": 1}),
        ("x86", "tdp", "v6.12", {"kvm_calls": 2, "changed_present": 1}),
    ],
)
def test_an_edited_row_is_a_contradiction(
    arch: str, mmu: str, series: str, edited: dict[str, int]
) -> None:
    (row,) = (
        row
        for row in load_observed()
        if (row.arch, row.mmu, Era(row.kernel).release) == (arch, mmu, series)
    )
    cell = cell_of(row)
    assert contradictions(cell, row.counts) == []
    assert len(contradictions(cell, replace(row.counts, **edited))) == len(edited)


def test_a_model_that_could_do_less_is_contradicted() -> None:
    (row,) = (r for r in load_observed() if (r.arch, Era(r.kernel).release) == ("arm64", "v6.1"))
    cell = cell_of(row)
    idle = replace(cell, programs=[replace(p, effects={}) for p in cell.programs])
    found = [
        f"{row.counts.installed_read_only} installed_read_only in the trace",
        f"{row.counts.no_memory} without a table page in the trace",
    ]
    assert contradictions(idle, row.counts) == found
    said, sound = (" ".join(verdict_text([each], ()).split()) for each in (idle, cell))
    assert all(f"WHICH CONTRADICTS THE MODEL: {each}" in said for each in found)
    assert "CONTRADICTS" not in sound


def test_rows_name_mmus_that_the_model_has() -> None:
    rows: Sequence[Observed] = load_observed()
    assert {SEEN[row.arch, row.mmu] for row in rows} <= set(ARCHES)
    assert len({(row.arch, row.mmu, row.kernel) for row in rows}) == len(rows)
