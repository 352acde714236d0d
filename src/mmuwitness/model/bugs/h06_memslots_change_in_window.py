"""H6: start() and end() do not see the same memslots."""

from __future__ import annotations

from mmuwitness.model.bugs.bug import Bug
from mmuwitness.model.features.feature import SOURCE
from mmuwitness.model.kvm.memslots import KVM_MR_CREATE, KVM_MR_DELETE, kvm_set_memory_region
from mmuwitness.model.mm.memory import madvise_dontneed
from mmuwitness.model.scenarios.scenario import Actor, Scenario, two_private_pages


def delete_and_create(kvm):
    kvm_set_memory_region(kvm, KVM_MR_DELETE)
    kvm_set_memory_region(kvm, KVM_MR_CREATE)


BUG = Bug(
    id="H6",
    text="start() and end() count only where a memslot is hit, and nothing keeps memslot updates"
    " out of the window between them: the count stays up for ever, or goes below 0.",
    commit="52ac8b358b0c",
    subject="KVM: Block memslot updates across range_start() and range_end()",
    release="v5.15",
    source=SOURCE,
    reference="Commit 071064f14d87, which elides the lock, came after it: an earlier version was"
    " dropped from v5.13.",
    claim="windows_balanced",
    scenario=Scenario(
        "memslot_once",
        "As memslot_dontneed, with one deletion: counts that go wrong stay in their ranges.",
        "1 vCPU, 1 gfn, 2 pages, any number of calls, 1 deletion",
        two_private_pages,
        lambda host: [
            Actor("madvise", madvise_dontneed, (host.mm,)),
            Actor("ioctl", delete_and_create, (host.kvm,)),
        ],
        {"addresses": 1, "slot_pages": 1, "pages": 2, "updates_memslots": True},
    ),
    arch="x86-tdp",
    era="v5.15",
    without=("mn_active_invalidate_count",),
)
