"""Stories of virt/kvm/pfncache.c: a refresh that meets an invalidation."""

from __future__ import annotations

import pytest

from tests.model.story import Story


def refreshing(scenario: str, era: str, page: int) -> Story:
    """A refresh that holds a reference to the page that it found, and no lock."""
    story = Story(scenario, era, "x86-tdp")
    story.go("xen", lambda: story.pages[page].refcount == 2)
    return story


def test_a_refresh_goes_on_while_a_window_is_open() -> None:
    story = Story("pfncache", "v6.12", "x86-tdp")
    mm, (gpc,) = story.mm, story.kvm.gpc_list
    story.go("madvise", lambda: mm.open_windows[0] == 1)
    for _ in range(3):  # rounds, each with a lookup that was right
        story.go("xen", lambda: story.pages[0].refcount == 2)
        story.go("xen", lambda: story.pages[0].refcount == 1)
        assert not gpc.valid
    story.go("xen", lambda: gpc.lock.owner is None)
    story.go("madvise", lambda: mm.invalidating == 0)
    story.go("xen", lambda: gpc.valid)
    assert mm.pte[0].page is gpc.page is not story.pages[0]


def test_a_window_clears_a_cache_before_it_is_counted_for_faults() -> None:
    story = Story("pfncache", "v6.12", "x86-tdp")
    kvm, (gpc,) = story.kvm, story.kvm.gpc_list
    story.go("xen", lambda: gpc.valid)
    story.go("xen", lambda: gpc.refresh_lock.owner is None)
    story.go("madvise", lambda: not gpc.valid)
    assert kvm.mn_active_invalidate_count == 1 and kvm.mmu_invalidate_in_progress == 0


@pytest.mark.parametrize(("era", "stale"), [("v6.12", True), ("v7.3", False)])
def test_h17_a_window_outside_every_memslot(era: str, stale: bool) -> None:
    """da260bcb56fe: the window comes and goes, and leaves no trace but in a sequence of its own."""
    story = refreshing("pfncache_hva", era, page=1)
    mm, page, (gpc,) = story.mm, story.pages[1], story.kvm.gpc_list
    before = story.kvm.mmu_invalidate_seq.value
    story.go("madvise", lambda: mm.invalidating == 1)
    story.go("madvise", lambda: mm.invalidating == 0)
    assert story.kvm.mmu_invalidate_seq.value == before
    story.go("madvise", lambda: page.refcount == 1)
    story.go("xen", lambda: gpc.valid)
    pte = mm.pte[1]
    assert (pte.present and pte.page is gpc.page) is not stale


def test_h16_the_cache_is_valid_before_there_is_a_page() -> None:
    """58cd407ca4c6: until v5.19 whoever looks meanwhile follows nothing."""
    story = refreshing("pfncache", "v5.18", page=0)
    (gpc,) = story.kvm.gpc_list
    assert gpc.valid and gpc.page is None
    story = refreshing("pfncache", "v5.19", page=0)
    (gpc,) = story.kvm.gpc_list
    assert not gpc.valid
