"""Mutants of drivers that mirror an address space, and of the interval tree that they rely on."""

from __future__ import annotations

from mmuwitness.model.lib.test_hmm import dmirror_do_fault, dmirror_do_update
from mmuwitness.model.mm.hmm import hmm_range_fault
from mmuwitness.model.mm.mmu_interval_notifier import (
    mmu_interval_read_begin,
    mmu_interval_read_retry,
    mmu_interval_set_seq,
)
from mmuwitness.model.primitives import lock, read_lock, spin_lock, trylock, unlock
from tests.model.mutants import mutant

D1, D2 = "device_coherent", "device_absent_in_window"
D8 = "interval_windows_balanced"
D4, D5 = "freed_page_not_in_device", "shared_page_read_only_in_device"
STALE_DEVICE = {D1, D2, D4, "no_lost_write"}


@mutant(
    "a device maps without asking for a retry", "mm.mmu_interval_notifier.mmu_interval_read_retry"
)
def retry_nothing(interval_sub, seq):
    return False


@mutant("invalidate() leaves the sequence alone", "lib.test_hmm.dmirror_interval_invalidate")
def invalidate_without_set_seq(dmirror, start, end, blockable):
    if blockable:
        lock(dmirror.mutex)
    elif not trylock(dmirror.mutex):
        return False
    dmirror_do_update(dmirror, start, end)
    unlock(dmirror.mutex)
    return True


@mutant("invalidate() sets the sequence and zaps nothing", "lib.test_hmm.dmirror_do_update")
def update_nothing(dmirror, start, end):
    return


@mutant("invalidate() zaps before it sets the sequence", "lib.test_hmm.dmirror_interval_invalidate")
def invalidate_then_set_seq(dmirror, start, end, blockable):
    """The sequence is set in a critical section of its own."""
    if blockable:
        lock(dmirror.mutex)
    elif not trylock(dmirror.mutex):
        return False
    dmirror_do_update(dmirror, start, end)
    unlock(dmirror.mutex)
    with spin_lock(dmirror.mutex):
        mmu_interval_set_seq(dmirror.notifier)
    return True


@mutant("a device asks for a retry before it takes its lock", "lib.test_hmm.dmirror_range_fault")
def retry_outside_the_lock(dmirror, range):
    while True:
        range.notifier_seq = mmu_interval_read_begin(range.notifier)
        with read_lock(dmirror.mm.mmap_lock):
            found = hmm_range_fault(dmirror.mm, range)
        if found and not mmu_interval_read_retry(range.notifier, range.notifier_seq):
            break
    with spin_lock(dmirror.mutex):
        dmirror_do_fault(dmirror, range)


@mutant("a device begins after it has looked", "lib.test_hmm.dmirror_range_fault")
def begin_late(dmirror, range):
    """The look-up asks with a sequence of its own; the one that counts is taken after it."""
    while True:
        range.notifier_seq = mmu_interval_read_begin(range.notifier)
        with read_lock(dmirror.mm.mmap_lock):
            found = hmm_range_fault(dmirror.mm, range)
        if not found:
            continue
        range.notifier_seq = mmu_interval_read_begin(range.notifier)
        lock(dmirror.mutex)
        if not mmu_interval_read_retry(range.notifier, range.notifier_seq):
            break
        unlock(dmirror.mutex)
    dmirror_do_fault(dmirror, range)
    unlock(dmirror.mutex)


@mutant("readers do not wait for windows", "mm.mmu_interval_notifier.mmu_interval_read_begin")
def begin_at_once(interval_sub):
    with spin_lock(interval_sub.subscriptions.lock):
        seq = interval_sub.invalidate_seq.snapshot()
    return seq


@mutant(
    "a driver waits for its lock though it must not", "lib.test_hmm.dmirror_interval_invalidate"
)
def invalidate_and_block(dmirror, start, end, blockable):
    lock(dmirror.mutex)
    mmu_interval_set_seq(dmirror.notifier)
    dmirror_do_update(dmirror, start, end)
    unlock(dmirror.mutex)
    return True


@mutant("a device maps all writable", "lib.test_hmm.dmirror_do_fault")
def map_writable(dmirror, range):
    from_lookup = range.page
    dmirror.pt[range.start] = dmirror.pt[range.start].replace(
        present=True, write=True, page=from_lookup
    )


@mutant(
    "an inserted subscription knows nothing of open windows",
    "mm.mmu_interval_notifier.mmu_interval_notifier_insert",
)
def insert_at_once(interval_sub):
    with spin_lock(interval_sub.subscriptions.lock):
        interval_sub.gone = False
        interval_sub.inserted = True


@mutant(
    "remove() does not wait for windows",
    "mm.mmu_interval_notifier.mmu_interval_notifier_remove",
)
def remove_at_once(interval_sub):
    with spin_lock(interval_sub.subscriptions.lock):
        interval_sub.inserted = False
    interval_sub.gone = True


@mutant("end() leaves the sequence odd", "mm.mmu_interval_notifier.mn_itree_inv_end")
def end_and_stay_odd(mm):
    """Who waits for the end of the windows waits for ever."""
    with spin_lock(mm.interval_sub.subscriptions.lock):
        mm.interval_sub.subscriptions.active_invalidate_ranges -= 1


SUBSCRIBER_BREAKS = [
    # as BREAKS of test_claims.py
    ("a device maps without asking for a retry", "hmm_dontneed", "v6.1", "x86-tdp", STALE_DEVICE),
    ("a device maps without asking for a retry", "hmm_migrate", "v7.3", "arm64", STALE_DEVICE),
    ("invalidate() leaves the sequence alone", "hmm_dontneed", "v6.1", "x86-tdp", STALE_DEVICE),
    ("invalidate() leaves the sequence alone", "oom_hmm", "v6.1", "x86-tdp", STALE_DEVICE),
    ("invalidate() sets the sequence and zaps nothing", "hmm_ksm", "v6.1", "x86-tdp",
     {*STALE_DEVICE, D5}),
    ("invalidate() zaps before it sets the sequence", "hmm_dontneed", "v6.1", "x86-tdp",
     STALE_DEVICE),
    ("a device asks for a retry before it takes its lock", "hmm_dontneed", "v6.1", "x86-tdp",
     STALE_DEVICE),
    ("a device asks for a retry before it takes its lock", "hmm_migrate", "v6.1", "x86-tdp",
     STALE_DEVICE),
    ("a device begins after it has looked", "hmm_dontneed", "v6.1", "x86-tdp",
     STALE_DEVICE - {D2}),
    ("readers do not wait for windows", "hmm_dontneed", "v6.1", "x86-tdp", STALE_DEVICE),
    ("a driver waits for its lock though it must not", "oom_hmm", "v6.1", "x86-tdp",
     {"sleeps_in_atomic"}),
    ("a device maps all writable", "hmm_ksm", "v6.1", "x86-tdp", {D1, D5, "no_lost_write"}),
    ("an inserted subscription knows nothing of open windows", "hmm_open", "v6.1", "x86-tdp",
     STALE_DEVICE - {"no_lost_write"}),
    ("remove() does not wait for windows", "hmm_open", "v6.1", "x86-tdp",
     {"used_after_remove"}),
    ("end() leaves the sequence odd", "hmm_dontneed", "v6.1", "x86-tdp", {D8}),
]  # fmt: skip

SUBSCRIBER_HARMLESS = [
    ("a device maps all writable", "hmm_dontneed", "v6.1", "x86-tdp"),  # all pages are
    ("a driver waits for its lock though it must not", "hmm_dontneed", "v6.1", "x86-tdp"),  # it may
]
