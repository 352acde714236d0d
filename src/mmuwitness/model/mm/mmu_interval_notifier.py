"""mm/mmu_notifier.c: interval subscriptions, the kind that drivers use who fault pages in (HMM).

Since commit 99cb252f5e68 ("mm/mmu_notifier: add an interval tree notifier") in v5.5.  A window that
hits a subscription makes `invalidate_seq` of all subscriptions odd; the last window that closes
makes it even again.  A subscription remembers the odd value that it was last invalidated at.

Nobody does more with these numbers than to compare them, so they are kept as what comparing them
tells: `invalidating`, whether the common one is odd; `is_current`, whether a subscription's is the
common one; and a `Sequence` for whether a subscription's is still what a reader remembers.
"""

from __future__ import annotations

from mmuwitness.model.primitives import (
    atomic,
    cover,
    feature,
    might_sleep,
    non_block,
    spin_lock,
    wait_until,
)
from mmuwitness.model.state import Bool, Bounded, Field, Lock, Sequence, Struct

AFTER_REMOVE = "an interval subscription is used after it was removed"


class MmuNotifierSubscriptions(Struct):
    """struct mmu_notifier_subscriptions, as far as the interval tree goes."""

    lock = Field(Lock(spins=True))
    active_invalidate_ranges = Field(Bounded(0, 4), guarded_by="MmuNotifierSubscriptions.lock")
    invalidating = Field(Bool(), guarded_by="MmuNotifierSubscriptions.lock")


class MmuIntervalNotifier(Struct):
    """struct mmu_interval_notifier over [start, end) of an mm.

    inserted: it is in the interval tree.  deferred: it is on the deferred list, to be inserted or
    removed once no window is open.  gone: mmu_interval_notifier_remove() has returned.
    Wired: subscriptions, start, end, owner and invalidate (called as invalidate(owner, start, end,
    blockable); False: it would have to sleep).
    """

    invalidate_seq = Field(Sequence())
    is_current = Field(Bool())
    inserted = Field(Bool(), guarded_by="MmuNotifierSubscriptions.lock")
    deferred = Field(Bool(), guarded_by="MmuNotifierSubscriptions.lock")
    gone = Field(Bool())


def mn_itree_inv_start_range(mm, start, end):
    """True: the subscription is hit.  It stays in the tree until the sequence is even again."""
    subscriptions = mm.interval_sub.subscriptions
    hit = False
    with spin_lock(subscriptions.lock):
        subscriptions.active_invalidate_ranges += 1
        if start < mm.interval_sub.end and mm.interval_sub.start < end:
            if mm.interval_sub.inserted:
                subscriptions.invalidating = True
                hit = True
    return hit


def mn_itree_inv_end(mm):
    """The last window that closes makes the sequence even, and whoever waits for that goes on."""
    subscriptions = mm.interval_sub.subscriptions
    with spin_lock(subscriptions.lock):
        subscriptions.active_invalidate_ranges -= 1
        if subscriptions.active_invalidate_ranges == 0 and subscriptions.invalidating:
            subscriptions.invalidating = False
            mm.interval_sub.is_current = False
            mn_itree_finish_deferred(mm.interval_sub)


def mn_itree_finish_deferred(interval_sub):
    """subscriptions->lock is held.  What was inserted or removed meanwhile."""
    if interval_sub.deferred:
        if interval_sub.gone:
            cover(AFTER_REMOVE)
        interval_sub.inserted = not interval_sub.inserted
        interval_sub.deferred = False


def mn_itree_invalidate(mm, start, end, blockable):
    """False: a driver would have to sleep, and no window is open.  It was asked, or not: no end()
    is owed to it."""
    interval_sub = mm.interval_sub
    if mn_itree_inv_start_range(mm, start, end):
        if interval_sub.gone:
            cover(AFTER_REMOVE)
        if not mn_call_invalidate(interval_sub, start, end, blockable):
            mn_itree_inv_end(mm)
            return False
    return True


def mn_call_invalidate(interval_sub, start, end, blockable):
    if blockable:
        return interval_sub.invalidate(interval_sub.owner, start, end, True)
    with non_block("mmu_notifier_range_blockable() is false"):
        return interval_sub.invalidate(interval_sub.owner, start, end, False)


def mmu_interval_set_seq(interval_sub):
    """Called by invalidate() under the driver's lock, with the odd value that start() has made or
    found: a reader who remembers another one has to retry."""
    with atomic("WRITE_ONCE of one word"):
        if not interval_sub.is_current:
            interval_sub.invalidate_seq.bump()
            interval_sub.is_current = True


def mmu_interval_read_begin(interval_sub):
    """What a reader has to remember; waits while a window is open that hit the subscription.

    A later window may be open when it wakes up.  Then the sequence is another one already, and the
    reader is going to retry."""
    with spin_lock(interval_sub.subscriptions.lock):
        seq = interval_sub.invalidate_seq.snapshot()
        is_invalidating = interval_sub.is_current
    if is_invalidating:
        wait_until(not interval_sub.is_current or interval_sub.invalidate_seq != seq)
    return seq


def mmu_interval_read_retry(interval_sub, seq):
    """True: what was looked up may be stale.  Called under the driver's lock."""
    return interval_sub.invalidate_seq != seq


def mmu_interval_check_retry(interval_sub, seq):
    """The same without the lock: False says nothing."""
    return interval_sub.invalidate_seq != seq


def mmu_interval_notifier_insert(interval_sub):
    """With windows open nobody has told it of them: a reader waits until they are closed."""
    subscriptions = interval_sub.subscriptions
    with spin_lock(subscriptions.lock):
        interval_sub.gone = False
        if subscriptions.active_invalidate_ranges != 0:
            if subscriptions.invalidating:
                # windows walk the tree without the lock
                interval_sub.deferred = True
            else:
                subscriptions.invalidating = True
                interval_sub.inserted = True
            interval_sub.is_current = True
        else:
            interval_sub.inserted = True


def mmu_interval_notifier_remove(interval_sub):
    """When this returns nobody is inside invalidate(), and nobody will be.  The caller holds no
    lock that invalidate() takes."""
    might_sleep()
    subscriptions = interval_sub.subscriptions
    waits = False
    with spin_lock(subscriptions.lock):
        if not subscriptions.invalidating:
            interval_sub.inserted = False
        elif not interval_sub.inserted:
            # it was never inserted
            interval_sub.deferred = False
        else:
            interval_sub.deferred = True
            waits = True
    if waits:
        wait_until(not subscriptions.invalidating or not interval_sub.deferred)
        if feature.interval_remove_takes_lock:
            mmu_interval_seq_released(subscriptions)
    interval_sub.gone = True


def mmu_interval_seq_released(subscriptions):
    """Whoever made the sequence even may not be through with the deferred list.  Since commit
    319561669a59 ("mm/mmu_notifier.c: fix race in mmu_interval_notifier_remove()") in v5.18."""
    with spin_lock(subscriptions.lock):
        return
