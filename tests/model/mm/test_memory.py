"""Stories of mm/memory.c: copy-on-write, reuse, and pages that are dropped under a guest."""

from __future__ import annotations

from mmuwitness.model.mm.mm_types import UNKNOWN, Pte
from tests.model.story import Story


def test_a_guest_breaks_cow() -> None:
    story = Story("cow_migrate", "v6.1", "x86-tdp")
    mm, kvm = story.mm, story.kvm
    old, new, _ = story.pages
    read, write = 0, 2
    assert story.do("vcpu0", read) == ["kvm_page_fault"]
    assert kvm.spte[0].page is old and not kvm.spte[0].write and old.mapcount == 2

    # The fault copies the page, opens a window, and only then touches the PTE.
    story.go("vcpu0", lambda: mm.open_windows[0] == 1, [write])
    assert new.refcount == 1 and new.content == old.content
    assert mm.pte[0] == Pte(present=True, page=old) and not kvm.spte[0].present
    story.go("vcpu0", lambda: not mm.pte[0].present)
    assert mm.ptl.owner is not None
    story.go("vcpu0", lambda: mm.pte[0].present)
    assert mm.pte[0] == Pte(present=True, write=True, dirty=True, page=new)
    assert new.rmap[0] and new.lru
    story.go("vcpu0", lambda: mm.invalidating == 0)
    assert old.mapcount == 1 and not old.rmap[0]

    # Its own window moved the sequence: nothing is mapped yet, the guest faults once more.
    story.finish("vcpu0")
    assert not kvm.spte[0].present
    assert story.do("vcpu0", write) == ["kvm_page_fault"]
    assert kvm.spte[0].page is new and kvm.spte[0].write
    assert (old.refcount, new.refcount) == (1, 1)


def test_of_two_who_break_cow_one_throws_its_copy_away() -> None:
    story = Story("cow", "v6.1", "x86-tdp")
    mm, kvm = story.mm, story.kvm
    old, one, two, _ = story.pages
    guest_write, host_write = 2, 1
    story.go("vcpu0", lambda: one.refcount == 1, [guest_write])
    story.go("vmm", lambda: two.refcount == 1, [host_write])  # both have a copy of their own
    assert mm.pte[0].page is old and old.refcount == 2 + 2

    story.finish("vmm")
    assert mm.pte[0].page is two and mm.open_windows[0] == 0
    story.go("vcpu0", lambda: mm.open_windows[0] == 1)
    story.go("vcpu0", lambda: mm.open_windows[0] == 0)
    assert mm.pte[0].page is two  # under ptl it found another PTE than it had copied
    story.finish("vcpu0")
    assert one.refcount == 0
    assert (old.refcount, old.mapcount) == (1, 1)  # that of the other address
    assert (two.refcount, two.mapcount) == (1, 1)
    assert not kvm.spte[0].present  # retried: two windows came and went


def test_a_page_that_nobody_else_refers_to_is_reused() -> None:
    """ksmd protects a page and finds that it differs; the next write needs no copy, no window."""
    story = Story("ksm", "v6.1", "x86-tdp")
    mm, page = story.mm, story.pages[0]
    story.go("ksmd", lambda: mm.pte[0].present and not mm.pte[0].write)
    page.content = mm.written[0] = 1 - page.content  # somebody wrote just before
    story.go("ksmd", lambda: mm.invalidating == 0)
    story.go("ksmd", lambda: page.refcount == 1)
    assert mm.pte[0] == Pte(present=True, page=page)

    write = 1
    seen = story.do("vcpu0", write)
    assert "kvm_unmap_hva_range" not in seen and seen == ["kvm_page_fault"]
    assert mm.pte[0] == Pte(present=True, write=True, dirty=True, page=page)
    assert story.kvm.spte[0].page is page and story.kvm.spte[0].write


def test_a_dropped_page_is_freed_when_nobody_maps_it() -> None:
    story = Story("dontneed_one", "v6.1", "x86-tdp")
    mm, kvm = story.mm, story.kvm
    page, fresh = story.pages
    write = 1
    story.do("vcpu0", write)
    story.do("vcpu0", write)
    story.do("vcpu0", write)
    assert page.content == 1 == mm.written[0]

    story.go("madvise", lambda: mm.open_windows[0] == 1)
    assert not kvm.spte[0].present and not story.vcpus[0].tlb[0].present
    story.go("madvise", lambda: not mm.pte[0].present and mm.ptl.owner is None)
    assert page.refcount == 1 and mm.written[0] == UNKNOWN

    # The guest faults meanwhile: it gets a page of zeros from mm, but nothing from KVM yet.
    read = 0
    story.do("vcpu0", read)
    assert mm.pte[0].page is fresh and fresh.content == 0 == mm.written[0]
    assert not kvm.spte[0].present
    story.go("madvise", lambda: mm.invalidating == 0)
    assert page.refcount == 1
    story.go("madvise", lambda: page.refcount == 0)
    assert story.do("vcpu0", read) == ["kvm_page_fault"]
    assert kvm.spte[0].page is fresh


def test_a_host_write_goes_through_the_hosts_own_tlb() -> None:
    story = Story("cow", "v6.1", "x86-tdp")
    mm, old = story.mm, story.pages[0]
    read, write = 0, 1
    story.do("vmm", read)
    assert mm.tlb[0] == Pte(present=True, page=old)
    story.do("vmm", write)  # breaks COW, which flushes the entry
    new = mm.pte[0].page
    assert new is not old and not mm.tlb[0].present
    story.do("vmm", write)  # walks
    story.do("vmm", write)  # writes
    assert mm.tlb[0].page is new and new.content == mm.written[0] != old.content
