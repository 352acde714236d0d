"""kernel/rcu/srcutree.c: kvm->srcu, whose readers a memslot update waits for."""

from __future__ import annotations

from mmuwitness.model.primitives import atomic, feature, wait_until


def has_srcu(kvm):
    """Nobody can tell whether readers count where nobody waits for them."""
    return (kvm.updates_memslots or kvm.logs_dirty_pages) and feature.memslots_srcu


def srcu_read_lock(kvm):
    """Returns which of the two counts of readers was raised.  Readers nest."""
    if not has_srcu(kvm):
        return 0
    with atomic("the kernel flips twice: a reader between its two accesses is waited for as well"):
        idx = kvm.srcu_idx
        kvm.srcu_readers[idx] += 1
    return idx


def srcu_read_unlock(kvm, idx):
    if has_srcu(kvm):
        with atomic("a count for each CPU"):
            kvm.srcu_readers[idx] -= 1


def synchronize_srcu(kvm):
    """Waits for the readers that have begun, not for those that begin from here on."""
    with atomic("srcu_flip(): one at a time"):
        idx = kvm.srcu_idx
        kvm.srcu_idx = 1 - idx
    wait_until(kvm.srcu_readers[idx] == 0)
