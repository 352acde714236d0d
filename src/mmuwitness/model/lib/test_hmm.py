"""lib/test_hmm.c: dmirror, the kernel's own example of a driver that mirrors an address space.

A GPU driver with shared virtual memory, or RDMA on-demand paging, does the same: begin, look up
without a lock of its own, take the driver's lock, retry or map.  `invalidate` takes that lock, sets
the sequence and zaps.
"""

from __future__ import annotations

from mmuwitness.model.mm.hmm import HmmRange, hmm_range_fault
from mmuwitness.model.mm.mm_types import load, store
from mmuwitness.model.mm.mmu_interval_notifier import (
    mmu_interval_notifier_insert,
    mmu_interval_notifier_remove,
    mmu_interval_read_begin,
    mmu_interval_read_retry,
    mmu_interval_set_seq,
)
from mmuwitness.model.primitives import atomic, choose, lock, read_lock, spin_lock, trylock, unlock
from mmuwitness.model.state import Bool, Field, Lock, Ref, Struct, Value


class DevicePte(Value):
    """An entry of a device's page table."""

    present = Bool()
    write = Bool()
    page = Ref("Page")


class Dmirror(Struct):
    """struct dmirror; the mutex protects pt.  Wired: mm, notifier (its interval subscription)."""

    mutex = Field(Lock())
    pt = Field(DevicePte, array="addresses")


def dmirror_interval_invalidate(dmirror, start, end, blockable):
    """False: the mutex is held, and the caller must not sleep."""
    if blockable:
        lock(dmirror.mutex)
    elif not trylock(dmirror.mutex):
        return False
    mmu_interval_set_seq(dmirror.notifier)
    dmirror_do_update(dmirror, start, end)
    unlock(dmirror.mutex)
    return True


def dmirror_do_update(dmirror, start, end):
    """The entries of a range go."""
    for addr in dmirror.mm.addresses:
        if start <= addr and addr < end:
            dmirror.pt[addr] = DevicePte()


def dmirror_range_fault(dmirror, range):
    while True:
        range.notifier_seq = mmu_interval_read_begin(range.notifier)
        with read_lock(dmirror.mm.mmap_lock):
            found = hmm_range_fault(dmirror.mm, range)
        if not found:
            continue
        lock(dmirror.mutex)
        if not mmu_interval_read_retry(range.notifier, range.notifier_seq):
            break
        unlock(dmirror.mutex)
    dmirror_do_fault(dmirror, range)
    unlock(dmirror.mutex)


def dmirror_do_fault(dmirror, range):
    """mutex is held since mmu_interval_read_retry(): no invalidate() comes between."""
    entry = DevicePte(present=True, write=range.page_write, page=range.page)
    dmirror.pt[range.start] = entry


def dmirror_fault(dmirror, addr, write):
    range = HmmRange(start=addr, write=write, notifier=dmirror.notifier)
    dmirror_range_fault(dmirror, range)


def dmirror_do_access(dmirror, addr, write):
    """dmirror_do_read(), dmirror_do_write(): False is -ENOENT, there is no entry for that."""
    with spin_lock(dmirror.mutex):
        entry = dmirror.pt[addr]
        if not entry.present or (write and not entry.write):
            return False
        with atomic("one access of the device"):
            if write:
                store(dmirror.mm, entry.page, addr)
            else:
                load(dmirror.mm, entry.page, addr)
    return True


def dmirror_access(dmirror, addr, write):
    """dmirror_read(), dmirror_write() of one word.  After a fault it may do something else first:
    it need not repeat the access."""
    if not dmirror_do_access(dmirror, addr, write):
        dmirror_fault(dmirror, addr, write)


def dmirror_ioctl(dmirror):
    """HMM_DMIRROR_READ and HMM_DMIRROR_WRITE, any number of calls."""
    while True:
        access = choose(2 * dmirror.mm.nr_addresses)
        dmirror_access(dmirror, access >> 1, (access & 1) == 1)


def dmirror_fops(dmirror):
    """open(), one access, release(), again and again.  The kernel removes the subscription first:
    nobody looks at an xarray whose file is closed.  A device that walks its table by itself has to
    be stopped before, as here."""
    while True:
        mmu_interval_notifier_insert(dmirror.notifier)
        access = choose(2 * dmirror.mm.nr_addresses)
        dmirror_access(dmirror, access >> 1, (access & 1) == 1)
        with spin_lock(dmirror.mutex):
            dmirror_do_update(dmirror, 0, dmirror.mm.nr_addresses)
        mmu_interval_notifier_remove(dmirror.notifier)
