"""Stories of virt/kvm/kvm_main.c: a guest fault that meets an invalidation."""

from __future__ import annotations

import pytest

from mmuwitness.model.kvm.kvm_host import GONE, INVALID
from mmuwitness.model.kvm.kvm_main import IN_INVALID_SLOT, INSTALLS_READ_ONLY
from tests.model.story import Story

READ, WRITE = 0, 1


def looked_up(scenario: str, era: str, arch: str, access: int = READ) -> Story:
    """A guest fault that holds a reference to the page that it found, and no lock."""
    story = Story(scenario, era, arch)
    story.go("vcpu0", lambda: story.pages[0].refcount == 2, [access])
    assert story.seen == ["kvm_page_fault"]
    return story


def test_the_count_stops_a_fault_while_a_window_is_open() -> None:
    story = looked_up("dontneed_one", "v6.1", "x86-tdp")
    mm, kvm, page = story.mm, story.kvm, story.pages[0]
    story.go("madvise", lambda: mm.open_windows[0] == 1)
    assert kvm.mmu_invalidate_in_progress == 1

    story.finish("vcpu0")
    assert not kvm.spte[0].present and page.refcount == 1  # it put the page and mapped nothing
    assert mm.pte[0].page is page  # though the PTE has not changed yet


def test_the_sequence_stops_a_fault_after_a_window_came_and_went() -> None:
    story = looked_up("dontneed_one", "v6.1", "x86-tdp")
    mm, kvm, page = story.mm, story.kvm, story.pages[0]
    before = kvm.mmu_invalidate_seq.value
    story.go("madvise", lambda: mm.invalidating == 1)
    story.go("madvise", lambda: mm.invalidating == 0)
    assert kvm.mmu_invalidate_in_progress == 0
    assert kvm.mmu_invalidate_seq.value == before + 1
    assert not mm.pte[0].present and page.refcount == 2

    story.finish("vcpu0")
    assert not kvm.spte[0].present


def test_a_fault_that_comes_first_is_zapped() -> None:
    story = looked_up("dontneed_one", "v6.1", "x86-tdp")
    mm, kvm, page = story.mm, story.kvm, story.pages[0]
    story.go("vcpu0", lambda: kvm.mmu_lock.readers)
    story.blocks("madvise")
    assert mm.invalidating == 1 and kvm.mmu_invalidate_in_progress == 0

    story.finish("vcpu0")
    assert kvm.spte[0].page is page
    story.do("vcpu0", READ)
    assert story.vcpus[0].tlb[0].page is page
    story.go("madvise", lambda: mm.open_windows[0] == 1)
    assert not kvm.spte[0].present and not story.vcpus[0].tlb[0].present


@pytest.mark.parametrize(
    ("arch", "era", "maps"),
    [("x86-tdp", "v5.10", False), ("x86-tdp", "v6.1", True), ("arm64", "v6.1", False)],
)
def test_a_window_over_another_gfn_stops_those_who_do_not_look(
    arch: str, era: str, maps: bool
) -> None:
    """Since v5.12 x86 asks whether the fault's own address is in the window; arm64 never does."""
    story = Story("dontneed", era, arch)
    mm, second = story.mm, 1
    story.go("madvise", lambda: mm.open_windows[1] == 1, [second])
    assert mm.open_windows[0] == 0
    story.do("vcpu0", READ)
    assert story.kvm.spte[0].present is maps


@pytest.mark.parametrize(("era", "elides"), [("v5.13", False), ("v5.15", True), ("v6.1", True)])
def test_a_window_outside_every_memslot_takes_no_mmu_lock(era: str, elides: bool) -> None:
    """Since v5.15 (52ac8b358b0c): nothing counts it but mn_active_invalidate_count."""
    story = Story("ksm_one", era, "x86-tdp")
    mm, kvm, outside = story.mm, story.kvm, 1
    before = kvm.mmu_invalidate_seq.value
    story.go("ksmd", lambda: kvm.mmu_lock.owner is not None or mm.open_windows[1], [outside])
    assert (kvm.mmu_lock.owner is None) is elides
    story.go("ksmd", lambda: mm.open_windows[1] == 1)
    assert kvm.mmu_invalidate_in_progress == (0 if elides else 1)
    assert kvm.mn_active_invalidate_count == (1 if elides else 0)
    story.go("ksmd", lambda: mm.invalidating == 0)
    assert kvm.mmu_invalidate_seq.value - before == (0 if elides else 1)


def test_windows_over_one_page_are_counted() -> None:
    story = Story("cow", "v6.1", "x86-tdp")
    mm, kvm = story.mm, story.kvm
    guest_write, host_write = 2, 1
    story.go("vcpu0", lambda: mm.open_windows[0] == 1, [guest_write])
    story.go("vmm", lambda: mm.open_windows[0] == 2, [host_write])
    assert kvm.mmu_invalidate_in_progress == kvm.mn_active_invalidate_count == 2
    story.go("vmm", lambda: mm.invalidating == 1)
    assert kvm.mmu_invalidate_in_progress == 1
    story.go("vcpu0", lambda: mm.invalidating == 0)
    assert kvm.mmu_invalidate_in_progress == kvm.mn_active_invalidate_count == 0


def test_r1_a_leaf_survives_the_window_of_another() -> None:
    """Compaction's start() comes before change_pte, and its unmapping after: what change_pte
    installed is there when the window closes, and the page that it maps is moved away."""
    story = Story("cow_migrate", "v6.1", "arm64")
    mm, kvm = story.mm, story.kvm
    _, new, moved = story.pages
    neighbour, write = 1, 2
    story.do("vcpu0", neighbour)
    assert kvm.table[0]

    story.go("vcpu0", lambda: new.lru and not mm.pte[0].present, [write])  # under ptl
    assert mm.ptl.owner is not None and kvm.mmu_invalidate_in_progress == 1
    story.go("kcompactd", lambda: kvm.mmu_invalidate_in_progress == 2, [1])
    story.go("kcompactd", lambda: mm.open_windows[0] == 2)  # it found nothing to zap
    story.go("vcpu0", lambda: mm.invalidating == 1)
    assert INSTALLS_READ_ONLY in story.seen and kvm.crowded
    assert kvm.spte[0].page is new is mm.pte[0].page

    story.go("kcompactd", lambda: mm.pte[0].migration)
    story.go("kcompactd", lambda: mm.invalidating == 0)
    assert kvm.spte[0].page is new and not mm.pte[0].present
    story.go("kcompactd", lambda: new.refcount == 0)
    assert mm.pte[0].page is moved
    assert kvm.spte[0].present and kvm.spte[0].page is new  # and new is free


@pytest.mark.parametrize(
    ("arch", "era", "mmio"),
    [
        ("x86-tdp", "v5.12", True),
        ("x86-tdp", "v5.12.4", False),
        ("x86-tdp", "v5.13", False),
        ("x86-shadow", "v6.12", False),
        ("arm64", "v6.1", True),
    ],
)
def test_a_fault_in_a_memslot_that_is_being_deleted(arch: str, era: str, mmio: bool) -> None:
    """x86 retries since e0c378684b65 in v5.13; else it is MMIO, as where no memslot is."""
    story = Story("memslot_dontneed", era, arch)
    kvm = story.kvm
    story.go("ioctl", lambda: kvm.active_memslots == INVALID)
    exits = ["kvm_page_fault", "kvm_mmio"]
    assert story.do("vcpu0", READ) == exits[: 1 + mmio]
    story.go("ioctl", lambda: kvm.active_memslots == GONE)
    assert story.do("vcpu0", READ) == exits
    assert not kvm.spte[0].present


def test_a_deletion_waits_for_faults_that_have_begun_and_not_for_later_readers() -> None:
    story = looked_up("memslot_dontneed", "v6.12", "x86-tdp")
    mm, kvm, page = story.mm, story.kvm, story.pages[0]
    assert list(kvm.srcu_readers.items) == [1, 0]
    story.blocks("ioctl")
    assert kvm.active_memslots == INVALID and kvm.srcu_idx == 1
    story.go("madvise", lambda: kvm.srcu_readers[1] == 1)

    story.finish("vcpu0")
    assert kvm.spte[0].page is page  # it found the memslot as it was
    story.go("ioctl", lambda: not kvm.spte[0].present)
    assert list(kvm.srcu_readers.items) == [0, 1]
    story.blocks("ioctl")
    assert kvm.active_memslots == INVALID and kvm.mn_active_invalidate_count == 1
    story.go("madvise", lambda: mm.invalidating == 0)
    story.go("ioctl", lambda: kvm.active_memslots == GONE)


@pytest.mark.parametrize(("era", "installs"), [("v6.3", True), ("v6.4", False)])
def test_h2_the_guest_reads_ram_where_no_memslot_is(era: str, installs: bool) -> None:
    """2230f9e1171a: start() finds nothing in the flushed memslot, change_pte maps into it."""
    story = Story("memslot_delete", era, "arm64")
    mm, kvm, tlb = story.mm, story.kvm, story.vcpus[0].tlb
    story.go("vcpu0", lambda: tlb[0].present)
    story.go("ioctl", lambda: not kvm.spte[0].present)
    story.go("ioctl", lambda: kvm.mmu_lock.owner is None)
    assert kvm.active_memslots == INVALID and kvm.table[0]  # the neighbour's

    story.go("ksmd", lambda: mm.invalidating == 1)
    story.go("ksmd", lambda: mm.invalidating == 0)
    marks = {IN_INVALID_SLOT, INSTALLS_READ_ONLY}
    assert marks.intersection(story.seen) == (marks if installs else set())
    assert kvm.spte[0].present is installs
    story.go("ioctl", lambda: kvm.active_memslots == GONE)
    story.seen.clear()
    story.go("vcpu0", lambda: tlb[0].present or "kvm_mmio" in story.seen)
    assert story.seen == ([] if installs else ["kvm_page_fault", "kvm_mmio"])
