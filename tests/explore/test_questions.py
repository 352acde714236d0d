"""Questions about marks, features and lines, put to scenarios on kernels of which the answer is
known."""

from __future__ import annotations

import linecache
from functools import partial
from typing import cast

import pytest

from mmuwitness.explore import mutants, questions
from mmuwitness.explore.coverage import cover_lines
from mmuwitness.explore.explorer import explore
from mmuwitness.explore.kernels import INTERRUPTED, in_processes
from mmuwitness.explore.mutants import Judged, judge_function
from mmuwitness.explore.programs import Folding
from mmuwitness.explore.questions import (
    LACKS_IT,
    Answer,
    Question,
    ask,
    of_feature,
    of_lines,
    of_mark,
    of_need,
)
from mmuwitness.model.era import Era, UnknownName
from mmuwitness.model.host import find_arch
from mmuwitness.model.kvm import kvm_main
from mmuwitness.model.kvm.kvm_main import IN_INVALID_SLOT, NOT_BRACKETED
from mmuwitness.model.scenarios import SCENARIOS, find_scenario
from mmuwitness.process.language import PACKAGE
from mmuwitness.process.lowered import Line
from mmuwitness.process.marks import marks
from mmuwitness.report.mutants_table import says
from mmuwitness.report.questions_table import (
    Wording,
    dead_lines,
    feature_wording,
    lines_wording,
    mark_wording,
    need_wording,
    questions_json,
    questions_text,
)
from mmuwitness.report.witness import timeline_text

pytestmark = pytest.mark.slow


FEW = ("ksm", "uprobe_one", "dontneed_one", "memslot_delete")


@pytest.fixture(autouse=True)
def few_scenarios(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough to know the answers from, in this process."""
    monkeypatch.setattr(questions, "SCENARIOS", {name: SCENARIOS[name] for name in FEW})
    monkeypatch.setattr(questions, "in_processes", map)


def answers(question: Question, arch: str, *kernels: str) -> list[Answer]:
    return ask(question, (arch,), tuple(Era(name) for name in kernels))


# What is known


def test_the_warning_wants_a_kernel_without_brackets() -> None:
    known = answers(of_mark(NOT_BRACKETED), "x86-tdp", "v6.1", "v5.12", "v5.9")
    assert set(known[0].parts) == set(FEW)
    assert not known[0].found and known[0].complete
    assert not known[1].parts and known[2].absent == "no TDP MMU in this KVM"
    changed = ask(of_mark(NOT_BRACKETED), ("x86-tdp",), [Era("v6.1", ("-change_pte_bracketed",))])
    witness = changed[0].witness(("reached",))
    assert witness is not None
    assert f"** {NOT_BRACKETED}" in " ".join(timeline_text(witness).split())


def test_the_bump_in_change_pte_was_needed_until_the_brackets_came() -> None:
    bracketed, unbracketed, without = answers(
        of_need("change_pte_bumps_seq"), "x86-shadow", "v5.12", "v3.6", "v5.13"
    )
    assert bracketed.parts and not bracketed.found
    assert ("coherent", "holds", "violated") in unbracketed.found
    assert without.absent == LACKS_IT
    witness = unbracketed.witness(("coherent", "holds", "violated"))
    assert witness is not None and witness.era == "v3.6 -change_pte_bumps_seq"


def test_the_skip_of_an_invalid_slot_is_needed_where_change_pte_acts() -> None:
    (arm64,) = answers(of_need("change_pte_skips_invalid_slot"), "arm64", "v6.9")
    (x86,) = answers(of_need("change_pte_skips_invalid_slot"), "x86-tdp", "v6.9")
    assert arm64.found[("deleted_slot_unmapped", "holds", "violated")] == ["memslot_delete"]
    assert ("deleted_slot_unmapped", "holds", "violated") not in x86.found


def test_what_a_feature_runs() -> None:
    (found,) = answers(of_feature("change_pte_skips_invalid_slot"), "arm64", "v6.9")
    only = {(how, text_of(cast("Line", line))) for how, line in found.found}
    assert ("only without", "cover(IN_INVALID_SLOT)") in only


def test_a_name_that_nothing_has() -> None:
    for question in (of_need, of_feature):
        with pytest.raises(UnknownName, match="unknown feature 'ksms': did you mean ksm"):
            question("ksms")


# Lines


@pytest.mark.parametrize(("arch", "era"), [("arm64", "v6.1"), ("x86-shadow", "v3.4")])
def test_lines_agree_with_marks(arch: str, era: str) -> None:
    """The line of a mark has run if, and only if, the search met the mark: two books."""
    checked = 0
    for name in FEW:
        covered = cover_lines(SCENARIOS[name], Era(era), arch)
        found = explore(SCENARIOS[name], Era(era), arch, folding=Folding(claims=False))
        assert covered.states == found.result.states
        has = {text_of(line) for line in covered.lines}
        ran = {text_of(line) for line in covered.ran}
        for constant, mark in vars(kvm_main).items():
            if mark in found.compiled.marks and mark != NOT_BRACKETED:
                checked += 1
                assert f"cover({constant})" in has
                assert (f"cover({constant})" in ran) == found.reached(mark)
    assert checked > 4


def text_of(line: Line) -> str:
    file, _, number = line
    return linecache.getline(str(PACKAGE / file), number).strip()


def test_a_line_that_cannot_run_is_dead() -> None:
    (found,) = answers(of_lines(), "arm64", "v6.9")
    dead = {text_of(line) for line in dead_lines(found)}
    assert {"cover(ZAPS)", "cover(INSTALLS_WRITABLE)"} <= dead
    assert not {"cover(INSTALLS_READ_ONLY)", "kvm.mmu_invalidate_in_progress -= 1"} & dead


# The form of the answers


def test_interrupted_answers_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr(questions, "in_processes", interrupt)
    found = answers(of_lines(), "arm64", "v6.1", "v6.2")
    assert [each.absent for each in found] == [INTERRUPTED] * 2
    assert not any(each.complete for each in found)
    assert "NOT COMPLETE" in questions_text(lines_wording(), found)


@pytest.mark.parametrize(
    ("wording", "question", "says"),
    [
        (mark_wording(IN_INVALID_SLOT), of_mark(IN_INVALID_SLOT), "Yes: on arm64 (v6.1)."),
        (need_wording("ksm"), of_need("ksm"), "No scenario says anything about it"),
        (
            feature_wording("mn_active_invalidate_count"),
            of_feature("mn_active_invalidate_count"),
            "Yes: on arm64 (v6.1)",
        ),
        (lines_wording(), of_lines(), "There are some on arm64 (v6.1)."),
    ],
    ids=["mark", "need", "feature", "lines"],
)
def test_texts(wording: Wording, question: Question, says: str) -> None:
    found = answers(question, "arm64", "v6.1")
    text = questions_text(wording, found, True)
    assert text.startswith(wording.title) and says in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 140
    document = questions_json(wording, found)
    assert document["answers"][0]["kernel"] == "v6.1"
    assert document["answers"][0]["complete"] == found[0].complete


def test_every_mark_is_of_some_scenario() -> None:
    """A mark that no program has cannot be asked for."""
    known = set[str]()
    for scenario in SCENARIOS.values():
        for arch, era in (("arm64", "v6.1"), ("x86-shadow", "v3.6"), ("x86-tdp", "v6.12")):
            if scenario.absent(Era(era), find_arch(arch)):
                continue
            known |= set(explore(scenario, Era(era), arch).compiled.marks)
    assert set(marks()) <= known


def test_processes_answer_in_order() -> None:
    tasks = [(str(number), ()) for number in range(5)]
    assert list(in_processes(partial(max, ("", ())), tasks)) == tasks


# Lines of a function


@pytest.fixture(scope="module")
def end() -> dict[str, Judged]:
    found = judge_function("kvm_mmu_invalidate_end", Era("v7.3"), ("x86-tdp",))
    return {each.mutation.text: each for each in found}


@pytest.mark.slow
def test_end_needs_its_bump_and_its_count(end: dict[str, Judged]) -> None:
    assert end["without `kvm.mmu_invalidate_seq.bump()`"].caught
    assert end["without `kvm.mmu_invalidate_in_progress -= 1`"].judgements[-1].by
    start = end["without `kvm.mmu_invalidate_range_start = 0`"]
    assert not start.caught and not start.alike and start.complete  # nobody reads it while 0


COUNT_FIRST = "`kvm.mmu_invalidate_in_progress -= 1` before `kvm.mmu_invalidate_seq.bump()`"


@pytest.mark.slow
def test_the_order_of_bump_and_count_is_needed_where_faults_take_no_mmu_lock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mutants, "SCENARIOS", {"dontneed_one": find_scenario("dontneed_one")})
    found = judge_function("kvm_mmu_invalidate_end", Era("v7.3"))
    (order,) = [each for each in found if each.mutation.text == COUNT_FIRST]
    on_x86, on_hpt = order.judgements
    assert (on_x86.place.arch, on_x86.by) == ("x86-tdp", "") and not on_x86.same
    assert (on_hpt.place.arch, on_hpt.by) == ("powerpc-hpt", "coherent")
    assert says(order) == "coherent, in dontneed_one on powerpc-hpt"
    (bump,) = [e for e in found if e.mutation.text == "without `kvm.mmu_invalidate_seq.bump()`"]
    assert [each.place.arch for each in bump.judgements] == ["x86-tdp"]  # which is enough


def test_a_function_that_nothing_runs() -> None:
    with pytest.raises(ValueError, match=r"no scenario runs kvm_change_spte_gfn\(\) on x86-tdp,"):
        judge_function("kvm_change_spte_gfn", Era("v7.3"), ("x86-tdp",))
    with pytest.raises(UnknownName, match="did you mean kvm_mmu_invalidate_end"):
        judge_function("kvm_mmu_invalidate_ends", Era("v7.3"))
    assert find_scenario("ksm")
