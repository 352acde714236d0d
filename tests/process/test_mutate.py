"""Mutations of process code: each is one small change, and the mutant is a function like others."""

from __future__ import annotations

import ast
import linecache
from types import FunctionType

import pytest

from mmuwitness.model.functions import functions
from mmuwitness.model.primitives import atomic, cover, feature, read_lock, spin_lock
from mmuwitness.process.language import source_of
from mmuwitness.process.marks import marks
from mmuwitness.process.mutate import Mutation, mutations, not_of_a_kernel


def sample(kvm, start, end):
    """What the tests below change."""
    with spin_lock(kvm.mmu_lock):
        kvm.count += 1
        kvm.unbumped += 1
        kvm.flush()
        start = end
        cover("a mark")
    if feature.something:
        kvm.store(start, end + 1)
    elif kvm.count == 0 and start < end:
        return False
    if kvm.huge_pages and start < end:
        return False
    with read_lock(kvm.lock) if feature.something else spin_lock(kvm.lock), atomic("one step"):
        kvm.field = kvm.arch.find(start, flush=True)
    return True


def texts(kind: str) -> list[str]:
    return [m.text for m in mutations(sample, {"unbumped", "huge_pages"}) if m.kind == kind]


def test_what_is_dropped() -> None:
    """Neither marks nor ghost fields, nor what only a local remembers."""
    assert texts("drop") == [
        "without `kvm.count += 1`",
        "without `kvm.flush()`",
        "without `kvm.store(start, end + 1)`",
        "without `kvm.field = kvm.arch.find(start, flush=True)`",
    ]


def test_what_else_is_changed() -> None:
    assert texts("lock") == [
        "without the lock of `with spin_lock(kvm.mmu_lock)`",
        "without the lock of `with read_lock(kvm.lock) if feature.something else"
        ' spin_lock(kvm.lock), atomic("one step")`',
    ]
    check = "kvm.count == 0 and start < end"
    assert texts("check") == [f"`{check}` taken as {each}" for each in ("False", "True")]
    assert texts("logic") == [f"`(kvm.count == 0) or (start < end)` in place of `{check}`"]
    assert texts("compare") == [
        "`kvm.count != 0` in place of `kvm.count == 0`",
        "`start <= end` in place of `start < end`",
        "`start <= end` in place of `start < end`, 2",
    ]
    assert texts("range") == ["`end` in place of `end + 1`", "`2` in place of `1`"]
    assert texts("value") == [
        "`return True` in place of `return False`",
        "`return True` in place of `return False`, 2",
        "`flush=False` in place of `flush=True`",
        "`return False` in place of `return True`",
    ]
    assert texts("swap") == ["`kvm.flush()` before `kvm.count += 1`"]  # over the ghost between


@pytest.mark.parametrize("change", mutations(sample), ids=lambda each: each.text)
def test_a_mutant_is_the_function_with_one_change(change: Mutation) -> None:
    """The rest of it is as it was, on the same lines; and its text can be shown."""
    mutant = change.mutant()
    before, after = source_of(sample).tree, source_of(mutant).tree
    assert ast.dump(before) != ast.dump(after)
    assert (mutant.__qualname__, mutant.__module__) == (sample.__qualname__, sample.__module__)
    last = before.body[-1].lineno
    changed = {
        number
        for number in range(before.lineno, last + 1)
        if linecache.getline(sample.__code__.co_filename, number)
        != linecache.getline(mutant.__code__.co_filename, number)
    }
    edited = {n for e in change.edits for n in range(e.first[0], e.last[0] + 1)}
    assert changed and changed <= edited
    assert after.body[-1].lineno == last


@pytest.mark.slow
def test_every_function_of_the_model_can_be_changed() -> None:
    """Each mutant is one that the language can read, and no two have the same name."""
    ghosts = not_of_a_kernel()
    assert {"open_windows", "written", "unbumped", "yields", "gmem"} <= ghosts
    names = set[str]()
    for function in functions().values():
        for change in mutations(function, ghosts):
            assert isinstance(change.mutant(), FunctionType)
            assert change.name not in names
            names.add(change.name)
    assert len(names) > 500


def test_marks_are_those_of_the_text() -> None:
    assert marks()["WARN_ON in kvm_mmu_notifier_change_pte()"] == "kvm_mmu_notifier_change_pte"
    assert marks()["change_pte zaps a present SPTE"] == "observe_change_pte"
