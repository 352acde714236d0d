"""arch/x86/kvm/mmu/page_track.c: guest page tables that KVM shadows; writes are emulated."""

from __future__ import annotations

from mmuwitness.model.kvm.kvm_main import kvm_flush_remote_tlbs
from mmuwitness.model.primitives import write_lock


def __kvm_write_track_add_gfn(kvm, gfn):
    """mmu_lock is held.  From here on no vCPU writes to the page unseen."""
    kvm.gfn_write_track[gfn] = True
    if kvm.arch.spte_write_protect(kvm, gfn, True):
        kvm_flush_remote_tlbs(kvm)


def __kvm_write_track_remove_gfn(kvm, gfn):
    kvm.gfn_write_track[gfn] = False


def shadow_first_page(kvm):
    """A vCPU uses the first page as a page table, and stops doing so, any number of times."""
    while True:
        with write_lock(kvm.mmu_lock):
            __kvm_write_track_add_gfn(kvm, 0)
        with write_lock(kvm.mmu_lock):
            __kvm_write_track_remove_gfn(kvm, 0)
