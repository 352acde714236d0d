"""The survey of mutants: of a few of them it is known what becomes of them."""

from __future__ import annotations

import pytest

from tests.model.survey import judged, list_of_changes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "caught"),
    [
        ("kvm_mmu_invalidate_end: without `kvm.mmu_invalidate_seq.bump()`", True),
        ("kvm_mmu_invalidate_begin: without `kvm.mmu_invalidate_in_progress += 1`", True),
        ("kvm_flush_remote_tlbs: without `kvm.arch.flush_remote_tlbs(kvm)`", True),
        # nobody reads the range while the count is 0
        ("kvm_mmu_invalidate_end: without `kvm.mmu_invalidate_range_start = 0`", False),
    ],
)
def test_what_becomes_of_a_change(name: str, caught: bool) -> None:
    (change,) = [each for each in list_of_changes() if each.name == name]
    assert judged(change).caught == caught
