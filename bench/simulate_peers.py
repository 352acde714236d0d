"""What a user would write in place of `simulate`: the workload ksm-density twice more, by hand.

`flat_loop`: one Numba loop, as plain as it can be.  `simpy_model`: a SimPy process for each vCPU
and one for ksmd.  Both know pages, PTEs, SPTEs, COW and KSM, and count faults; neither has locks,
windows, retries, or time that an operation takes.
"""

# mypy: ignore-errors
# (numba infers these types itself)

from __future__ import annotations

from collections.abc import Generator
from typing import NamedTuple

import numpy as np
from numba import njit

PRESENT, WRITE, PAGE_SHIFT = 1, 2, 2
GOLDEN, MIXER = np.uint64(0x9E37_79B9_7F4A_7C15), np.uint64(0xBF58_476D_1CE4_E5B9)
HALF, LOW = np.uint64(32), np.uint64(65535)
SHARING_MAX = 256
NONE = -1
MERGED, FAULTED = 0, 1
"""What is counted: pages merged by ksmd, SPTEs mapped."""


class Shares(NamedTuple):
    """How a guest touches memory: pages and shares as ksm-density has them."""

    pages: int
    hot: int
    volatile: int
    classes: int
    hot_touches: float = 0.9
    writes: float = 0.1
    stray: float = 0.001
    returns: float = 0.5  # of writes that stray


class Memory(NamedTuple):
    """Guests' memory: arrays by page, by gfn (of all guests, one after the other), and by class."""

    content: np.ndarray
    mapcount: np.ndarray
    ksm: np.ndarray
    free: np.ndarray
    nr_free: np.ndarray
    pte: np.ndarray
    spte: np.ndarray
    checksum: np.ndarray
    stable: np.ndarray
    unstable: np.ndarray
    counts: np.ndarray


def memory_of(shares: Shares, guests: int) -> Memory:
    """Every gfn has a page of its own, which its guest has touched."""
    rng = np.random.default_rng(1)
    total = guests * shares.pages
    free = total // 10 + 64
    content = np.zeros(total + free, np.uint32)
    content[:total] = rng.integers(1 << 31, 1 << 32, total, np.uint32)
    for guest in range(guests):
        mine = content[guest * shares.pages : (guest + 1) * shares.pages]
        common = rng.random(shares.pages, np.float32) < 4 / 7
        zeros = rng.random(shares.pages, np.float32) < 0.05
        common[: shares.volatile] = zeros[: shares.volatile] = False
        mine[common] = 1 + np.flatnonzero(common) % (shares.classes - 1)
        mine[zeros] = 0
    mapcount = np.zeros(total + free, np.uint16)
    mapcount[:total] = 1
    pages = np.arange(total, dtype=np.int32)
    pages = np.arange(total, dtype=np.int32)
    free_pages = np.zeros(total + free, np.int32)
    free_pages[:free] = np.arange(total, total + free)
    return Memory(
        content=content,
        mapcount=mapcount,
        ksm=np.zeros(total + free, np.bool_),
        free=free_pages,
        nr_free=np.array([free]),
        pte=pages,
        spte=(pages << PAGE_SHIFT) | (PRESENT | WRITE),
        checksum=np.zeros(total, np.uint32),
        stable=np.full(shares.classes, NONE, np.int32),
        unstable=np.full(shares.classes, NONE, np.int32),
        counts=np.zeros(2, np.int64),
    )


@njit(nogil=True)
def random(state):
    """64 random bits of a counter."""
    word = (state ^ (state >> np.uint64(30))) * MIXER
    return word ^ (word >> np.uint64(31))


@njit(nogil=True)
def below(word, count):
    """A number below `count`."""
    return np.int64(((word >> HALF) * np.uint64(count)) >> HALF)


@njit(nogil=True)
def put(memory, page):
    memory.mapcount[page] -= 1
    if memory.mapcount[page] == 0:
        memory.ksm[page] = False
        memory.free[memory.nr_free[0]] = page
        memory.nr_free[0] += 1


@njit(nogil=True)
def fault(memory, at, write):
    """An access that the SPTE does not let: copy what is shared, and map."""
    page = memory.pte[at]
    if write and memory.ksm[page]:
        memory.nr_free[0] -= 1
        copied = memory.free[memory.nr_free[0]]
        memory.content[copied] = memory.content[page]
        memory.mapcount[copied] = 1
        put(memory, page)
        memory.pte[at] = page = copied
    memory.counts[FAULTED] += 1
    memory.spte[at] = (page << PAGE_SHIFT) | PRESENT | (0 if memory.ksm[page] else WRITE)


@njit(nogil=True)
def merge(memory, at, page):
    old = memory.pte[at]
    memory.spte[at] = 0
    memory.pte[at] = page
    memory.mapcount[page] += 1
    put(memory, old)
    memory.counts[MERGED] += 1


@njit(nogil=True)
def stable_page(memory, held):
    """The KSM page of this content, if it may be shared by one more."""
    page = memory.stable[held]
    if page == NONE or not memory.ksm[page] or memory.content[page] != held:
        return NONE
    return page if memory.mapcount[page] < SHARING_MAX else NONE


@njit(nogil=True)
def scan(memory, at):
    """ksmd looks at one page."""
    page = memory.pte[at]
    held = memory.content[page]
    if memory.ksm[page]:
        return
    common = held < len(memory.stable)
    stable = stable_page(memory, held) if common else NONE
    if stable != NONE:
        merge(memory, at, stable)
        return
    if memory.checksum[at] != held:
        memory.checksum[at] = held
    elif common:
        seen = memory.unstable[held]
        page_seen = memory.pte[seen]
        if seen in (NONE, at) or memory.content[page_seen] != held or memory.ksm[page_seen]:
            memory.unstable[held] = at
        else:
            memory.ksm[page] = True
            memory.spte[at] = 0
            memory.stable[held] = page
            merge(memory, seen, page)


@njit(nogil=True)
def flat_loop(memory, shares, guests, slices, touches, scans):
    """`slices` times: every guest touches, then ksmd scans.  Accesses that were made."""
    writes, stray = np.uint64(65536 * shares.writes), np.uint64(65536 * shares.stray)
    hot_touches = np.uint64(65536 * shares.hot_touches)
    returns = np.uint64(65536 * shares.returns)
    state, cursor, wrote = np.uint64(1), 0, 0
    for _ in range(slices):
        for guest in range(guests):
            for _ in range(touches):
                state += GOLDEN
                word = random(state)
                write = word & LOW < writes
                normal = write and (word >> np.uint64(16)) & LOW >= stray
                near = shares.hot if (word >> HALF) & LOW < hot_touches else shares.pages
                span = shares.volatile if normal else near
                gfn = below(random(word), span)
                at = guest * shares.pages + gfn
                want = PRESENT | WRITE if write else PRESENT
                if memory.spte[at] & want != want:
                    fault(memory, at, write)
                if write:
                    wrote += 1
                    word = random(state ^ np.uint64(wrote))
                    held = (1 << 31) | wrote & 0x7FFF_FFFF
                    if gfn >= shares.volatile and word & LOW < returns:
                        held = 1 + below(word, shares.classes - 1)
                    memory.content[memory.spte[at] >> PAGE_SHIFT] = held
        for _ in range(scans):
            scan(memory, cursor)
            cursor += 1
            if cursor == guests * shares.pages:
                cursor = 0
                memory.unstable[:] = NONE
    return slices * guests * touches


def simpy_model(
    memory: Memory, shares: Shares, guests: int, touches: int, scans: int, until: float
) -> int:
    """touches: of each guest a second; scans: ksmd's, every 20 ms.  Accesses that were made."""
    import random as rng

    import simpy

    spte, content = memory.spte.data, memory.content.data
    chance, number = rng.random, rng.randrange
    env = simpy.Environment()
    made = 0

    def vcpu(base: int) -> Generator[simpy.Event]:
        nonlocal made
        while True:
            write = chance() < shares.writes
            if write and chance() >= shares.stray:
                gfn = number(shares.volatile)
            elif chance() < shares.hot_touches:
                gfn = number(shares.hot)
            else:
                gfn = number(shares.pages)
            at = base + gfn
            want = PRESENT | WRITE if write else PRESENT
            if spte[at] & want != want:
                fault(memory, at, write)
            made += 1
            if write:
                common = gfn >= shares.volatile and chance() < shares.returns
                held = number(1, shares.classes) if common else 1 << 31 | made & 0x7FFF_FFFF
                content[spte[at] >> PAGE_SHIFT] = held
            yield env.timeout(1 / touches)

    def ksmd() -> Generator[simpy.Event]:
        cursor = 0
        while True:
            for _ in range(scans):
                scan(memory, cursor)
                cursor += 1
                if cursor == len(memory.pte):
                    cursor = 0
                    memory.unstable[:] = NONE
            yield env.timeout(0.02)

    for guest in range(guests):
        env.process(vcpu(guest * shares.pages))
    env.process(ksmd())
    env.run(until)
    return made
