"""Stories of kernel/fork.c: a child that shares guest memory."""

from __future__ import annotations

from mmuwitness.model.mm.mm_types import Pte
from tests.model.story import Story

READ, WRITE = 0, 1


def test_parent_and_child_share_until_one_writes() -> None:
    story = Story("fork", "v6.1", "x86-tdp")
    mm, kvm = story.mm, story.kvm
    child = story.replay.host.children[0]
    shared, copy, _ = story.pages
    story.do("vcpu0", WRITE)
    assert kvm.spte[0].write

    story.finish("fork")  # on to what the child does first
    assert mm.pte[0] == child.pte[0] == Pte(present=True, dirty=True, page=shared)
    assert shared.mapcount == 2 and not kvm.spte[0].present
    story.do("vcpu0", READ)
    assert kvm.spte[0].page is shared and not kvm.spte[0].write
    story.do("vcpu0", WRITE)
    assert mm.pte[0].page is copy and child.pte[0].page is shared
    story.do("fork", 2)  # the child exits, and there is another one
    assert (shared.refcount, shared.mapcount) == (0, 0)
    assert child.pte[0].page is mm.pte[0].page is copy


def test_a_pin_fails_while_fork_write_protects() -> None:
    story = Story("fork_dma", "v6.1", "x86-tdp")
    mm, page = story.mm, story.pages[0]
    story.go("fork", lambda: mm.write_protect_seq.odd)
    for _ in range(3):
        story.step("vfio")
    assert page.pincount == 0 and mm.pte[0].write
