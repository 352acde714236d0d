"""A GPU driver with shared virtual memory, as it should be and as it should not: both mirror the
mm, and the GPU has a TLB that its driver has to flush."""

from mmuwitness.model.lib.test_hmm import DevicePte
from mmuwitness.model.mm.hmm import HmmRange, hmm_range_fault
from mmuwitness.model.mm.memory import madvise_dontneed
from mmuwitness.model.mm.mm_types import load, store
from mmuwitness.model.mm.mmu_interval_notifier import (
    mmu_interval_read_begin,
    mmu_interval_read_retry,
    mmu_interval_set_seq,
)
from mmuwitness.model.primitives import atomic, choose, lock, read_lock, spin_lock, trylock, unlock
from mmuwitness.model.scenarios.scenario import Actor, Scenario, two_private_pages
from mmuwitness.model.state import Field, Lock, Struct


class Gpu(Struct):
    """mutex protects pt, as every driver that `host.add_device()` wires has them.  Wired: mm,
    notifier."""

    mutex = Field(Lock())
    pt = Field(DevicePte, array="addresses")
    tlb = Field(DevicePte, array="addresses")


def gpu_invalidate(gpu, start, end, blockable):
    """Called by every window: the sequence first, then the entries, then the TLB."""
    if blockable:
        lock(gpu.mutex)
    elif not trylock(gpu.mutex):
        return False
    mmu_interval_set_seq(gpu.notifier)
    for addr in gpu.mm.addresses:
        if start <= addr and addr < end:
            gpu.pt[addr] = DevicePte()
            gpu.tlb[addr] = DevicePte()
    unlock(gpu.mutex)
    return True


def gpu_access(gpu, addr, write):
    """A TLB hit, or a walk that fills the TLB; False is a fault."""
    with atomic("a TLB hit is one access, and the walker reads an entry whole"):
        entry = gpu.tlb[addr]
        if entry.present and (entry.write or not write):
            if write:
                store(gpu.mm, entry.page, addr)
            else:
                load(gpu.mm, entry.page, addr)
            return True
        entry = gpu.pt[addr]
        if entry.present and (entry.write or not write):
            gpu.tlb[addr] = entry
            return True
    return False


def gpu_fault(gpu, range):
    range.notifier_seq = mmu_interval_read_begin(range.notifier)
    with read_lock(gpu.mm.mmap_lock):
        found = hmm_range_fault(gpu.mm, range)
    if found:
        with spin_lock(gpu.mutex):
            if not mmu_interval_read_retry(range.notifier, range.notifier_seq):
                gpu_map(gpu, range)


def hasty_gpu_fault(gpu, range):
    """Whether to retry is asked before the lock is taken: a window may come in between."""
    range.notifier_seq = mmu_interval_read_begin(range.notifier)
    with read_lock(gpu.mm.mmap_lock):
        found = hmm_range_fault(gpu.mm, range)
    if found and not mmu_interval_read_retry(range.notifier, range.notifier_seq):
        with spin_lock(gpu.mutex):
            gpu_map(gpu, range)


def gpu_map(gpu, range):
    gpu.pt[range.start] = DevicePte(present=True, write=range.page_write, page=range.page)


def gpu(gpu, fault):
    """A kernel of the GPU that reads and writes; a fault is handled and the access made again, or
    another one."""
    while True:
        access = choose(2 * gpu.mm.nr_addresses)
        addr = access >> 1
        write = (access & 1) == 1
        if not gpu_access(gpu, addr, write):
            fault(gpu, HmmRange(start=addr, write=write, notifier=gpu.notifier))


def beside_gpu(host):
    two_private_pages(host)
    host.add_device(Gpu, gpu_invalidate)


def balloon_and_gpu(fault):
    return lambda host: [
        Actor("gpu", gpu, (host.devices[0], fault)),
        Actor("madvise", madvise_dontneed, (host.mm,)),
    ]


BOUNDS = "no VM, 1 GPU, 1 address, 2 pages, any number of calls"
SIZES = {"vcpus": 0, "slot_pages": 1, "addresses": 1, "pages": 2}

SCENARIOS = (
    Scenario(
        "gpu_svm",
        "A GPU reads and writes a page that the process drops.",
        BOUNDS,
        beside_gpu,
        balloon_and_gpu(gpu_fault),
        SIZES,
        requires="mmu_interval_notifier",
    ),
    Scenario(
        "gpu_hasty",
        "As gpu_svm; the driver asks for a retry before it takes its lock.",
        BOUNDS,
        beside_gpu,
        balloon_and_gpu(hasty_gpu_fault),
        SIZES,
        requires="mmu_interval_notifier",
    ),
)
