"""H10: mmu_lock is dropped while leaves of another root wait for their flush."""

from __future__ import annotations

from mmuwitness.model.bugs.bug import Bug
from mmuwitness.model.features.feature import PATCH
from mmuwitness.model.kvm.memslots import KVM_MR_DELETE, kvm_set_memory_region
from mmuwitness.model.mm.memory import zap_page_range, zap_page_range_single
from mmuwitness.model.scenarios.scenario import TWO_SLOTS, Actor, Scenario, two_private_pages

BUG = Bug(
    id="H10",
    text="A zap goes from root to root, and drops mmu_lock in the second one without a flush of"
    " what it zapped in the first. Somebody else's start() finds these leaves gone, flushes"
    " nothing, and the page is freed under a TLB entry.",
    commit="a835429cda91",
    subject="KVM: x86/mmu: Ensure TLBs are flushed when yielding during GFN range zap",
    release="v5.12",
    source=PATCH,
    reference="Found by inspection, with commit 048f49809c52. In v5.10.30, too. Notifiers did not"
    " yield then, so the kernel here is a later one, whose second root is an invalid one.",
    claim="no_stale_tlb_entry",
    scenario=Scenario(
        "dontneed_roots",
        "Two threads of the VMM drop guest pages, one of them two at once, while a third one"
        " deletes another memslot; the zap may drop mmu_lock.",
        "1 vCPU that reads, 3 gfns in two table pages, 3 pages, 1 call of each",
        two_private_pages,
        lambda host: [
            Actor("madvise0", zap_page_range, (host.mm, 1, 3)),
            Actor("madvise1", zap_page_range_single, (host.mm, 1)),
            Actor("ioctl", kvm_set_memory_region, (host.kvm, KVM_MR_DELETE)),
        ],
        {
            **TWO_SLOTS,
            "addresses": 3,
            "slot_pages": 3,
            "pages": 3,
            "replaces_roots": True,
            "yields": True,
            "read_gfns": 2,
            "written_gfns": 0,
        },
    ),
    arch="x86-tdp",
    era="v5.18",
    without=("x86_tdp_flush_before_yield",),
)
