"""Scenarios of memslots that come and go."""

from __future__ import annotations

from mmuwitness.model.kvm.memslots import (
    KVM_MR_CREATE,
    KVM_MR_DELETE,
    KVM_MR_FLAGS_ONLY,
    KVM_MR_MOVE,
    kvm_vm_ioctl,
)
from mmuwitness.model.mm import ksm, memory
from mmuwitness.model.scenarios.scenario import (
    ONE_GFN,
    TWO_SLOTS,
    Actor,
    Scenario,
    private_beside_mapped_ksm_page,
    two_private_pages,
)


def madvise_all(mm):
    """The VMM drops all its pages at once, any number of times."""
    while True:
        memory.zap_page_range(mm, 0, mm.nr_addresses)


MEMSLOTS = (
    Scenario(
        "memslot_delete",
        "The VMM deletes a memslot and creates it again while ksmd merges a page of it and the"
        " guest reads that.  A neighbour in another memslot keeps the last-level table page.",
        "1 vCPU that reads, 2 gfns in one table page, 2 pages, any number of KSM merges and of"
        " deletions",
        private_beside_mapped_ksm_page,
        lambda host: [
            Actor("ksmd", ksm.ksmd, (host.mm,)),
            Actor("ioctl", kvm_vm_ioctl, (host.kvm, KVM_MR_DELETE, KVM_MR_CREATE)),
        ],
        {**TWO_SLOTS, "pages": 2, "read_gfns": 1, "written_gfns": 0},
    ),
    Scenario(
        "memslot_dontneed",
        "The VMM drops a guest page while another thread of it deletes the memslot and creates"
        " it again.",
        "1 vCPU, 1 gfn, 2 pages, any number of calls and of deletions",
        two_private_pages,
        lambda host: [
            Actor("madvise", memory.madvise_dontneed, (host.mm,)),
            Actor("ioctl", kvm_vm_ioctl, (host.kvm, KVM_MR_DELETE, KVM_MR_CREATE)),
        ],
        {**ONE_GFN, "updates_memslots": True},
    ),
    Scenario(
        "memslot_move",
        "The VMM moves a memslot to another gfn and back while another thread of it drops the page"
        " there.",
        "1 vCPU, 2 gfns in one table page, of which one is in a memslot, 2 pages, any number of"
        " calls and of moves",
        two_private_pages,
        lambda host: [
            Actor("madvise", memory.madvise_dontneed, (host.mm,)),
            Actor("ioctl", kvm_vm_ioctl, (host.kvm, KVM_MR_MOVE, KVM_MR_MOVE)),
        ],
        {**ONE_GFN, "updates_memslots": True, "moved_base_gfn": 1},
    ),
    Scenario(
        "memslot_flags",
        "The VMM sets a flag of a memslot and takes it back while another thread of it drops a"
        " page.",
        "1 vCPU, 1 gfn, 2 pages, any number of calls and of changes",
        two_private_pages,
        lambda host: [
            Actor("madvise", memory.madvise_dontneed, (host.mm,)),
            Actor("ioctl", kvm_vm_ioctl, (host.kvm, KVM_MR_FLAGS_ONLY, KVM_MR_FLAGS_ONLY)),
        ],
        {**ONE_GFN, "updates_memslots": True},
    ),
    Scenario(
        "memslot_alias",
        "Two memslots have one hva: the guest has the page at two gfns, and the VMM drops it.",
        "1 vCPU, 2 gfns in one table page, 2 pages, any number of calls",
        two_private_pages,
        lambda host: [Actor("madvise", memory.madvise_dontneed, (host.mm,))],
        {**ONE_GFN, "layout": ((0, 0, 1), (1, 0, 1))},
    ),
    Scenario(
        "memslot_spaces",
        "As memslot_alias, with the gfns in two address spaces (SMM): they share no table page.  In"
        " the first the memslot is deleted and created again.",
        "1 vCPU that reads, 2 gfns in two table pages, 2 pages, any number of calls and of"
        " deletions",
        two_private_pages,
        lambda host: [
            Actor("madvise", memory.madvise_dontneed, (host.mm,)),
            Actor("ioctl", kvm_vm_ioctl, (host.kvm, KVM_MR_DELETE, KVM_MR_CREATE)),
        ],
        {
            **ONE_GFN,
            "layout": ((0, 0, 1), (1, 0, 1)),
            "gfns_per_table": 1,
            "written_gfns": 0,
            "updates_memslots": True,
        },
    ),
    Scenario(
        "memslot_range",
        "The VMM drops a range of pages in one window: two memslots, of which the gfns are the"
        " other way round, and a page between them that is in none.",
        "1 vCPU, 2 gfns in one table page, 4 pages, any number of calls",
        two_private_pages,
        lambda host: [Actor("madvise", madvise_all, (host.mm,))],
        {"addresses": 3, "layout": ((1, 0, 1), (0, 2, 1))},
    ),
    Scenario(
        "memslot_mmio",
        "The guest uses a gfn that is in no memslot while the VMM drops the page at another.",
        "1 vCPU, 2 gfns in one table page, of which one is in a memslot, 2 pages, any number of"
        " calls",
        two_private_pages,
        lambda host: [Actor("madvise", memory.madvise_dontneed, (host.mm,))],
        {**ONE_GFN, "layout": ((1, 0, 1),), "caches_mmio": True},
    ),
)
