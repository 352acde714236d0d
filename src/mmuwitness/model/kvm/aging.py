"""virt/kvm/kvm_main.c: the primary MMU asks whether guests have used a page."""

from __future__ import annotations

from mmuwitness.model.kvm.kvm_host import KvmHvaRange
from mmuwitness.model.kvm.kvm_main import (
    kvm_flush_remote_tlbs,
    kvm_handle_memslots,
    kvm_lock_and_handle,
)
from mmuwitness.model.kvm.memslots import kvm_memslots
from mmuwitness.model.lib.srcutree import srcu_read_lock, srcu_read_unlock
from mmuwitness.model.mm.mm_types import Pte
from mmuwitness.model.primitives import feature, trace


def kvm_age_gfn(kvm, range):
    return kvm.arch.kvm_age_gfn(kvm, range)


def kvm_null_fn(kvm, range):
    return


def kvm_age_hva_range(kvm, start, end, flush_on_ret):
    """Since commit 8931a454aea0 ("KVM: Take mmu_lock when handling MMU notifier iff the hva hits a
    memslot") in v5.13 mmu_lock is taken where a memslot is hit; on x86 since commit b146a9b34aed
    ("KVM: x86/mmu: Age TDP MMU SPTEs without holding mmu_lock") in v6.15 not at all."""
    range = KvmHvaRange(
        start=start,
        end=end,
        pte=Pte(),
        on_lock=kvm_null_fn,
        handler=kvm_age_gfn,
        flush_on_ret=flush_on_ret,
        elides_lock=feature.aging_elides_lock,
        may_block=False,
    )
    idx = srcu_read_lock(kvm)
    if feature.lockless_aging:
        young = kvm_handle_memslots(kvm, kvm_memslots(kvm), range)
    else:
        young = kvm_lock_and_handle(kvm, range)
        if flush_on_ret and young and not feature.flush_before_unlock:
            kvm_flush_remote_tlbs(kvm)
    srcu_read_unlock(kvm, idx)
    return young


def kvm_mmu_notifier_clear_flush_young(kvm, start, end):
    """ptl is held.  Since commit b9883ee40d7e ("KVM: x86: Don't emit TLB flushes when aging SPTEs
    for mmu_notifiers") in v6.13 a TLB entry that is used on and on looks old."""
    trace("kvm_age_hva", start, end)
    return kvm_age_hva_range(kvm, start, end, not feature.aging_flush_elided)


def kvm_mmu_notifier_clear_young(kvm, start, end):
    """ptl is held.  Never flushes: a page that looks old by mistake does no harm."""
    trace("kvm_age_hva", start, end)
    return kvm_age_hva_range(kvm, start, end, False)
