"""vCPUs that touch pages, in virtual time.  Source that numba compiles once, with `engine_core`.

Random words are a counter, mixed: so the next accesses are known before the first is made, and what
they need is in the caches by then.
"""
# mypy: ignore-errors
# (numba infers these types itself, and knows its intrinsics where mypy does not)

from __future__ import annotations

from numba import int64, njit

from mmuwitness.explore.search_table import NATIVE
from mmuwitness.explore.search_words import (
    load,
    load_half,
    mix,
    prefetch,
    scale,
    store,
    store_byte,
    store_half,
)
from mmuwitness.simulate.records import AHEAD, TASK, offsets

TIME, RANDOM, SPENT = offsets(TASK, "time random spent")
SPTES, SPTE_BYTES, PRESENT, WRITABLE, AGED, PAGE_SHIFT, PAGE_MASK = offsets(
    TASK, "sptes spte_bytes present writable aged page_shift page_mask"
)
CONTENTS, MAPPED, PERIOD, TOUCHES, WRITES = offsets(TASK, "contents mapped period touches writes")
PAGES, HOT, HOT_SHARE, WRITE_SHARE, WRITE_FIRST, WRITE_PAGES, STRAY_SHARE = offsets(
    TASK, "pages hot hot_share write_share write_first write_pages stray_share"
)
CLASSES, CLASS_SHARE, AIMED, NEXT, MISSED, EXITS, RETRIES, REFAULTS = offsets(
    TASK, "classes class_share aimed next missed exits retries refaults"
)
STALLED, STALLS, TRACKED = offsets(TASK, "stalled stalls tracked")
READS, WRITES_ABSENT, WRITES_PROTECTED, MERGED, READ_MERGED = offsets(
    TASK, "reads writes_absent writes_protected merged read_merged"
)
KICKS, KICKS_SEEN, KICK_NS, KICKED = offsets(TASK, "kicks kicks_seen kick_ns kicked")

UNIQUE = 1 << 31
"""Contents from here on are those of one page only."""

GOLDEN = 0x9E37_79B9_7F4A_7C15 - (1 << 64)


@njit(**NATIVE)
def chance(word, share):
    """True for `share` of 65,536 of all words."""
    return (word & 65535) < share


@njit(**NATIVE)
def aim(task):
    """Which pages a vCPU touches next, and whether it writes: twice the gfn, plus 1 for a write.
    Their SPTEs are asked for, so that they come while the others are aimed at."""
    seed, aimed = load(task + RANDOM), load(task + AIMED)
    pages, hot, hot_share = load(task + PAGES), load(task + HOT), load(task + HOT_SHARE)
    first, span = load(task + WRITE_FIRST), load(task + WRITE_PAGES)
    write_share, stray_share = load(task + WRITE_SHARE), load(task + STRAY_SHARE)
    sptes, spte_bytes = load(task + SPTES), load(task + SPTE_BYTES)
    for _ in range(AHEAD):
        seed += int64(GOLDEN)
        word = mix(seed)
        write = chance(word, write_share)
        normal = write and not chance(word >> 16, stray_share)
        where = hot if chance(word >> 32, hot_share) else pages
        gfn = (first if normal else 0) + scale(mix(word), span if normal else where)
        prefetch(sptes + spte_bytes * gfn)
        store(aimed, 2 * gfn + int64(write))
        aimed += 8
    store(task + NEXT, int64(0))


@njit(**NATIVE)
def access(task, count, seed):
    """The next so many accesses, up to the first that is not let: how many are.  seed: that the
    first was aimed with."""
    needed, aged = load(task + PRESENT), load(task + AGED)
    writable, walks = load(task + WRITABLE), aged != 0 and load(task + TRACKED) == 0
    sptes, spte_bytes = load(task + SPTES), load(task + SPTE_BYTES)
    shift, mask = load(task + PAGE_SHIFT), load(task + PAGE_MASK)
    contents, wrote = load(task + CONTENTS) - 4, load(task + WRITES)
    classes, class_share = load(task + CLASSES) - 1, load(task + CLASS_SHARE)
    first, span = load(task + WRITE_FIRST), load(task + WRITE_PAGES)
    aimed = load(task + AIMED) + 8 * load(task + NEXT)
    let = int64(0)
    while let < count:
        write = load(aimed) & 1
        spte = read_spte(sptes, spte_bytes, load(aimed) >> 1)
        want = needed | (writable if write != 0 else 0)
        if walks and (spte & (want | aged)) == want | aged:
            # the walker sets A, without an exit
            spte &= ~aged
            write_spte(sptes, spte_bytes, load(aimed) >> 1, spte)
        if (spte & (want | aged)) != want:
            break
        if write != 0:
            wrote += 1
            page = (spte >> shift) & mask
            offset = (load(aimed) >> 1) - first
            share = class_share if offset < 0 or offset >= span else int64(0)
            store_half(contents + 4 * page, content(mix(seed ^ wrote), wrote, classes, share))
        let += 1
        seed += int64(GOLDEN)
        aimed += 8
    store(task + WRITES, wrote)
    return let


@njit(**NATIVE)
def read_spte(sptes, spte_bytes, gfn):
    if spte_bytes == 4:
        return load_half(sptes + 4 * gfn)
    return load(sptes + 8 * gfn)


@njit(**NATIVE)
def write_spte(sptes, spte_bytes, gfn, spte):
    if spte_bytes == 4:
        store_half(sptes + 4 * gfn, spte)
    else:
        store(sptes + 8 * gfn, spte)


@njit(**NATIVE)
def content(word, wrote, classes, class_share):
    """What a page holds after a write: what no other page does, or what its class does."""
    common = 1 + scale(word, classes)
    return common if chance(word, class_share) else UNIQUE | (wrote & (UNIQUE - 1))


@njit(**NATIVE)
def touch(task, until):
    """A vCPU that is let touches pages until somebody else's time comes.  -1; or the access that
    it is not let, as `aim` has it."""
    interrupted(task)
    time, period = load(task + TIME), load(task + PERIOD)
    touches = load(task + TOUCHES)
    while time <= until:
        seed, count = load(task + RANDOM), int64(1)
        again = load(task + MISSED) >= 0
        if not again:
            if load(task + NEXT) == AHEAD:
                aim(task)
            seed += int64(GOLDEN)
            count = min((until - time) // period + 1, AHEAD - load(task + NEXT))
        let = access(task, count, seed)
        store(task + RANDOM, seed + min(let, count - 1) * int64(GOLDEN))
        store(task + NEXT, load(task + NEXT) + let)
        if again and let != 0:
            hit_at_last(task, time, load(load(task + AIMED) + 8 * (load(task + NEXT) - let)))
            # its exits took random words: the others were aimed with those
            store(task + NEXT, int64(AHEAD))
        touches += let
        time += let * period
        if let < count:
            aimed = load(load(task + AIMED) + 8 * load(task + NEXT))
            miss(task, aimed, time)
            store(task + TIME, time)
            store(task + TOUCHES, touches)
            return aimed
    store(task + TIME, time)
    store(task + TOUCHES, touches)
    return int64(-1)


@njit(**NATIVE)
def interrupted(task):
    """Flushes since its last turn: a vCPU in the guest exits for each; one outside does not."""
    kicks = load(load(task + KICKS))
    new = kicks - load(task + KICKS_SEEN)
    store(task + KICKS_SEEN, kicks)
    if new != 0 and load(task + MISSED) < 0 and load(task + KICK_NS) != 0:
        lost = new * load(task + KICK_NS)
        store(task + KICKED, load(task + KICKED) + new)
        store(task + SPENT, load(task + SPENT) + lost)
        store(task + STALLED, load(task + STALLED) + lost)
        store(task + TIME, load(task + TIME) + lost)


@njit(**NATIVE)
def add_one(address):
    store(address, load(address) + 1)


@njit(**NATIVE)
def miss(task, aimed, now):
    gfn = aimed >> 1
    if aimed & 1 == 0:
        add_one(task + READS)
    elif read_spte(load(task + SPTES), load(task + SPTE_BYTES), gfn) & load(task + PRESENT) == 0:
        add_one(task + WRITES_ABSENT)
    else:
        add_one(task + WRITES_PROTECTED)
    if load(task + MISSED) >= 0:
        store(task + RETRIES, load(task + RETRIES) + 1)
        return
    store(task + MISSED, now)
    store(task + EXITS, load(task + EXITS) + 1)
    seen = load(task + MAPPED) + gfn
    if load_half(seen) & 255 != 0:
        store(task + REFAULTS, load(task + REFAULTS) + 1)
    store_byte(seen, int64(1))


@njit(**NATIVE)
def hit_at_last(task, now, aimed):
    if aimed & 1 == 0:
        spte = read_spte(load(task + SPTES), load(task + SPTE_BYTES), aimed >> 1)
        page = ((spte >> load(task + PAGE_SHIFT)) & load(task + PAGE_MASK)) - 1
        if load_half(load(task + MERGED) + page) & 255 != 0:
            add_one(task + READ_MERGED)
    lost = now - load(task + MISSED)
    store(task + MISSED, int64(-1))
    store(task + STALLED, load(task + STALLED) + lost)
    bits = int64(0)
    while lost != 0:
        lost >>= 1
        bits += 1
    place = load(task + STALLS) + 8 * bits
    store(place, load(place) + 1)
