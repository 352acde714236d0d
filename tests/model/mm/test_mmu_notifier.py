"""Stories of mm/mmu_notifier.c: who is told, and in which order; who comes, and who leaves."""

from __future__ import annotations

import pytest

from mmuwitness.model.era import Era
from mmuwitness.model.host import find_arch
from mmuwitness.model.mm.mmu_notifier import UNLINKED_TWICE
from mmuwitness.model.scenarios import SCENARIOS
from tests.model.story import Story


def test_a_second_vm_has_all_of_its_own() -> None:
    host = SCENARIOS["two_vms"].host(Era("v6.1"), find_arch("x86-tdp"))
    older, newer = host.kvms
    assert host.mm.notifier_subscriptions == [newer.mmu_notifier, older.mmu_notifier]
    assert [vcpu.kvm for vcpu in host.vcpus] == [older, newer]
    assert (older.vcpus, newer.vcpus) == ([host.vcpus[0]], [host.vcpus[1]])
    assert [(slot.userspace_addr, slot.npages) for slot in (*older.memslots, *newer.memslots)] == [
        (0, 2),
        (1, 1),
    ]
    assert older.mmu_lock is not newer.mmu_lock
    assert older.mmu_invalidate_seq is not newer.mmu_invalidate_seq


def test_the_newest_subscriber_is_told_first() -> None:
    story = Story("two_vms_ksm", "v6.1", "arm64")
    older, newer = story.replay.host.kvms
    story.go("vcpu0", lambda: older.spte[0].present and older.mmu_lock.owner is None)
    story.go("vcpu1", lambda: newer.spte[0].present and newer.mmu_lock.owner is None)
    assert older.spte[0].page is newer.spte[0].page is story.pages[0]
    story.go("ksmd", lambda: newer.mmu_invalidate_in_progress == 1 and not newer.spte[0].present)
    assert older.mmu_invalidate_in_progress == 0 and older.spte[0].present
    story.go("ksmd", lambda: story.mm.open_windows[0] == 1)
    assert older.mmu_invalidate_in_progress == 1 and not older.spte[0].present
    story.go("ksmd", lambda: newer.mmu_invalidate_in_progress == 0)
    assert older.mmu_invalidate_in_progress == 1


def test_a_window_that_hits_one_of_two_vms() -> None:
    """Since v5.15 the other's mmu_lock is not taken, so its faults are not retried."""
    story = Story("two_vms", "v6.1", "x86-tdp")
    older, newer = story.replay.host.kvms
    story.go("madvise", lambda: story.mm.open_windows[0] == 1, [0])
    assert (older.mmu_invalidate_in_progress, newer.mmu_invalidate_in_progress) == (1, 0)
    assert older.mn_active_invalidate_count == newer.mn_active_invalidate_count == 1
    story.go("vcpu1", lambda: newer.spte[0].present)


def test_who_leaves_in_a_window_is_not_told_of_its_end() -> None:
    story = Story("vm_lifetime", "v6.1", "x86-tdp")
    mm, kvm = story.mm, story.kvm
    story.go("vcpu0", lambda: mm.hashed[0] and mm.mmap_lock.owner is None)
    story.go("madvise", lambda: mm.open_windows[0] == 1)
    assert kvm.mmu_invalidate_in_progress == kvm.mn_active_invalidate_count == 1
    story.go("vcpu0", lambda: mm.gone[0])
    story.go("madvise", lambda: mm.invalidating == 0 and not mm.mmap_lock.readers)
    assert kvm.mmu_invalidate_in_progress == 1
    story.go("vcpu0", lambda: mm.hashed[0])  # the next VM
    assert kvm.mmu_invalidate_in_progress == kvm.mn_active_invalidate_count == 0


def test_nobody_comes_in_the_middle_of_a_window() -> None:
    story = Story("vm_lifetime", "v6.1", "x86-tdp")
    story.go("madvise", lambda: story.mm.open_windows[0] == 1)
    story.blocks("vcpu0")
    assert not story.mm.hashed[0]
    mm = story.mm
    story.go("madvise", lambda: mm.invalidating == 0 and not mm.mmap_lock.readers)
    story.go("vcpu0", lambda: story.mm.hashed[0])


@pytest.mark.parametrize(("era", "released_first"), [("v3.5", False), ("v3.6", True)])
def test_whether_kvm_is_released_while_it_is_on_the_list(era: str, released_first: bool) -> None:
    story = Story("exit_destroy", era, "x86-shadow")
    mm, kvm = story.mm, story.kvm
    story.go("close", lambda: not kvm.spte[0].present or not mm.hashed[0])
    assert mm.hashed[0] == released_first == (not kvm.spte[0].present)


@pytest.mark.parametrize(("era", "twice"), [("v3.8", True), ("v3.9", False), ("v3.10", False)])
def test_two_take_one_off_the_list(era: str, twice: bool) -> None:
    """As the commit has it: t1 and t3, t2, t5, t8."""
    story = Story("exit_destroy", era, "x86-shadow")
    mm = story.mm
    if era != "v3.9":
        story.go("exit", lambda: mm.srcu_readers[0] == 1)
        story.go("exit", lambda: mm.srcu_readers[0] == 0)
        story.go("close", lambda: mm.srcu_readers[0] == 1)
    story.go("exit", lambda: not mm.hashed[0] and mm.subscriptions_lock.owner is None)
    if era == "v3.9":  # the list is emptied inside of the section
        story.go("exit", lambda: mm.srcu_readers[0] == 0)
    story.seen.clear()
    story.go("close", lambda: mm.gone[0] or UNLINKED_TWICE in story.seen)
    assert (UNLINKED_TWICE in story.seen) == twice
