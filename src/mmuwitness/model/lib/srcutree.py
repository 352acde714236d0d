"""kernel/rcu/srcutree.c: readers that somebody waits for.

`of` has them: a VM, whose kvm->srcu a memslot update waits for; an mm, of whose subscriptions the
walks are readers.  Wired: has_srcu, False if nobody waits, and so nobody can tell that they count.
"""

from __future__ import annotations

from mmuwitness.model.primitives import atomic, wait_until


def srcu_read_lock(of):
    """Returns which of the two counts of readers was raised.  Readers nest."""
    if not of.has_srcu:
        return 0
    with atomic("the kernel flips twice: a reader between its two accesses is waited for as well"):
        idx = of.srcu_idx
        of.srcu_readers[idx] += 1
    return idx


def srcu_read_unlock(of, idx):
    if of.has_srcu:
        with atomic("a count for each CPU"):
            of.srcu_readers[idx] -= 1


def synchronize_srcu(of):
    """Waits for the readers that have begun, not for those that begin from here on."""
    with atomic("srcu_flip(): one at a time"):
        idx = of.srcu_idx
        of.srcu_idx = 1 - idx
    wait_until(of.srcu_readers[idx] == 0)
