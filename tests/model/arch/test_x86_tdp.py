"""Stories of arch/x86/kvm/mmu/tdp_mmu.c: a zap that yields, and a root that is replaced."""

from __future__ import annotations

import pytest

from mmuwitness.model.kvm.kvm_host import GONE
from tests.model.story import Story

FIRST, SECOND = 0, 1
YIELD = 1


def mapped(scenario: str, era: str, arch: str) -> Story:
    """Both gfns are mapped, and in the vCPU's TLB."""
    story = Story(scenario, era, arch)
    for gfn in (FIRST, SECOND):
        story.do("vcpu0", gfn)  # it faults
        story.do("vcpu0", gfn)  # and loads
        assert story.vcpus[0].tlb[gfn].present
    return story


def yielded(era: str, arch: str) -> Story:
    """start() has zapped the first of two gfns and dropped mmu_lock."""
    story = mapped("dontneed_both", era, arch)
    kvm = story.kvm
    story.go("madvise", lambda: not kvm.spte[FIRST].present)
    story.go("madvise", lambda: kvm.mmu_lock.owner is None, [YIELD, YIELD])
    assert story.mm.open_windows[FIRST] == 0 and kvm.spte[SECOND].present
    return story


@pytest.mark.parametrize(("era", "arch"), [("v6.12", "x86-tdp"), ("v6.12", "x86-shadow"),
                                           ("v6.12", "arm64"), ("v6.12", "riscv")])  # fmt: skip
def test_a_yield_leaves_nothing_to_flush(era: str, arch: str) -> None:
    story = yielded(era, arch)
    tlb = story.vcpus[0].tlb
    assert not tlb[FIRST].present
    if arch == "arm64":
        assert tlb[SECOND].present  # a TLBI for each leaf

    story.go("madvise", lambda: story.mm.open_windows[FIRST] == 1)
    assert not story.kvm.spte[SECOND].present and not tlb[SECOND].present


def test_a_fault_that_comes_with_the_yield_is_retried() -> None:
    story = yielded("v6.12", "x86-tdp")
    assert story.kvm.mmu_invalidate_in_progress == 1
    story.do("vcpu0", FIRST)
    assert not story.kvm.spte[FIRST].present
    story.do("vcpu0", SECOND)
    assert story.vcpus[0].tlb[SECOND].page is story.pages[SECOND]  # not zapped yet


@pytest.mark.parametrize(("era", "arch"), [("v5.12", "x86-tdp"), ("v6.11", "x86-shadow"),
                                           ("v4.10", "arm64"), ("v6.12", "mips")])  # fmt: skip
def test_others_hold_mmu_lock_to_the_end(era: str, arch: str) -> None:
    story = mapped("dontneed_both", era, arch)
    kvm = story.kvm
    story.go("madvise", lambda: not kvm.spte[FIRST].present)
    story.go("madvise", lambda: kvm.mmu_lock.owner is None, [YIELD, YIELD])
    assert not kvm.spte[SECOND].present and not story.vcpus[0].tlb[SECOND].present


def invalidated(era: str) -> Story:
    """The first memslot is being deleted, the root is invalid and not zapped yet."""
    story = mapped("memslot_roots", era, "x86-tdp")
    kvm = story.kvm
    story.go("ioctl", lambda: story.vcpus[0].root_invalid and kvm.mmu_lock.owner is None)
    assert kvm.invalid_spte[SECOND].page is story.pages[SECOND] and not kvm.spte[SECOND].present
    assert not story.vcpus[0].tlb[SECOND].present
    return story


def test_a_vcpu_loads_another_root_before_it_enters_the_guest() -> None:
    story = invalidated("v6.12")
    kvm, vcpu = story.kvm, story.vcpus[0]
    story.do("vcpu0", SECOND)
    assert not vcpu.root_invalid and kvm.tdp_mmu_root_count == 1  # that of the update
    story.do("vcpu0", SECOND)
    assert kvm.spte[SECOND].present and kvm.invalid_spte[SECOND].present
    story.go("ioctl", lambda: kvm.active_memslots == GONE)
    assert not kvm.invalid_spte[SECOND].present and kvm.tdp_mmu_root_count == 0


@pytest.mark.parametrize(("era", "zapped"), [("v5.13", False), ("v5.16.18", False),
                                             ("v5.16.19", True), ("v6.12", True)])  # fmt: skip
def test_h8_start_zaps_in_invalid_roots(era: str, zapped: bool) -> None:
    story = invalidated(era)
    story.go("madvise", lambda: story.mm.open_windows[SECOND] == 1)
    assert story.kvm.invalid_spte[SECOND].present is not zapped


@pytest.mark.parametrize(("era", "maps"), [("v5.15", True), ("v5.16", False), ("v6.12", False)])
def test_h11_a_fault_looks_at_its_root_again(era: str, maps: bool) -> None:
    story = Story("memslot_roots", era, "x86-tdp")
    kvm, page = story.kvm, story.pages[SECOND]
    # The memslot is INVALID and nobody is left who knew it otherwise; the fault of the other one
    # begins, and has looked its page up when the root becomes invalid.
    story.go("ioctl", lambda: kvm.mmu_lock.owner is not None)
    assert not story.vcpus[0].root_invalid
    story.go("vcpu0", lambda: page.refcount == 2, [SECOND])
    story.go("ioctl", lambda: kvm.active_memslots == GONE)
    assert story.vcpus[0].root_invalid
    story.finish("vcpu0")
    assert kvm.invalid_spte[SECOND].present is maps and not kvm.spte[SECOND].present
