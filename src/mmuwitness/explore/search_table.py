"""The table of states: which are known. Machine code, compiled together with search_core.

Open addressing over buckets of one cache line each: 16 bytes of tags (8 bits of the hash; 0: the
slot is empty), then 12 slots with the index of a state. A state goes into the first bucket with
a free slot, starting at the one its hash names; nothing is ever taken out. So a search for it may
end at the first bucket that has a free slot. A table is never full (search_memory.LOAD), so every
search ends.
"""
# mypy: ignore-errors
# (numba infers these types itself, and knows its intrinsics where mypy does not)

from __future__ import annotations

import llvmlite.binding as llvm
from numba import config, int64, njit

from mmuwitness.explore.search_memory import (
    BLOCK,
    BUCKET_SLOTS,
    LINE_BYTES,
    NO_PARENT,
    offsets,
)
from mmuwitness.explore.search_words import (
    drop_lowest_bit,
    load,
    load_half,
    lowest_bit,
    mix,
    prefetch,
    scale,
    store,
    store_byte,
    store_half,
    tag_matches,
)

# No run time of numba's (reference counts), no Python wrapper, no exception for a zero divisor.
NATIVE = {
    "nogil": True,
    "_nrt": False,
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
    "error_model": "numpy",
}

SLOTS_AT = 16  # byte offset of the 32-bit slots in a bucket; before them one tag byte per slot

STATES, PARENTS, BUCKETS, BUCKET_COUNT, COUNT, CAPACITY, CANDIDATES, BATCH_ROOM, PARTS = offsets(
    "states parents buckets bucket_count count capacity candidates batch_room parts"
)


@njit(**NATIVE)
def hash_of(state, width):
    """64 bits from all words: the high ones choose the bucket, the low ones tag and part."""
    value = int64(0x1F83_D9AB_FB41_BD6B)
    for word in range(width):
        value = mix(value ^ load(state + 8 * word))
    return value


@njit(**NATIVE)
def part_of(value, parts):
    """The worker that owns a state of this hash. Uses bits which neither tag nor bucket need."""
    return (((value >> 8) & 0xFFFFFF) * parts) >> 24


@njit(**NATIVE)
def tag_of(value):
    """A tag from 1 to 255; 0 marks an empty slot."""
    tag = value & 255
    return tag + (tag == 0)


@njit(**NATIVE)
def same(left, right, width):
    """Whole states are compared, so the search is exact whatever the hash does."""
    difference = int64(0)
    for word in range(width):
        difference |= load(left + 8 * word) ^ load(right + 8 * word)
    return difference == 0


@njit(**NATIVE)
def add_state(state, parent, value, count, states, parents, buckets, bucket_count, width):
    """Add a state unless it is known. The caller has checked the room. Returns the new count."""
    tag = tag_of(value)
    bucket = scale(value, bucket_count)
    while True:
        at = buckets + bucket * LINE_BYTES
        matches = tag_matches(at, tag)
        while matches != 0:
            known = load_half(at + SLOTS_AT + 4 * lowest_bit(matches))
            if same(states + known * 8 * width, state, width):
                return count
            matches = drop_lowest_bit(matches)
        free = tag_matches(at, int64(0))
        if free != 0:
            slot = lowest_bit(free)
            store_byte(at + slot, tag)
            store_half(at + SLOTS_AT + 4 * slot, count)
            for word in range(width):
                store(states + (count * width + word) * 8, load(state + 8 * word))
            store_half(parents + 4 * count, parent)
            return count + 1
        bucket += 1
        if bucket == bucket_count:
            bucket = int64(0)


@njit(**NATIVE)
def absorb(worker, words, total, width):
    """Add `total` states at `words` (their hashes and parents behind them) to those of this
    worker. Four passes per block, so that the cache misses of a block overlap: ask for the
    buckets; ask for the states they name; drop the entries that are equal to those; add the rest,
    few of which turn out to be known."""
    room = load(worker + BATCH_ROOM)
    hashes = words + room * width * 8
    origins = hashes + room * 8
    states, parents = load(worker + STATES), load(worker + PARENTS)
    buckets, bucket_count = load(worker + BUCKETS), load(worker + BUCKET_COUNT)
    candidates, count = load(worker + CANDIDATES), load(worker + COUNT)
    start = int64(0)
    while start < total:
        end = min(start + BLOCK, total)
        for k in range(start, end):
            prefetch(buckets + scale(load(hashes + 8 * k), bucket_count) * LINE_BYTES)
        for k in range(start, end):
            value = load(hashes + 8 * k)
            at = buckets + scale(value, bucket_count) * LINE_BYTES
            matches = tag_matches(at, tag_of(value))
            slot = lowest_bit(matches | (1 << (BUCKET_SLOTS - 1)))
            known = load_half(at + SLOTS_AT + 4 * slot)
            known = known if matches != 0 else int64(0)
            for byte in range(0, 8 * width - 8, LINE_BYTES):
                prefetch(states + known * 8 * width + byte)
            prefetch(states + known * 8 * width + 8 * width - 8)
            store(candidates + 8 * (k - start), known)
        fresh = int64(0)
        for k in range(start, end):
            known = load(candidates + 8 * (k - start))
            found = same(states + known * 8 * width, words + k * 8 * width, width)
            store(candidates + 8 * fresh, k)
            fresh += int64(1) - int64(found)
        for n in range(fresh):
            k = load(candidates + 8 * n)
            count = add_state(
                words + k * 8 * width,
                load_half(origins + 4 * k),
                load(hashes + 8 * k),
                count,
                states,
                parents,
                buckets,
                bucket_count,
                width,
            )
        start = end
    store(worker + COUNT, count)
    return count


@njit(**NATIVE)
def enter(worker, width, first, end):
    """Enter the states first .. end - 1, all distinct and not in the table, into the table."""
    states = load(worker + STATES)
    buckets, bucket_count = load(worker + BUCKETS), load(worker + BUCKET_COUNT)
    hashes = load(worker + CANDIDATES)
    while first < end:
        stop = min(first + BLOCK, end)
        for state in range(first, stop):
            value = hash_of(states + state * 8 * width, width)
            store(hashes + 8 * (state - first), value)
            prefetch(buckets + scale(value, bucket_count) * LINE_BYTES)
        for state in range(first, stop):
            value = load(hashes + 8 * (state - first))
            bucket = scale(value, bucket_count)
            free = tag_matches(buckets + bucket * LINE_BYTES, int64(0))
            while free == 0:
                bucket += 1
                if bucket == bucket_count:
                    bucket = int64(0)
                free = tag_matches(buckets + bucket * LINE_BYTES, int64(0))
            at, slot = buckets + bucket * LINE_BYTES, lowest_bit(free)
            store_byte(at + slot, tag_of(value))
            store_half(at + SLOTS_AT + 4 * slot, state)
        first = stop
    return first


@njit(**NATIVE)
def deal(worker, width, first, end, workers, renamed):
    """Hand the states first .. end - 1 of a lone worker to many, each to the owner of its hash,
    and write their new global indices to the 32-bit array at `renamed`. Returns `end`, or the
    state whose owner has no room for it."""
    parts = load(load(workers) + PARTS)
    states, parents = load(worker + STATES), load(worker + PARENTS)
    for state in range(first, end):
        source = states + state * 8 * width
        owner = part_of(hash_of(source, width), parts)
        target = load(workers + 8 * owner)
        local = load(target + COUNT)
        if local >= load(target + CAPACITY):
            return state
        copy = load(target + STATES) + local * 8 * width
        for word in range(width):
            store(copy + 8 * word, load(source + 8 * word))
        parent = load_half(parents + 4 * state)
        if parent != NO_PARENT:
            parent = load_half(renamed + 4 * parent)
        store_half(load(target + PARENTS) + 4 * local, parent)
        store_half(renamed + 4 * state, local * parts + owner)
        store(target + COUNT, local + 1)
    return end


def emit_loops(entries) -> str:
    """Compile functions of (address, width, ...) to the text of one LLVM module, in which they are
    called loop_NAME and follow numba's calling convention: i32 status (result pointer, exception
    pointer, i64 ...).  entries: each with its number of arguments."""
    if config.DISABLE_JIT:
        raise RuntimeError("these loops have to be compiled once: unset NUMBA_DISABLE_JIT")
    module = llvm.parse_assembly("")
    for function, arguments in entries:
        signature = (int64,) * arguments
        function.compile(signature)
        mangled = function.overloads[signature].fndesc.llvm_func_name
        compiled = llvm.parse_assembly(function.inspect_llvm(signature))
        compiled.get_function(mangled).name = f"loop_{function.__name__}"
        module.link_in(compiled)
    return str(module)
