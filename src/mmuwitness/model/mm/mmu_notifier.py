"""mm/mmu_notifier.c, include/linux/mmu_notifier.h: subscriptions and their callbacks.

`mm.notifier_subscriptions` is fixed when the host is wired, the newest first, as a walk finds them;
where the mm exits or somebody unregisters, `mm.hashed` says which of them are on the list.  A
subscriber's operation that its kernel does not have is None.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mmuwitness.model.lib.srcutree import srcu_read_lock, srcu_read_unlock, synchronize_srcu
from mmuwitness.model.mm.mm_types import Pte
from mmuwitness.model.mm.mmu_interval_notifier import mn_itree_inv_end, mn_itree_invalidate
from mmuwitness.model.primitives import (
    cover,
    feature,
    might_sleep,
    non_block,
    spin_lock,
    write_lock,
)

Callback = Callable[..., Any] | None

AFTER_UNREGISTER = "a subscriber is called after it was unregistered"
UNLINKED_TWICE = "a subscriber is taken off the list that is not on it"


@dataclass(frozen=True)
class MmuNotifier:
    """struct mmu_notifier with its mmu_notifier_ops: each is called as op(owner, ...).

    invalidate_range_start(owner, start, end, blockable) is False for -EAGAIN: it would have to
    sleep.  One that may say so has no invalidate_range_end."""

    owner: Any
    invalidate_range_start: Callback
    invalidate_range_end: Callback
    invalidate_page: Callback
    change_pte: Callback
    clear_flush_young: Callback = None
    clear_young: Callback = None
    release: Callback = None
    number: int = 0


def is_hashed(mm, subscription):
    """A walk of the list comes to it.  Who is taken off it still leads to those behind it."""
    return not (mm.exits or mm.unregisters) or mm.hashed[subscription.number]


def returned_from(mm, subscription):
    """A callback has returned: its subscriber, and what it belongs to, must be there still."""
    if mm.unregisters and mm.gone[subscription.number]:
        cover(AFTER_UNREGISTER)


def mmu_notifier_invalidate_range_start(mm, start, end):
    """Every subscriber has dropped [start, end) when this returns."""
    mm.invalidating += 1
    if mm.interval_sub is not None:
        mn_itree_invalidate(mm, start, end, True)
    mn_hlist_invalidate_range_start(mm, start, end, True)
    for addr in mm.addresses:
        if start <= addr and addr < end:
            mm.open_windows[addr] += 1


def mmu_notifier_invalidate_range_start_nonblock(mm, start, end):
    """False: a subscriber would have to sleep (-EAGAIN), and no window is open.  A refusal from
    the interval tree comes before the others are asked."""
    mm.invalidating += 1
    agreed = mm.interval_sub is None or mn_itree_invalidate(mm, start, end, False)
    if agreed and not mn_hlist_invalidate_range_start(mm, start, end, False):
        if mm.interval_sub is not None:
            mn_itree_inv_end(mm)
        agreed = False
    if not agreed:
        mm.invalidating -= 1
        return False
    for addr in mm.addresses:
        if start <= addr and addr < end:
            mm.open_windows[addr] += 1
    return True


def mn_hlist_invalidate_range_start(mm, start, end, blockable):
    """All are asked, even after one has refused.  Since commit c2655835fd8c ("mm/mmu_notifiers:
    ensure range_end() is paired with range_start()") in v5.12 those who agreed are told then."""
    agreed = True
    idx = srcu_read_lock(mm)
    for subscription in mm.notifier_subscriptions:
        if subscription.invalidate_range_start is not None and is_hashed(mm, subscription):
            if not mn_call_start(subscription, start, end, blockable):
                agreed = False
            returned_from(mm, subscription)
    srcu_read_unlock(mm, idx)
    if not agreed and feature.nonblock_start_paired:
        mn_hlist_invalidate_end(mm, start, end)
    return agreed


def mn_call_start(subscription, start, end, blockable):
    if blockable:
        might_sleep()
        return subscription.invalidate_range_start(subscription.owner, start, end, True)
    with non_block("non_block_start() to non_block_end(): the oom reaper must make progress"):
        return subscription.invalidate_range_start(subscription.owner, start, end, False)


def mn_hlist_invalidate_end(mm, start, end):
    """Who has left since start() is not told, and who has come since cannot be there: see
    mmu_notifier_register()."""
    idx = srcu_read_lock(mm)
    for subscription in mm.notifier_subscriptions:
        if subscription.invalidate_range_end is not None and is_hashed(mm, subscription):
            subscription.invalidate_range_end(subscription.owner, start, end)
            returned_from(mm, subscription)
    srcu_read_unlock(mm, idx)


def mmu_notifier_invalidate_range_end(mm, start, end):
    for addr in mm.addresses:
        if start <= addr and addr < end:
            mm.open_windows[addr] -= 1
    if mm.interval_sub is not None:
        mn_itree_inv_end(mm)
    mn_hlist_invalidate_end(mm, start, end)
    mm.invalidating -= 1


def mmu_notifier_invalidate_page(mm, addr):
    """Until commit 5f32b265400d ("mm/mmu_notifier: kill invalidate_page") in v4.13."""
    idx = srcu_read_lock(mm)
    for subscription in mm.notifier_subscriptions:
        if subscription.invalidate_page is not None and is_hashed(mm, subscription):
            subscription.invalidate_page(subscription.owner, addr)
            returned_from(mm, subscription)
    srcu_read_unlock(mm, idx)


def mmu_notifier_clear_flush_young(mm, start, end):
    """ptl is held.  True: some subscriber has used the page since it was last asked."""
    young = False
    for subscription in mm.notifier_subscriptions:
        if subscription.clear_flush_young is not None:
            young = subscription.clear_flush_young(subscription.owner, start, end) or young
    return young


def mmu_notifier_clear_young(mm, start, end):
    """As mmu_notifier_clear_flush_young(), for who can do with less: TLBs are left alone."""
    young = False
    for subscription in mm.notifier_subscriptions:
        if subscription.clear_young is not None:
            young = subscription.clear_young(subscription.owner, start, end) or young
    return young


def mmu_notifier_release(mm):
    """exit_mmap() begins: nobody runs in the mm any more, but reclaim and compaction still come to
    its pages.  Since commit 3ad3d901bbcf ("mm: mmu_notifier: fix freed page still mapped in
    secondary MMU") in v3.6 a subscriber stays on the list until it has dropped everything.  (Not
    so in v3.9.)

    The wait at the end is for ->release() that mmu_notifier_unregister() has called: pages are
    freed next."""
    idx = srcu_read_lock(mm)
    for subscription in mm.notifier_subscriptions:
        if feature.release_before_unlink:
            if not mm.unregisters or mm.hashed[subscription.number]:
                subscription.release(subscription.owner)
                returned_from(mm, subscription)
        elif mn_unlink(mm, subscription):
            subscription.release(subscription.owner)
            returned_from(mm, subscription)
    srcu_read_unlock(mm, idx)
    if feature.release_before_unlink:
        mn_unlink_all(mm)
    if mm.unregisters:
        mn_synchronize(mm)


def mn_synchronize(mm):
    """One grace period after the other."""
    with spin_lock(mm.srcu_gp_mutex):
        synchronize_srcu(mm)


def mn_unlink_all(mm):
    for subscription in mm.notifier_subscriptions:
        mn_unlink(mm, subscription)


def mn_unlink(mm, subscription):
    """hlist_del_init_rcu(): true if it was on the list."""
    if not mm.unregisters:
        mm.hashed[subscription.number] = False
        return True
    with spin_lock(mm.subscriptions_lock):
        hashed = mm.hashed[subscription.number]
        mm.hashed[subscription.number] = False
    return hashed


def mmu_notifier_register(mm, subscription):
    """mmap_lock, and all the locks of the reverse mapping (mm_take_all_locks()): nobody is between
    start() and end(), so no subscriber sees an end() without its start()."""
    with write_lock(mm.mmap_lock):
        mm.gone[subscription.number] = False
        mm.hashed[subscription.number] = True


def mmu_notifier_unregister(mm, subscription):
    """Once it returns nobody calls the subscriber any more, and what it belongs to may be freed.
    It may be between somebody's start() and end(); then it is not told of the end.

    Until commit 751efd8610d3 ("mmu_notifier_unregister NULL Pointer deref and multiple ->release()
    callouts") in v3.9 the list was left without a look whether mmu_notifier_release() had come
    first."""
    if feature.release_before_unlink:
        if mm.hashed[subscription.number]:
            idx = srcu_read_lock(mm)
            subscription.release(subscription.owner)
            srcu_read_unlock(mm, idx)
            if not mn_unlink(mm, subscription) and not feature.unlinked_once:
                cover(UNLINKED_TWICE)
    else:
        idx = srcu_read_lock(mm)
        if mn_unlink(mm, subscription):
            subscription.release(subscription.owner)
        srcu_read_unlock(mm, idx)
    mn_synchronize(mm)
    mm.gone[subscription.number] = True


def mmu_notifier_change_pte(mm, addr, pte):
    """ptl is held.  A subscriber without change_pte is told by invalidate_page, in kernels that
    do not bracket the change."""
    idx = srcu_read_lock(mm)
    for subscription in mm.notifier_subscriptions:
        if subscription.change_pte is not None and is_hashed(mm, subscription):
            subscription.change_pte(subscription.owner, addr, pte)
            returned_from(mm, subscription)
        elif feature.change_pte_falls_back_to_invalidate_page:
            if subscription.invalidate_page is not None and is_hashed(mm, subscription):
                subscription.invalidate_page(subscription.owner, addr)
                returned_from(mm, subscription)
    srcu_read_unlock(mm, idx)


def set_pte_at_notify(mm, addr, pte):
    """Install a PTE and tell the secondary MMUs; a plain set_pte_at() since v6.10."""
    if not feature.set_pte_at_notify:
        mm.pte[addr] = pte
    elif feature.change_pte_before_set_pte:
        mmu_notifier_change_pte(mm, addr, pte)
        mm.pte[addr] = pte
    else:
        mm.pte[addr] = pte
        mmu_notifier_change_pte(mm, addr, pte)


def ptep_clear_flush(mm, addr):
    """mm/pgtable-generic.c: the PTE is none and no CPU of the mm has it in its TLB."""
    pte = mm.pte[addr]
    mm.pte[addr] = Pte()
    if mm.host_thread:
        mm.tlb[addr] = Pte()
    return pte
