"""virt/kvm/kvm_main.c: a VM from its creation to its end."""

from __future__ import annotations

from mmuwitness.model.kvm.vcpu import vcpu_enter_guest
from mmuwitness.model.mm.mmu_notifier import mmu_notifier_register, mmu_notifier_unregister
from mmuwitness.model.primitives import choose, feature, spin_lock, write_lock


def kvm_create_vm(kvm):
    """kvm_arch_init_vm(): empty tables.  kvm_init_mmu_notifier(): KVM is told of windows."""
    if kvm.frees_tables:
        kvm.pgd_freed = False
        kvm.pgd_reset = False
    mmu_notifier_register(kvm.mm, kvm.mmu_notifier)


def kvm_destroy_vm(kvm):
    """The last file that leads to the VM is closed: none of its vCPUs runs.  KVM is not told of the
    end of windows that are open when it leaves.

    Since commit 52ac8b358b0c ("KVM: Block memslot updates across range_start() and range_end()") in
    v5.15 the count of them is set to 0: private memslots are deleted next, and nobody would wake up
    who waits for that."""
    mmu_notifier_unregister(kvm.mm, kvm.mmu_notifier)
    if feature.mn_active_invalidate_count:
        with spin_lock(kvm.mn_invalidate_lock):
            kvm.mn_active_invalidate_count = 0
    kvm_arch_free_vm(kvm)


def kvm_arch_free_vm(kvm):
    """What the memory holds when the next VM is allocated in it: kzalloc().  (The locks are there
    for nobody: the model asks who writes without.)"""
    with write_lock(kvm.mmu_lock):
        kvm.mmu_invalidate_in_progress = 0
        kvm.unbumped = 0
        kvm.mmu_invalidate_range_start = 0
        kvm.mmu_invalidate_range_end = 0
        for gfn in kvm.gfns:
            kvm.table[kvm.arch.table_of(kvm, gfn)] = False


def create_run_destroy(vcpu):
    """A VMM that creates a VM, runs its vCPU in the same thread, and destroys it, for ever."""
    while True:
        kvm_create_vm(vcpu.kvm)
        while choose(2) == 1:
            vcpu_enter_guest(vcpu)
        kvm_destroy_vm(vcpu.kvm)
