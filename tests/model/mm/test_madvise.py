"""Stories of mm/madvise.c: MADV_FREE, and what tells reclaim that somebody wrote since."""

from __future__ import annotations

import pytest

from mmuwitness.model.mm.mm_types import Pte
from tests.model.story import Story

READ, WRITE = 0, 1


def write(story: Story) -> None:
    """A fault, a walk that fills the TLB, a hit."""
    for _ in range(3):
        story.do("vcpu0", WRITE)
    assert story.kvm.spte[0].write


def freed_lazily(era: str, arch: str) -> Story:
    """The guest has written to its page, and then the VMM has freed it."""
    story = Story("madv_free", era, arch)
    mm, (first, _) = story.mm, story.pages
    write(story)
    assert first.content == 1
    story.go("madvise", lambda: not mm.pte[0].dirty)
    story.go("madvise", lambda: story.kvm.mmu_invalidate_in_progress == 0)
    story.go("madvise", lambda: story.kvm.mn_active_invalidate_count == 0)
    story.step("madvise")
    assert not story.kvm.spte[0].present
    assert mm.pte[0] == Pte(present=True, write=True, page=first)
    assert first.lazyfree and not first.dirty
    return story


@pytest.mark.parametrize("arch", ["x86-tdp", "x86-shadow", "arm64"])
def test_a_page_that_nobody_wrote_to_is_dropped(arch: str) -> None:
    story = freed_lazily("v6.1", arch)
    mm, (first, second) = story.mm, story.pages
    assert story.do("kswapd", 0) == ["kvm_unmap_hva_range"]
    assert mm.pte[0] == Pte()
    assert first.refcount == 0 and second.refcount == 0
    story.do("vcpu0", READ)
    assert mm.pte[0].present and mm.pte[0].page.content == 0


@pytest.mark.parametrize(
    ("era", "arch", "at_fault"),
    [
        ("v6.12", "x86-tdp", False),
        ("v6.12", "x86-shadow", False),
        ("v6.13", "x86-tdp", True),
        ("v6.13", "x86-shadow", True),
        ("v6.1", "arm64", True),
        ("v6.12", "riscv", True),
    ],
)
def test_a_page_that_the_guest_wrote_to_is_kept(era: str, arch: str, at_fault: bool) -> None:
    """The PTE stays clean.  The page is dirty when the fault has made a writable leaf, or when
    reclaim's window zaps that."""
    story = freed_lazily(era, arch)
    mm, (first, _) = story.mm, story.pages
    write(story)
    assert first.content == mm.written[0] == 0
    assert not mm.pte[0].dirty
    assert first.dirty is at_fault

    story.do("kswapd", 0)
    assert not story.kvm.spte[0].present
    assert mm.pte[0] == Pte(present=True, write=True, page=first)
    assert first.dirty and not first.lazyfree


@pytest.mark.parametrize(("era", "kept"), [("v5.17", False), ("v5.18", True)])
def test_a_page_that_somebody_else_has_is_kept(era: str, kept: bool) -> None:
    """The disk's write is to come; before v5.18 it would have gone to a page that nobody maps."""
    story = Story("madv_free_dio", era, "x86-tdp")
    mm, (first, _) = story.mm, story.pages
    story.go("vmm", lambda: first.refcount == 2)
    assert first.lazyfree and not first.dirty
    story.do("kswapd", 0)
    assert mm.pte[0].present is kept
    assert first.refcount == (2 if kept else 1)
