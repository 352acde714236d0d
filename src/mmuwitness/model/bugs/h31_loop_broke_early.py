"""H31: a page table that is read-only for the dirty log alone is taken for protected."""

from __future__ import annotations

from mmuwitness.model.bugs.bug import Bug
from mmuwitness.model.bugs.h43_dirty_log_flush_after_unlock import SHADOWED
from mmuwitness.model.features.feature import PATCH

BUG = Bug(
    id="H31",
    text="Who shadows a page table leaves the TDP MMU's SPTE alone if W is clear. The dirty log"
    " cleared it: a TLB may still be writable, and a fault without mmu_lock sets W again.",
    commit="7c8a4742c4ab",
    subject="KVM: x86/mmu: Fix write-protection of PTs mapped by the TDP MMU",
    release="v5.17",
    source=PATCH,
    reference="David Matlack, 2022. In v5.10.95, too.",
    claim="tracked_page_read_only",
    scenario=SHADOWED,
    arch="x86-tdp",
    era="v5.17",
    without=("x86_tdp_write_protects_mmu_writable",),
)
