"""virt/kvm/kvm_main.c: a vCPU in the guest, and what its exits lead to."""

from __future__ import annotations

from mmuwitness.model.kvm.guest_memfd import kvm_gmem_maps
from mmuwitness.model.kvm.kvm_host import GONE, VALID, KvmPageFault
from mmuwitness.model.kvm.memslots import (
    gfn_to_hva,
    gfn_to_hva_memslots,
    gfn_to_memslot,
    kvm_is_error_hva,
    kvm_memslots,
)
from mmuwitness.model.lib.srcutree import srcu_read_lock, srcu_read_unlock
from mmuwitness.model.mm.mm_types import load, store
from mmuwitness.model.primitives import atomic, choose, feature, read_lock, trace

NO_EXIT, TRANSLATION_FAULT, PERMISSION_FAULT, NO_ENTRY = 0, 1, 2, 3


def guest_access(vcpu, gfn, write):
    """One guest instruction: a TLB hit, or a hardware walk that fills the TLB; else an exit.
    Requests are looked at before: with an invalid root the guest is not entered."""
    kvm = vcpu.kvm
    with atomic("a TLB hit is one access, and the walker reads an SPTE whole"):
        if kvm.replaces_roots and vcpu.root_invalid:
            return NO_ENTRY
        entry = vcpu.tlb[gfn]
        if entry.present and (entry.write or not write):
            addr = gfn_to_hva(kvm, gfn)
            if not kvm_is_error_hva(kvm, addr) and not kvm_gmem_maps(kvm, gfn, entry.page):
                if write:
                    store(kvm.mm, entry.page, addr)
                else:
                    load(kvm.mm, entry.page, addr)
            return NO_EXIT
        spte = kvm.spte[gfn]
        if not spte.present or (kvm.access_tracking and spte.aged):
            return TRANSLATION_FAULT
        if write and not spte.write:
            return PERMISSION_FAULT
        if kvm.ages_pages and spte.aged:
            # the walker sets A (or KVM the access flag, after an exit that has no other effect)
            spte = spte.replace(aged=False)
            kvm.spte[gfn] = spte
        vcpu.tlb[gfn] = spte
        if kvm.arch.is_huge(kvm, gfn):
            kvm.arch.fill_tlb_huge(vcpu, gfn)
    return NO_EXIT


def vcpu_run(vcpu):
    """A guest that reads the first `read_gfns` and writes the first `written_gfns`, for ever.
    After an exit it may do something else first (an interrupt): it need not repeat the access."""
    while True:
        vcpu_enter_guest(vcpu)


def vcpu_enter_guest(vcpu):
    """One access, and the exit that it may lead to."""
    kvm = vcpu.kvm
    access = choose(kvm.read_gfns + kvm.written_gfns)
    write = access >= kvm.read_gfns
    gfn = access - kvm.read_gfns if write else access
    exit_reason = guest_access(vcpu, gfn, write)
    if kvm.replaces_roots and exit_reason == NO_ENTRY:
        kvm.arch.kvm_mmu_reload(vcpu)
    elif exit_reason != NO_EXIT:
        trace("kvm_page_fault", gfn)
        permission = exit_reason == PERMISSION_FAULT
        fault = KvmPageFault(vcpu=vcpu, gfn=gfn, write=write, permission=permission)
        handle_exit(vcpu, fault)


def vcpu_access_once(vcpu):
    """A guest that makes one access, as those of vcpu_run, again and again until it has made it."""
    kvm = vcpu.kvm
    access = choose(kvm.read_gfns + kvm.written_gfns)
    write = access >= kvm.read_gfns
    gfn = access - kvm.read_gfns if write else access
    vcpu.fault_gfn = gfn
    exit_reason = guest_access(vcpu, gfn, write)
    while exit_reason != NO_EXIT:
        vcpu.faulting = True
        permission = exit_reason == PERMISSION_FAULT
        fault = KvmPageFault(vcpu=vcpu, gfn=gfn, write=write, permission=permission)
        handle_exit(vcpu, fault)
        exit_reason = guest_access(vcpu, gfn, write)
    vcpu.faulting = False


def handle_exit(vcpu, fault):
    """A vCPU outside the guest is in kvm->srcu; until commit bc6678a33d9b ("KVM: introduce
    kvm->srcu and convert kvm_set_memory_region to SRCU update") in v2.6.34 it held slots_lock."""
    kvm = vcpu.kvm
    if (kvm.updates_memslots or kvm.logs_dirty_pages) and not feature.memslots_srcu:
        with read_lock(kvm.slots_lock):
            handle_guest_fault(vcpu, fault)
    else:
        idx = srcu_read_lock(kvm)
        handle_guest_fault(vcpu, fault)
        srcu_read_unlock(kvm, idx)


def handle_guest_fault(vcpu, fault):
    """A gfn without a memslot is emulated by the VMM, and so is one whose memslot is being deleted
    (KVM_PFN_NOSLOT, an error hva), where that fault is not retried."""
    kvm = vcpu.kvm
    slots = kvm_memslots(kvm)
    state = gfn_to_memslot(kvm, slots, fault.gfn)
    fault.hva = gfn_to_hva_memslots(kvm, slots, fault.gfn)
    if kvm.logs_dirty_pages:
        fault.logged = kvm.log_dirty_pages
    if state == VALID:
        kvm.arch.page_fault(vcpu, fault)
    elif state == GONE and kvm.caches_mmio:
        kvm.arch.handle_mmio_page_fault(kvm, fault)
    elif state == GONE or not feature.fault_retries_invalid_slot:
        trace("kvm_mmio", fault.gfn)
