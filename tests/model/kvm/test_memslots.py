"""Stories of memslots (virt/kvm/kvm_main.c): they move, share an hva, and leave gaps."""

from __future__ import annotations

import pytest

from mmuwitness.model.kvm.kvm_host import INVALID, MOVED
from tests.model.story import Story

READ = 0


def test_a_memslot_moves_with_what_it_holds() -> None:
    story = Story("memslot_move", "v6.12", "x86-tdp")
    kvm = story.kvm
    story.do("vcpu0", READ)
    assert kvm.spte[0].page is story.pages[0]
    story.go("ioctl", lambda: kvm.active_memslots == INVALID)
    assert kvm.spte[0].present
    story.go("ioctl", lambda: kvm.active_memslots == MOVED)
    assert not kvm.spte[0].present
    assert story.do("vcpu0", READ) == ["kvm_page_fault", "kvm_mmio"]
    story.do("vcpu0", READ + 1)
    assert kvm.spte[1].page is story.pages[0]


def test_m1_until_v3_7_it_was_zapped_once_it_had_moved() -> None:
    """12d6e7538e2d: a window in between goes by the new gfn, and the page by the old one."""
    story = Story("memslot_move", "v3.6", "x86-shadow")
    kvm, page = story.kvm, story.pages[0]
    story.do("vcpu0", READ)
    story.go("ioctl", lambda: kvm.active_memslots == MOVED)
    story.go("madvise", lambda: page.refcount == 0)
    assert kvm.spte[0].page is page


def test_a_window_zaps_an_hva_at_every_gfn() -> None:
    story = Story("memslot_alias", "v6.12", "x86-tdp")
    mm, kvm = story.mm, story.kvm
    story.do("vcpu0", READ)
    story.do("vcpu0", READ + 1)
    assert kvm.spte[0] == kvm.spte[1] and kvm.spte[0].present
    story.go("madvise", lambda: mm.open_windows[0] == 1)
    assert not kvm.spte[0].present and not kvm.spte[1].present
    assert kvm.mmu_invalidate_in_progress == 1


@pytest.mark.parametrize(("era", "hull"), [("v6.7", (0, 3)), ("v6.8", (0, 2))])
def test_the_hull_is_of_hvas_and_later_of_gfns(era: str, hull: tuple[int, int]) -> None:
    """8569992d64b8: with the hole in the middle, three pages and two gfns."""
    story = Story("memslot_range", era, "x86-tdp")
    mm, kvm = story.mm, story.kvm
    story.do("vcpu0", READ)
    assert kvm.spte[0].page is story.pages[2]
    story.go("madvise", lambda: mm.open_windows[0] == 1)
    assert (kvm.mmu_invalidate_range_start, kvm.mmu_invalidate_range_end) == hull
    assert not kvm.spte[0].present and mm.open_windows[1] == 1


@pytest.mark.parametrize(("era", "emulated"), [("v5.11", False), ("v5.12", True)])
def test_h32_an_mmio_fault_and_a_window(era: str, emulated: bool) -> None:
    """5f8a7cf25a7d: it has no hva that a window could be over."""
    story = Story("memslot_mmio", era, "x86-tdp")
    kvm = story.kvm
    story.go("vcpu0", lambda: "kvm_page_fault" in story.seen, [READ])
    story.step("vcpu0")  # the snapshot
    story.go("madvise", lambda: kvm.mmu_invalidate_in_progress == 1)
    story.go("madvise", lambda: story.mm.invalidating == 0)
    story.finish("vcpu0")
    assert ("kvm_mmio" in story.seen) is emulated
