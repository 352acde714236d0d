"""arch/x86/kvm/mmu/paging_tmpl.h: a shadow page is brought up to date with its guest page table."""

from __future__ import annotations

from mmuwitness.model.arch.x86_spte import make_spte
from mmuwitness.model.kvm.kvm_host import Spte
from mmuwitness.model.primitives import atomic, feature, write_lock

WRITABLE, GONE_FROM_TABLE = 0, 1


def sync_page(kvm, gfn, gpte):
    """mmu_lock is held.  The leaf keeps its pfn and gets the access that the guest's PTE gives: W
    only if it had that from the primary MMU (SPTE_HOST_WRITEABLE).  A leaf that the guest dropped
    is zapped; no guest relies on its TLBs being flushed by that, so somebody does it later."""
    spte = kvm.spte[gfn]
    if spte.present and gpte == GONE_FROM_TABLE:
        kvm.spte[gfn] = Spte()
        with atomic("tlbs_dirty++"):
            kvm.tlbs_dirty = True
            kvm.tlbs_dirty_count.bump()
    elif spte.present:
        host_writable = spte.host_writable or not feature.x86_host_writable_spte
        kvm.spte[gfn] = make_spte(kvm, gfn, spte.page, host_writable, False)


def sync_writable(kvm):
    """The guest makes its page table's entry writable, any number of times."""
    while True:
        with write_lock(kvm.mmu_lock):
            sync_page(kvm, 0, WRITABLE)


def sync_dropped(kvm):
    """The guest clears its page table's entry, any number of times."""
    while True:
        with write_lock(kvm.mmu_lock):
            sync_page(kvm, 0, GONE_FROM_TABLE)
