"""Stories of mm/mprotect.c: NUMA balancing, and what its window takes with it."""

from __future__ import annotations

from mmuwitness.model.mm.mm_types import Pte
from tests.model.story import Story

READ, READ_SECOND = 0, 1


def test_a_numa_pass_zaps_what_it_skips() -> None:
    """KVM is told a range, and not that the pinned page in it stays accessible."""
    story = Story("numa", "v6.1", "x86-tdp")
    mm, kvm = story.mm, story.kvm
    first, pinned = story.pages
    story.do("vcpu0", READ)
    story.do("vcpu0", READ_SECOND)
    assert kvm.spte[0].page is first and kvm.spte[1].page is pinned

    assert story.do("numa", 0) == ["kvm_unmap_hva_range"]
    assert mm.pte[0] == Pte(protnone=True, write=True, dirty=True, page=first)
    assert mm.pte[1] == Pte(present=True, write=True, dirty=True, page=pinned)
    assert not kvm.spte[0].present and not kvm.spte[1].present

    # The next fault makes the page accessible again, without a window.
    assert story.do("vcpu0", READ) == ["kvm_page_fault"]
    assert mm.pte[0] == Pte(present=True, write=True, dirty=True, page=first)
    assert kvm.spte[0].page is first


def opens_over_nothing(era: str) -> bool:
    """Whether a pass opens a window where the only page is gone."""
    story = Story("numa_dontneed", era, "x86-shadow")
    story.go("madvise", lambda: not story.mm.pte[0].present)
    story.go("madvise", lambda: story.mm.invalidating == 0)
    story.seen.clear()
    for _ in range(12):
        story.step("numa")
    return "kvm_unmap_hva_range" in story.seen


def test_no_window_opens_over_what_is_not_populated() -> None:
    assert opens_over_nothing("v3.14")
    assert not opens_over_nothing("v3.15")
