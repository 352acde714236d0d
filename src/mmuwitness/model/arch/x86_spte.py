"""arch/x86/kvm/mmu/spte.c: how an SPTE is made, and which of its bits mean what.

W implies MMU-writable, and that implies Host-writable.
"""

from __future__ import annotations

from mmuwitness.model.kvm.dirty_log import mark_page_dirty_in_slot
from mmuwitness.model.kvm.kvm_host import Spte
from mmuwitness.model.kvm.kvm_main import kvm_set_pfn_dirty
from mmuwitness.model.primitives import feature


def make_spte(kvm, gfn, page, host_writable, logged):
    """mmu_lock is held.  Writable if the PTE is, but for a page table that is shadowed; then the
    page is in the dirty log before anybody can write to it."""
    write = host_writable
    if kvm.tracks_writes and kvm.gfn_write_track[gfn]:
        write = False
    if kvm.logs_dirty_pages and write:
        mark_page_dirty_in_slot(kvm, gfn, logged)
    if kvm.mm.frees_lazily and feature.x86_dirty_at_fault and write:
        kvm_set_pfn_dirty(kvm, page)
    spte = Spte(present=True, write=write, page=page)
    if kvm.writable_bits:
        return spte.replace(host_writable=host_writable, mmu_writable=write)
    return spte


def mmu_spte_clear_track_bits(kvm, old):
    """A leaf is zapped.  Until commit aa85986e7150 ("KVM: x86/mmu: Mark folio dirty when creating
    SPTE, not when zapping/modifying") in v6.13 its dirty bit goes to the page now, in the window of
    whoever asks the page next.  (One that is writable counts as dirty: it is made so.)"""
    if kvm.mm.frees_lazily and not feature.x86_dirty_at_fault and old.write:
        kvm_set_pfn_dirty(kvm, old.page)


def kvm_mmu_changed_pte_notifier_make_spte(kvm, old, page):
    """The new pfn, read-only until a fault asks the primary MMU.  Since commit f082d86ea685 ("KVM:
    x86/mmu: Clear MMU-writable during changed_pte notifier") in v5.17 not MMU-writable either."""
    spte = old.replace(write=False, page=page)
    if kvm.writable_bits:
        spte = spte.replace(host_writable=False)
        if feature.x86_changed_spte_clears_mmu_writable:
            spte = spte.replace(mmu_writable=False)
    return spte


def mark_spte_aged(kvm, spte):
    """A is cleared.  Where the CPU has no such bit, nothing can be done through the SPTE until a
    fault restores it (mark_spte_for_access_track()); W is not saved: MMU-writable says it."""
    if kvm.access_tracking:
        return spte.replace(aged=True, write=False)
    return spte.replace(aged=True)


def spte_can_locklessly_be_made_writable(spte):
    """Both bits; since commit af2f4b809291 ("KVM: x86/mmu: Document and enforce MMU-writable and
    Host-writable invariants") in v5.17 the one stands for both."""
    return spte.mmu_writable and (feature.x86_mmu_writable_implies_host or spte.host_writable)
