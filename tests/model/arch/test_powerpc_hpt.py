"""Stories of arch/powerpc/kvm/book3s_64_mmu_hv.c: faults that take no mmu_lock."""

from __future__ import annotations

import pytest

from tests.model.story import Story

READ, WRITE = 0, 1
FAULT, H_ENTER = 0, 1


def story_of(era: str = "v6.1") -> Story:
    return Story("dontneed_one", era, "powerpc-hpt")


def begun(story: Story, how: int) -> None:
    """The vCPU has exited, and goes on by a fault or by H_ENTER."""
    story.do("vcpu0", READ)
    story.go("vcpu0", lambda: story.idle("vcpu0"))
    assert story.step("vcpu0", how)


@pytest.mark.parametrize("how", [FAULT, H_ENTER])
def test_a_window_unmaps_what_was_mapped_before_it_was_counted(how: int) -> None:
    story = story_of()
    kvm, hpte = story.kvm, story.kvm.hptes[0]
    begun(story, how)
    story.go("madvise", lambda: kvm.mn_active_invalidate_count == 1)
    story.go("vcpu0", lambda: kvm.spte[0].present)
    story.go("vcpu0", lambda: hpte.lock.owner is None)
    assert hpte.rmap_present and kvm.mmu_invalidate_in_progress == 0
    story.go("madvise", lambda: story.mm.open_windows[0] == 1)
    assert not kvm.spte[0].present and not hpte.rmap_present


def test_an_unmap_waits_for_an_hpte_that_is_about_to_be_valid() -> None:
    story = story_of()
    kvm, hpte = story.kvm, story.kvm.hptes[0]
    begun(story, FAULT)
    story.go("vcpu0", lambda: hpte.rmap_present)
    story.go("vcpu0", lambda: hpte.rmap_lock.owner is None)
    assert hpte.lock.owner is not None and not kvm.spte[0].present
    for _ in range(60):
        story.step("madvise")
    assert kvm.mmu_invalidate_in_progress == 1 and story.mm.open_windows[0] == 0
    story.go("vcpu0", lambda: hpte.lock.owner is None)
    assert kvm.spte[0].present
    story.go("madvise", lambda: story.mm.open_windows[0] == 1)
    assert not kvm.spte[0].present


@pytest.mark.parametrize("how", [FAULT, H_ENTER])
def test_what_a_window_has_hit_is_not_mapped(how: int) -> None:
    story = story_of()
    kvm, hpte = story.kvm, story.kvm.hptes[0]
    begun(story, how)
    story.go("vcpu0", lambda: hpte.lock.owner is not None)
    story.go("madvise", lambda: story.mm.open_windows[0] == 1)
    story.go("vcpu0", lambda: hpte.lock.owner is None)
    assert not kvm.spte[0].present and not hpte.rmap_present


def test_h_enter_references_no_page() -> None:
    story = story_of()
    count = story.pages[0].refcount
    begun(story, H_ENTER)
    story.go("vcpu0", lambda: story.kvm.spte[0].present)
    assert story.kvm.spte[0].page is story.pages[0] and story.pages[0].refcount == count


@pytest.mark.parametrize(("era", "unmapped"), [("v3.7", False), ("v3.8", True)])
def test_a_memslot_that_goes_is_unmapped_since_v3_8(era: str, unmapped: bool) -> None:
    story = Story("memslot_delete", era, "powerpc-hpt")
    kvm = story.kvm
    story.go("vcpu0", lambda: kvm.spte[0].present)
    story.go("vcpu0", lambda: kvm.srcu_readers[0] + kvm.srcu_readers[1] == 0)
    story.go("ioctl", lambda: kvm.active_memslots == 2)
    assert kvm.spte[0].present is not unmapped
