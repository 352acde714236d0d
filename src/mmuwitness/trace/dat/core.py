"""The loops that read the kernel's ring buffer: Python source that numba compiles once (native).

Imported only when no compiled copy is in the cache. All arguments are addresses or int64 words;
batch makes the arrays. Every access is checked against the end of its sub-buffer or record.

A sub-buffer: time stamp of its start (64 bits), `commit` (a long: bytes of data, and the marks of
missed events), data. An event in it: 32 bits with a 5-bit type_len and 27 bits of time since the
event before, then by type_len

     1-28   data of 4 * type_len bytes
     0      32 bits n, data of n - 4 bytes
     29     padding: to the end of the sub-buffer, or an event that was discarded (time is not 0)
     30     time extend: 32 high bits of a time difference
     31     absolute time stamp: 32 bits above the 27; the top 5 are those of the time before
"""
# mypy: ignore-errors
# (numba infers these types itself, and knows its intrinsics where mypy does not)

from __future__ import annotations

from llvmlite import ir
from numba import int64, njit
from numba.extending import intrinsic

from mmuwitness.explore.search_table import NATIVE
from mmuwitness.explore.search_words import load, mix, store, store_byte
from mmuwitness.trace.dat.columns import (
    BIG_ENDIAN,
    COLUMN_COUNT,
    COMMIT_OFFSET,
    COMMIT_SIZE,
    COMMON_END,
    DAMAGED_PAGES,
    DAMAGED_PLACE,
    DATA_OFFSET,
    LOST,
    NONE_LOST,
    PAGE_BYTES,
    PENDING_LOST,
    PID,
    PID_OFFSET,
    PLACE,
    SIZE,
    START,
    TIME,
    TYPE,
    TYPE_OFFSET,
    TYPE_SIZE,
    TYPES,
    UNKNOWN_LOST,
)

PADDING, TIME_EXTEND, TIME_STAMP = 29, 30, 31
TIME_BITS = 27
COMMIT_MASK = (1 << 27) - 1
MISSED_EVENTS, MISSED_STORED = 1 << 31, 1 << 30
TOP_TIME = -(1 << 59)  # the 5 bits that an absolute time stamp has no room for
DISCARDED_AT_ONCE = 1  # time of a discarded event that had none: 0 would mark the end
ALL_ONES = -1

_WIDTHS = {size: ir.IntType(8 * size) for size in (1, 2, 4, 8)}


def _loader(size, extend):
    """An intrinsic that loads `size` bytes at any address, swapped or not, as a 64-bit word."""

    def typed(_typing, address, swapped):
        def emit(_context, builder, _signature, args):
            pointer = builder.inttoptr(args[0], _WIDTHS[size].as_pointer())
            value = builder.load(pointer, align=1)
            if size > 1:
                other = builder.bswap(value)
                asked = builder.icmp_signed("!=", args[1], ir.IntType(64)(0))
                value = builder.select(asked, other, value)
            if size == 8:
                return value
            return getattr(builder, extend)(value, ir.IntType(64))

        return int64(int64, int64), emit

    return intrinsic(typed)


unsigned1, unsigned2, unsigned4 = (_loader(size, "zext") for size in (1, 2, 4))
signed1, signed2, signed4, word8 = (_loader(size, "sext") for size in (1, 2, 4, 8))


@njit(**NATIVE)
def number(at, size, signed, swapped):
    """The integer of 1, 2, 4 or 8 bytes at `at`."""
    if size == 8:
        return word8(at, swapped)
    if size == 4:
        return signed4(at, swapped) if signed != 0 else unsigned4(at, swapped)
    if size == 2:
        return signed2(at, swapped) if signed != 0 else unsigned2(at, swapped)
    return signed1(at, swapped) if signed != 0 else unsigned1(at, swapped)


@njit(**NATIVE)
def add_lost(before, more):
    """Of two losses in a row. What is known of them counts; unknown is less than 1."""
    if before > 0 and more > 0:
        return before + more
    if before > 0 or more > 0:
        return max(before, more)
    return min(before, more)


@njit(**NATIVE)
def missed(page, commit, layout):
    """How many events a sub-buffer says were lost before it."""
    swapped, size = load(layout + 8 * BIG_ENDIAN), load(layout + 8 * COMMIT_SIZE)
    flags = number(page + load(layout + 8 * COMMIT_OFFSET), size, 0, swapped)
    if flags & MISSED_EVENTS == 0:
        return int64(NONE_LOST)
    data = load(layout + 8 * DATA_OFFSET)
    if flags & MISSED_STORED == 0 or data + commit + size > load(layout + 8 * PAGE_BYTES):
        return int64(UNKNOWN_LOST)
    count = number(page + data + commit, size, 1, swapped)
    return count if count > 0 else int64(UNKNOWN_LOST)


@njit(**NATIVE)
def walk(pages, count, places, layout, out, capacity, state):
    """All events of `count` sub-buffers at `pages`, which begin at `places` (one each) of the
    file. Fills the columns `out`, `capacity` words each; returns how many events there are."""
    found = int64(0)
    page_bytes = load(layout + 8 * PAGE_BYTES)
    for index in range(count):
        page = pages + index * page_bytes
        place = load(places + 8 * index)
        swapped = load(layout + 8 * BIG_ENDIAN)
        flags = number(
            page + load(layout + 8 * COMMIT_OFFSET), load(layout + 8 * COMMIT_SIZE), 0, swapped
        )
        commit = flags & COMMIT_MASK
        damaged = page_bytes - load(layout + 8 * DATA_OFFSET) < commit
        if not damaged:
            lost = add_lost(load(state + 8 * PENDING_LOST), missed(page, commit, layout))
            store(state + 8 * PENDING_LOST, lost)
            after, damaged = walk_page(
                pages, page, commit, place, layout, out, capacity, found, state
            )
            found = after
        if damaged:
            if load(state + 8 * DAMAGED_PAGES) == 0:
                store(state + 8 * DAMAGED_PLACE, place)
            store(state + 8 * DAMAGED_PAGES, load(state + 8 * DAMAGED_PAGES) + 1)
            lost = add_lost(load(state + 8 * PENDING_LOST), int64(UNKNOWN_LOST))
            store(state + 8 * PENDING_LOST, lost)
    return found


@njit(**NATIVE)
def walk_page(pages, page, commit, place, layout, out, capacity, found, state):
    """The events of one sub-buffer: how many there are now, and whether it is damaged."""
    swapped = load(layout + 8 * BIG_ENDIAN)
    type_offset, type_size = load(layout + 8 * TYPE_OFFSET), load(layout + 8 * TYPE_SIZE)
    pid_offset, common_end = load(layout + 8 * PID_OFFSET), load(layout + 8 * COMMON_END)
    time = word8(page, swapped)
    at = page + load(layout + 8 * DATA_OFFSET)
    end = at + commit
    while at < end:
        if end - at < 4:
            return found, True
        head = unsigned4(at, swapped)
        if swapped != 0:
            kind, delta = head >> TIME_BITS, head & ((1 << TIME_BITS) - 1)
        else:
            kind, delta = head & 31, head >> 5
        at += 4
        if kind == PADDING and delta == 0:
            break
        if 1 <= kind < PADDING:
            start, size = at, 4 * kind
            after = at + size
        else:
            if end - at < 4:
                return found, True
            second = unsigned4(at, swapped)
            start = at + 4
            if kind == TIME_EXTEND:
                time += (second << TIME_BITS) + delta
                at = start
                continue
            if kind == TIME_STAMP:
                absolute = (second << TIME_BITS) + delta | (time & TOP_TIME)
                time = absolute if absolute >= time else absolute + (1 << 59)
                at = start
                continue
            if kind == PADDING:
                time += delta if delta != DISCARDED_AT_ONCE else 0
                at += second
                if second < 4 or at > end:
                    return found, True
                continue
            size = second - 4
            after = at + ((second + 3) & -4)
        if size < common_end or after > end or found == capacity:
            return found, True
        time += delta
        event = out + 8 * found
        store(event + 8 * capacity * TIME, time)
        store(event + 8 * capacity * START, start - pages)
        store(event + 8 * capacity * SIZE, size)
        kind = number(start + type_offset, type_size, 0, swapped)
        store(event + 8 * capacity * TYPE, kind & (TYPES - 1))
        store(event + 8 * capacity * PID, signed4(start + pid_offset, swapped))
        store(event + 8 * capacity * LOST, load(state + 8 * PENDING_LOST))
        store(event + 8 * capacity * PLACE, place + (start - page))
        store(state + 8 * PENDING_LOST, NONE_LOST)
        found += 1
        at = after
    return found, False


@njit(**NATIVE)
def arrange(columns, length, order, count, out):
    """Columns of `count` events out of those of `length`, in an order."""
    for index in range(count):
        place = load(order + 8 * index)
        for column in range(COLUMN_COUNT):
            value = load(columns + 8 * (column * length + place))
            store(out + 8 * (column * count + index), value)
    return count


@njit(**NATIVE)
def group(columns, count, slots, starts, sizes, places):
    """Sorts the events by type, those of one type in their order: their addresses, sizes and
    places among all. `slots` has TYPES words of 0, which become the ends of the types."""
    for index in range(count):
        slot = slots + 8 * (load(columns + 8 * (TYPE * count + index)) & (TYPES - 1))
        store(slot, load(slot) + 1)
    used = int64(0)
    for kind in range(TYPES):
        used += load(slots + 8 * kind)
        store(slots + 8 * kind, used - load(slots + 8 * kind))
    for index in range(count):
        slot = slots + 8 * (load(columns + 8 * (TYPE * count + index)) & (TYPES - 1))
        at = load(slot)
        store(slot, at + 1)
        store(starts + 8 * at, load(columns + 8 * (START * count + index)))
        store(sizes + 8 * at, load(columns + 8 * (SIZE * count + index)))
        store(places + 8 * at, index)
    return count


@njit(**NATIVE)
def numbers(starts, count, offset, size, signed, swapped, out):
    """The integers at `offset` behind each of `count` addresses, as 64-bit words."""
    for index in range(count):
        store(out + 8 * index, number(load(starts + 8 * index) + offset, size, signed, swapped))
    return count


@njit(**NATIVE)
def text_sizes(starts, limits, count, out):
    """Bytes of each text up to its NUL, or its limit if it has none."""
    for index in range(count):
        start, size = load(starts + 8 * index), int64(0)
        limit = load(limits + 8 * index)
        while size < limit and unsigned1(start + size, 0) != 0:
            size += 1
        store(out + 8 * index, size)
    return count


@njit(**NATIVE)
def copy_texts(starts, sizes, count, out):
    """Puts the texts one behind the other."""
    used = int64(0)
    for index in range(count):
        start, size = load(starts + 8 * index), load(sizes + 8 * index)
        for position in range(size):
            store_byte(out + used + position, unsigned1(start + position, 0))
        used += size
    return used


@njit(**NATIVE)
def equal(one, other, size):
    """Whether `size` bytes at two addresses are the same."""
    for position in range(size):
        if unsigned1(one + position, 0) != unsigned1(other + position, 0):
            return False
    return True


@njit(**NATIVE)
def intern(starts, sizes, count, slots, slot_count, first):
    """For each piece of memory the first one with the same bytes. `slots` are all -1; `slot_count`
    is a power of two above `count`."""
    for index in range(count):
        start, size = load(starts + 8 * index), load(sizes + 8 * index)
        key = int64(size)
        position = int64(0)
        while position + 4 <= size:
            key = mix(key ^ unsigned4(start + position, 0))
            position += 4
        while position < size:
            key = mix(key ^ unsigned1(start + position, 0))
            position += 1
        slot = key & (slot_count - 1)
        while True:
            other = load(slots + 8 * slot)
            if other < 0:
                store(slots + 8 * slot, index)
                store(first + 8 * index, index)
                break
            if load(sizes + 8 * other) == size and equal(load(starts + 8 * other), start, size):
                store(first + 8 * index, other)
                break
            slot = (slot + 1) & (slot_count - 1)
    return count


@njit(**NATIVE)
def own_stacks(cpus, pids, stacks, count, last, owners):
    """For each stack trace (`stacks` is not 0) the event it belongs to, -1 if none: the last one
    of its CPU, if that has its pid. `last` has a word per CPU, -1 at first."""
    for index in range(count):
        slot = last + 8 * load(cpus + 8 * index)
        store(owners + 8 * index, ALL_ONES)
        if load(stacks + 8 * index) == 0:
            store(slot, index)
        else:
            event = load(slot)
            if event >= 0 and load(pids + 8 * event) == load(pids + 8 * index):
                store(owners + 8 * index, event)
    return count
