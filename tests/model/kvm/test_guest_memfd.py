"""Stories of virt/kvm/guest_memfd.c and memory attributes: faults meet a window of KVM's own."""

from __future__ import annotations

from tests.model.story import Story

READ = 0


def test_a_hole_is_punched_under_a_fault() -> None:
    story = Story("private_punch", "v6.12", "x86-tdp")
    kvm, gmem = story.kvm, story.kvm.gmem
    story.go("vcpu0", lambda: gmem.page[0] is not None and gmem.page[0].refcount == 2, [READ])
    page = gmem.page[0]
    story.go("fallocate", lambda: gmem.page[0] is None)
    assert kvm.mmu_invalidate_in_progress == 1 and kvm.mn_active_invalidate_count == 0
    story.go("fallocate", lambda: kvm.mmu_invalidate_in_progress == 0)
    story.go("fallocate", lambda: kvm.mmu_lock.owner is None)
    assert page.refcount == 1  # the fault's
    story.finish("vcpu0")
    assert not kvm.spte[0].present and page.refcount == 0

    story.do("vcpu0", READ)
    assert kvm.spte[0].page is gmem.page[0] is not None


def test_the_guest_has_the_page_of_the_file_or_that_of_the_vmm() -> None:
    story = Story("private_convert", "v6.12", "x86-tdp")
    mm, kvm, private = story.mm, story.kvm, 1
    story.do("vcpu0", READ)
    assert kvm.spte[0].page is mm.pte[0].page
    story.go("ioctl", lambda: kvm.mem_attr_array[0], [0, private])
    assert not kvm.spte[0].present and kvm.mmu_invalidate_in_progress == 1
    assert story.do("vcpu0", READ) == ["kvm_page_fault"]
    assert not kvm.spte[0].present
    story.finish("ioctl")
    story.do("vcpu0", READ)
    assert kvm.spte[0].page is kvm.gmem.page[0]
    assert mm.pte[0].page is story.pages[0]  # the primary MMU knows nothing of it


def test_a_fault_that_began_before_the_conversion_goes_back() -> None:
    story = Story("private_convert", "v6.12", "x86-tdp")
    kvm, private = story.kvm, 1
    story.go("vcpu0", lambda: story.pages[0].refcount == 2, [READ])
    story.go("ioctl", lambda: kvm.mem_attr_array[0], [0, private])
    story.finish("ioctl")
    story.finish("vcpu0")
    assert not kvm.spte[0].present
