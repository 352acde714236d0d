"""`verdict` of a mark, a feature, a function's lines and all lines."""

from __future__ import annotations

import json

import pytest

from mmuwitness import dead_lines, needed, verdict
from mmuwitness.explore import mutants, questions
from mmuwitness.model.scenarios import SCENARIOS
from tests.test_cli import HOLDS, USAGE, run

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def few_scenarios(monkeypatch: pytest.MonkeyPatch) -> None:
    few = {name: SCENARIOS[name] for name in ("uprobe_one", "uprobe", "dontneed_one")}
    for module in (questions, mutants):
        monkeypatch.setattr(module, "SCENARIOS", few)
    monkeypatch.setattr(questions, "in_processes", map)


ARM64 = "--arch arm64 --era v6.1"


@pytest.mark.parametrize(
    ("question", "says"),
    [
        ("verdict warns", "Is 'WARN_ON in kvm_mmu_notifier_change_pte()' ever reached?\n\nNo."),
        ("verdict installs_read_only", "Yes: on arm64 (v6.1)."),
        ("verdict change_pte_before_set_pte", "Yes: on arm64 (v6.1)."),
        ("verdict --needed change_pte_bracketed", "Yes: claims change on arm64 (v6.1)."),
        ("verdict --needed change_pte_warns_unbracketed", "No claim changes."),
        ("verdict --all", "There are some on arm64 (v6.1)."),
        ("verdict --needed kvm_mmu_invalidate_begin", "without `kvm.mmu_invalidate_in_progress"),
    ],
)
def test_answers(question: str, says: str) -> None:
    done = run(f"{question} {ARM64}")
    assert done.code == HOLDS and says in done.out
    document = json.loads(run(f"{question} {ARM64} --json").out)
    assert document["memory_order"] == "sequentially consistent"


def test_a_witness_is_a_schedule_that_replays() -> None:
    done = run(f"verdict installs_read_only {ARM64} -v")
    (replay,) = [line.strip() for line in done.lines if "mmuwitness replay" in line]
    again = run(replay.removeprefix("mmuwitness "))
    assert again.code == HOLDS
    assert "** change_pte" in again.out
    words = [word for word in again.out.split() if word != "|"]  # a lane, where the text wraps
    assert "** change_pte installs a read-only SPTE" in " ".join(words)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("verdict", "ask one thing"),
        ("verdict change_pte --all", "ask one thing"),
        ("verdict --needed change_pte_brackets", "did you mean change_pte_bracketed"),
        ("verdict --needed wp_page_copy --era v6.1 --era v6.9", "asked of one --era"),
        ("verdict --needed kvm_change_spte_gfn", "no scenario runs kvm_change_spte_gfn() on x86"),
        ("verdict warns --feature -ksm", "say which with --era"),
    ],
)
def test_wrong_usage(line: str, says: str) -> None:
    done = run(line)
    assert done.code == USAGE and says in " ".join(done.err.split())


def test_the_same_from_python() -> None:
    assert verdict("warns", arches="arm64", eras="v6.1").answer == "No."
    need = needed("change_pte_bracketed", arches="arm64", eras="v6.1")
    assert need.complete and need.exit_code == HOLDS
    assert repr(need) == "<Yes: claims change on arm64 (v6.1).>"
    assert len(dead_lines(arches="arm64", eras="v6.1").answers) == 1
