"""The loops over what `scan` found: source that numba compiles once (see native).

`match` reads payloads by a layout, `intern` numbers equal strings, `own_stacks` finds whose stack
trace is whose. core says under which conditions all of them are in bounds.
"""
# mypy: ignore-errors
# (numba infers these types itself, and knows its intrinsics where mypy does not)

from __future__ import annotations

from numba import int64, njit, uint64

from mmuwitness.explore.search_table import NATIVE
from mmuwitness.explore.search_words import load, load_half, mix, store, store_byte, store_half
from mmuwitness.trace.text.columns import (
    CPU_SLOTS,
    HEX,
    LITERAL,
    MODULE,
    OPERATION_WORDS,
    SIGNED,
    SYMBOL,
    UNSIGNED,
    WORD,
)
from mmuwitness.trace.text.core import (
    BRACKET,
    BRACKET_END,
    DOT,
    MINUS,
    SPACE,
    byte,
    find,
    is_blank,
    is_digit,
    scan,
    skip_blanks,
    word_is,
)

__all__ = ["intern", "match", "own_stacks", "scan"]

FAULT = int.from_bytes(b"(fault)", "little")  # a probe's argument that could not be read


@njit(**NATIVE)
def same(left, right, length):
    position = int64(0)
    while position < length and byte(left + position) == byte(right + position):
        position += 1
    return position == length


@njit(**NATIVE)
def find_text(at, end, text, length):
    """Where the `length` bytes at `text` are first; `end` if nowhere before or there are none."""
    if length == 0:
        return end
    at = find(at, end, byte(text))
    while at < end:
        if at + length <= end and same(at, text, length):
            return at
        at = find(at + 1, end, byte(text))
    return end


@njit(**NATIVE)
def read_hex(at, end):
    """(value, where it ends); the end is `at` if this is no number of 64 bits."""
    start = at
    if at + 2 < end and byte(at) == 48 and byte(at + 1) in (120, 88):
        at += 2
    first, value = at, int64(0)
    while at < end:
        here = byte(at)
        if is_digit(here):
            digit = here - 48
        elif 97 <= (here | 32) <= 102:
            digit = (here | 32) - 87
        else:
            break
        if (value >> 60) & 15:
            return int64(0), start
        value = (value << 4) | digit
        at += 1
    return value, (at if at > first else start)


@njit(**NATIVE)
def read_decimal(at, end, signed):
    """As read_hex. `signed`: a minus may stand first, and the value is below 1 << 63."""
    start, negative = at, False
    if signed and at < end and byte(at) == MINUS:
        negative = True
        at += 1
    first, value = at, uint64(0)
    while at < end and is_digit(byte(at)):
        digit = uint64(byte(at) - 48)
        if at - first >= 19:  # the twentieth digit: 1 << 64 is 18446744073709551616
            if value > uint64(1844674407370955161) or at - first > 19:
                return int64(0), start
            if value == uint64(1844674407370955161) and digit > uint64(5):
                return int64(0), start
        value = value * uint64(10) + digit
        at += 1
    most = uint64(0x8000_0000_0000_0000) if negative else uint64(0x7FFF_FFFF_FFFF_FFFF)
    if at == first or (signed and value > most):
        return int64(0), start
    return int64(uint64(0) - value if negative else value), at


@njit(**NATIVE)
def is_name(here):
    return is_digit(here) or 97 <= (here | 32) <= 122 or here == 95


@njit(**NATIVE)
def match_one(block, at, end, operations, count, literals, numbers, words, room, k, nulls):
    """Read one payload; True if the layout fits all of it."""
    for number in range(count):
        step = operations + 8 * OPERATION_WORDS * number
        what, column = load(step), load(step + 8)
        if what == LITERAL:
            length = load(step + 16)
            if at + length > end or not same(at, literals + column, length):
                return False
            at += length
        elif what in (HEX, SIGNED, UNSIGNED):
            if what == HEX:
                value, after = read_hex(at, end)
            else:
                value, after = read_decimal(at, end, what == SIGNED)
            if after == at:
                if not word_is(at, end, FAULT, 7):
                    return False
                if column >= 0:
                    store(nulls + 8 * k, load(nulls + 8 * k) | (int64(1) << column))
                after = at + 7
            if column >= 0:
                store(numbers + 8 * (column * room + k), value)
            at = after
        elif what == MODULE:
            if at + 1 < end and byte(at) == SPACE and byte(at + 1) == BRACKET:
                at = min(find(at, end, BRACKET_END) + 1, end)
        else:
            stop, after = at, at
            if what == SYMBOL:
                while stop < end and is_name(byte(stop)):
                    stop += 1
                after = stop
                while after > at and after < end and (is_name(byte(after)) or byte(after) == DOT):
                    after += 1
                if stop == at:
                    return False
            else:
                stop = find_text(at, end, literals + load(step + 16), load(step + 24))
                if what == WORD:
                    blank = at
                    while blank < stop and not is_blank(byte(blank)):
                        blank += 1
                    if blank == at:
                        return False
                    stop = blank
                after = stop
            if column >= 0:
                store_half(words + 4 * (2 * column * room + k), at - block)
                store_half(words + 4 * ((2 * column + 1) * room + k), stop - block)
            at = after
    return skip_blanks(at, end) == end


@njit(**NATIVE)
def match(block, starts, ends, count, operations, steps, literals, numbers, words, nulls, fits):
    """Read `count` payloads, from and to the offsets `starts` and `ends` (int32), by a layout.

    Writes an int64 per number and payload, the offsets of start and end (int32) of each word, a
    mask of numbers that could not be read, and a byte: whether the layout fits.
    """
    for k in range(count):
        store(nulls + 8 * k, int64(0))
        at, end = block + load_half(starts + 4 * k), block + load_half(ends + 4 * k)
        fit = match_one(
            block, at, end, operations, steps, literals, numbers, words, count, k, nulls
        )
        store_byte(fits + k, int64(fit))
    return int64(0)


@njit(**NATIVE)
def hash_bytes(at, length):
    value = int64(0x1F83_D9AB_FB41_BD6B) ^ length
    while length >= 8:
        value = mix(value ^ load(at))
        at += 8
        length -= 8
    rest = load(at) & ((int64(1) << (8 * length)) - 1)
    return mix(value ^ rest)


@njit(**NATIVE)
def intern(block, starts, ends, count, table, slots, codes, firsts):
    """Number the different strings from `starts` to `ends` (offsets, int32) as they come: `codes`
    (int32) of each and `firsts` (int32), which is the first of each number. Returns how many
    there are, or -1 if more than half of the `slots` (a power of two) of `table` (int32, zero)
    would be used."""
    known = int64(0)
    for k in range(count):
        at = block + load_half(starts + 4 * k)
        length = block + load_half(ends + 4 * k) - at
        slot = hash_bytes(at, length) & (slots - 1)
        while True:
            code = load_half(table + 4 * slot) - 1
            if code < 0:
                if 2 * known >= slots:
                    return int64(-1)
                code = known
                known += 1
                store_half(table + 4 * slot, known)
                store_half(firsts + 4 * code, k)
                break
            first = load_half(firsts + 4 * code)
            other = block + load_half(starts + 4 * first)
            if block + load_half(ends + 4 * first) - other == length and same(at, other, length):
                break
            slot = (slot + 1) & (slots - 1)
        store_half(codes + 4 * k, code)
    return known


@njit(**NATIVE)
def own_stacks(stack, cpus, pids, count, last, owners):
    """Whose stack trace is whose: `stack` has a byte per event, `owners` (int32) becomes the event
    before it on the same CPU if that has its pid, else the event itself. `last` has CPU_SLOTS
    int32, all ones."""
    for k in range(count):
        slot = load_half(cpus + 4 * k) & (CPU_SLOTS - 1)
        owner = k
        if byte(stack + k):
            before = load_half(last + 4 * slot)
            if before < count and load_half(pids + 4 * before) == load_half(pids + 4 * k):
                owner = before
        else:
            store_half(last + 4 * slot, k)
        store_half(owners + 4 * k, owner)
    return int64(0)
