"""R3: what H10 was between roots, between memslots."""

from __future__ import annotations

from mmuwitness.model.bugs.bug import Bug
from mmuwitness.model.features.feature import PATCH
from mmuwitness.model.kvm.kvm_main import kvm_flush_remote_tlbs, kvm_handle_memslot
from mmuwitness.model.mm.memory import zap_page_range, zap_page_range_single
from mmuwitness.model.scenarios.scenario import Actor, Scenario, two_private_pages


def kvm_handle_memslots(kvm, slots, range):
    """With a flush that no kernel has: nothing is left to flush when the next memslot's turn is."""
    range.on_lock(kvm, range)
    for slot in kvm.memslots:
        if kvm_handle_memslot(kvm, slots, slot, range) and range.flush_on_ret:
            kvm_flush_remote_tlbs(kvm)
    return False


BUG = Bug(
    id="R3",
    text="A window lies over two memslots. What was zapped in the first is flushed at the end; in"
    " the second the zap drops mmu_lock and knows nothing of that. Somebody else's start() over"
    " the first flushes nothing, and the page is freed under a TLB entry.",
    commit="e1eed5847b09",
    subject="KVM: x86/mmu: Allow yielding during MMU notifier unmap/zap, if possible",
    release="v5.13",
    source=PATCH,
    reference="A result of this model, and about it; not reported, as far as is known. What was"
    " read: the handler of each memslot begins with nothing to flush. It wants two windows over one"
    " page at once, of which one spans memslots: a large MADV_DONTNEED, and reclaim.",
    claim="no_stale_tlb_entry",
    scenario=Scenario(
        "dontneed_two_slots",
        "Two threads of the VMM drop the same guest page, one of them with all that follows, in"
        " another memslot; the zap may drop mmu_lock.",
        "1 vCPU that reads, 3 gfns in two table pages, 3 pages, 1 call of each",
        two_private_pages,
        lambda host: [
            Actor("madvise0", zap_page_range, (host.mm, 0, 3)),
            Actor("madvise1", zap_page_range_single, (host.mm, 0)),
        ],
        {
            "addresses": 3,
            "slot_pages": 3,
            "memslots": 2,
            "pages": 3,
            "yields": True,
            "read_gfns": 1,
            "written_gfns": 0,
        },
    ),
    arch="x86-tdp",
    era="v6.12",
    mended={"kvm.kvm_main.kvm_handle_memslots": kvm_handle_memslots},
    unfixed=True,
)
