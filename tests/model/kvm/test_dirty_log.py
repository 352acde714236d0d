"""Stories of the dirty log, of faults without mmu_lock, and of aging."""

from __future__ import annotations

import pytest

from tests.model.story import Story

READ, WRITE = 0, 1


def logging(era: str, arch: str) -> Story:
    """vcpu0 has written, the VMM has turned logging on and sent the page."""
    story = Story("dirty_log", era, arch)
    story.do("vcpu0", WRITE)
    story.do("vcpu0", WRITE)
    story.go("migration", lambda: story.kvm.sent[0])
    return story


def read_log(story: Story) -> None:
    """On to the end of the next KVM_GET_DIRTY_LOG."""
    kvm = story.kvm
    story.go("migration", lambda: kvm.slots_lock.owner is not None)
    story.go("migration", lambda: kvm.slots_lock.owner is None)


@pytest.mark.parametrize(("arch", "era"), [("x86-tdp", "v6.1"), ("arm64", "v6.1")])
def test_what_is_written_after_it_was_sent_is_in_the_log(arch: str, era: str) -> None:
    story = logging(era, arch)
    kvm, tlb = story.kvm, story.vcpus[0].tlb
    assert kvm.spte[0].present and not kvm.spte[0].write and not tlb[0].present
    assert not kvm.dirty_bitmap[0]
    story.go("vcpu0", lambda: kvm.spte[0].write, [WRITE])
    story.finish("vcpu0")
    assert kvm.dirty_bitmap[0] and not tlb[0].present

    read_log(story)
    assert kvm.dirty_log[0] and not kvm.dirty_bitmap[0] and not kvm.spte[0].write


def test_another_vcpu_writes_before_the_first_has_put_it_into_the_log() -> None:
    """The log is empty, the page is not as it was sent, and nothing is lost: it will be there."""
    story = logging("v6.1", "x86-tdp")
    mm, kvm, log = story.mm, story.kvm, story.kvm.dirty_log
    story.go("vcpu0", lambda: kvm.spte[0].write, [WRITE])
    assert kvm.mmu_lock.owner is None and not kvm.mmu_lock.readers
    story.do("vcpu1", WRITE)
    story.do("vcpu1", WRITE)
    assert kvm.sent[0] != 1 + mm.written[0]
    read_log(story)
    assert not log[0] and kvm.unmarked[0] == 1

    story.finish("vcpu0")
    read_log(story)
    assert log[0] and kvm.unmarked[0] == 0


@pytest.mark.parametrize(("era", "lock"), [("v5.10", True), ("v6.1", False)])
def test_since_v5_15_the_tdp_mmu_fixes_write_protection_without_mmu_lock(
    era: str, lock: bool
) -> None:
    story = logging(era, "x86-tdp")
    kvm, page = story.kvm, story.pages[0]
    story.go("vcpu0", lambda: kvm.spte[0].write or page.refcount == 2, [WRITE])
    assert (page.refcount == 2) is lock


@pytest.mark.parametrize(("arch", "writable"), [("x86-tdp", True), ("arm64", False)])
def test_a_read_fault_in_a_logged_memslot(arch: str, writable: bool) -> None:
    """x86 maps it writable, and logs that; arm64 waits for the write."""
    story = Story("dirty_log", "v6.1", arch)
    kvm = story.kvm
    story.go("migration", lambda: kvm.sent[0])
    story.do("vcpu0", READ)
    assert kvm.spte[0].present and kvm.spte[0].write is kvm.dirty_bitmap[0] is writable


@pytest.mark.parametrize(("era", "flushes"), [("v6.12", True), ("v6.13", False)])
def test_aging_leaves_the_leaf_and_flushes_until_v6_13(era: str, flushes: bool) -> None:
    story = Story("aging", era, "x86-tdp")
    kvm, mm, tlb = story.kvm, story.mm, story.vcpus[0].tlb
    story.do("vcpu0", READ)
    story.do("vcpu0", READ)
    assert tlb[0].present and not kvm.spte[0].aged
    assert story.do("kswapd", 0) == ["kvm_age_hva"]
    assert kvm.spte[0].present and kvm.spte[0].aged
    assert tlb[0].present is not flushes
    story.do("vcpu0", READ)
    assert kvm.spte[0].aged is not flushes  # only a walk makes it young
    assert mm.pte[0].present


def test_a_young_page_is_not_reclaimed() -> None:
    story = Story("reclaim_aging", "v6.1", "x86-tdp")
    story.do("vcpu0", READ)
    story.do("kswapd", 0)
    assert story.mm.pte[0].present
    story.do("kswapd", 0)
    assert story.mm.pte[0].swap
