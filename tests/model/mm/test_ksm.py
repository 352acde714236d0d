"""Stories of mm/ksm.c: two windows, and what may happen in the gap between them."""

from __future__ import annotations

from mmuwitness.model.kvm.kvm_main import CHANGES, INSTALLS_READ_ONLY
from mmuwitness.model.mm.mm_types import Pte
from tests.model.story import Story

READ, WRITE = 0, 1


def begin(scenario: str, era: str, arch: str) -> Story:
    """The guest has written its page, and has it in its TLB."""
    story = Story(scenario, era, arch)
    assert story.do("vcpu0", WRITE) == ["kvm_page_fault"]
    story.do("vcpu0", WRITE)
    page, kpage = story.pages[0], story.pages[1]
    assert kpage.ksm and not page.ksm
    assert story.mm.pte[0] == Pte(present=True, write=True, dirty=True, page=page)
    assert story.kvm.spte[0].page is page and story.vcpus[0].tlb[0].write
    return story


def write_protect(story: Story) -> None:
    """ksmd goes through the first window and stops in the gap."""
    mm = story.mm
    story.go("ksmd", lambda: mm.open_windows[0] == 1)
    story.go("ksmd", lambda: mm.invalidating == 0)


def test_a_merge() -> None:
    story = begin("ksm", "v6.1", "x86-tdp")
    mm, kvm, tlb = story.mm, story.kvm, story.vcpus[0].tlb
    page, kpage = story.pages[0], story.pages[1]

    # First window: start() returns with nothing left in KVM; then the PTE is made read-only.
    story.go("ksmd", lambda: mm.open_windows[0] == 1)
    assert not kvm.spte[0].present and not tlb[0].present
    assert mm.pte[0].write and kvm.mmu_invalidate_in_progress == 1
    story.go("ksmd", lambda: mm.pte[0].present and not mm.pte[0].write)
    assert mm.pte[0] == Pte(present=True, page=page)
    story.go("ksmd", lambda: mm.invalidating == 0)
    assert kvm.mmu_invalidate_in_progress == kvm.mn_active_invalidate_count == 0

    # Second window: the same page still, then the KSM page.  The last reference is ksmd's own.
    story.go("ksmd", lambda: mm.open_windows[0] == 1)
    assert mm.pte[0].page is page
    story.go("ksmd", lambda: mm.pte[0].page is kpage)
    story.go("ksmd", lambda: mm.invalidating == 0)
    assert mm.pte[0] == Pte(present=True, page=kpage)
    assert (page.mapcount, kpage.mapcount) == (0, 2)
    assert not kpage.rmap[0]  # a rmap walk does not come here yet
    story.go("ksmd", lambda: page.refcount == 0)
    assert kpage.rmap[0]

    # The guest reads on after an exit, and may not write.
    assert story.do("vcpu0", READ) == ["kvm_page_fault"]
    assert kvm.spte[0].page is kpage and not kvm.spte[0].write
    assert story.do("vcpu0", READ) == []


def test_a_guest_write_in_the_gap_aborts_the_merge() -> None:
    story = begin("ksm", "v6.1", "x86-tdp")
    mm, kvm = story.mm, story.kvm
    page, kpage, new = story.pages
    write_protect(story)
    assert not mm.pte[0].write and page.lock.owner is not None

    # The page is not reused: ksmd holds its lock, and a reference.
    assert new.refcount == 0
    story.do("vcpu0", WRITE)
    assert mm.pte[0] == Pte(present=True, write=True, dirty=True, page=new)
    assert not kvm.spte[0].present  # its own COW closed a window meanwhile: the fault is retried
    story.do("vcpu0", WRITE)
    story.do("vcpu0", WRITE)  # the second walks to the SPTE, the third writes
    story.do("vcpu0", WRITE)
    assert kvm.spte[0].page is new and new.content != page.content

    # ksmd compares the PTE with what it left there, and goes without a change.
    before = mm.pte[0]
    story.go("ksmd", lambda: mm.open_windows[0] == 1)
    story.go("ksmd", lambda: mm.invalidating == 0)
    assert mm.pte[0] == before
    story.go("ksmd", lambda: page.refcount == 0)
    assert (kpage.mapcount, kpage.rmap[0], new.mapcount) == (1, False, 1)
    assert mm.written[0] == new.content and not mm.stale_load


def test_a_page_that_someone_refers_to_is_not_merged() -> None:
    story = Story("ksm", "v6.1", "x86-tdp")
    mm, page = story.mm, story.pages[0]
    story.go("vcpu0", lambda: page.refcount == 2, [WRITE])  # a fault has looked the page up
    before = mm.pte[0]
    story.go("ksmd", lambda: not mm.pte[0].present)
    story.go("ksmd", lambda: mm.invalidating == 0)
    assert mm.pte[0] == before and before.write  # it may be written to through that reference
    story.go("ksmd", lambda: page.refcount == 2)
    assert page.lock.owner is None

    # The fault finds that a window came and went, and is retried.
    story.finish("vcpu0")
    assert page.refcount == 1 and not story.kvm.spte[0].present


def test_on_arm64_the_guest_reads_on_without_an_exit() -> None:
    """What the x86 developers meant to be dead: a neighbour keeps the table page, and so
    change_pte has where to store the leaf that start() took away."""
    story = begin("ksm", "v6.1", "arm64")
    mm, kvm, kpage = story.mm, story.kvm, story.pages[1]
    assert kvm.spte[1].present and kvm.table[0]
    write_protect(story)
    story.seen.clear()
    story.go("ksmd", lambda: mm.pte[0].page is kpage)
    assert story.seen.count("kvm_set_spte_hva") == 1 and INSTALLS_READ_ONLY in story.seen
    assert kvm.spte[0].page is kpage and not kvm.spte[0].write
    assert mm.open_windows[0] == 1  # still inside the window
    assert story.do("vcpu0", READ) == []
    assert story.vcpus[0].tlb[0].page is kpage


def test_alone_in_its_table_page_it_exits() -> None:
    story = Story("ksm_alone", "v6.1", "arm64")
    story.do("vcpu0", WRITE)
    assert story.kvm.table[0]
    write_protect(story)
    assert not story.kvm.table[0]
    story.seen.clear()
    story.go("ksmd", lambda: story.mm.pte[0].page is story.pages[1])
    assert "kvm_set_spte_hva" in story.seen and INSTALLS_READ_ONLY not in story.seen
    story.go("ksmd", lambda: story.mm.invalidating == 0)
    assert story.do("vcpu0", READ) == ["kvm_page_fault"]


def test_in_v2_6_32_no_window_opens() -> None:
    story = begin("ksm", "v2.6.32", "x86-shadow")
    mm, kvm, kpage = story.mm, story.kvm, story.pages[1]
    story.seen.clear()
    story.go("ksmd", lambda: kvm.spte[0].page is kpage)
    assert story.seen[:2] == ["kvm_set_spte_hva", CHANGES]  # writable to read-only
    assert mm.invalidating == kvm.mmu_invalidate_in_progress == 0
    assert not kvm.spte[0].write and mm.pte[0].page is kpage  # the PTE came first
