"""The breadth-first search loop: Python source that numba compiles once, to machine code.

Imported only when no compiled copy is in the cache (see core_cache): nothing else may import it,
because importing numba costs more than a typical search. Every function works on plain addresses
and int64 words, so the result needs no Python, no numba run time and no garbage collector, and
can be called through ctypes, which releases the GIL. search_memory describes the words.

The state array is also the queue. A worker owns one part of the states (all of them, when it is
alone); which one a state belongs to is a function of its hash. A worker repeats two moves:

  produce  expand some states of its frontier into a batch of its outbox, which has one section
           for each worker: the successors that belong to that one
  consume  take the next batch in the agreed order (round by round, worker 0 first) and add what
           is in the own section of it to the own states

All workers consume all batches in the same order, and which move comes next depends only on what
was consumed before. So every run with N workers numbers the states alike, and all workers come to
the same decision to stop at the same batch. A level is over when the last batch of that level of
every worker has been consumed, so depths are those of breadth-first search. No worker can wait
for ever: it waits only for one that is behind it in that order.

Why it is safe: a batch is written by its owner only, published by the release store to its
`produced` counter (pairs with the acquire load in `batch_is_there`) and overwritten only after
every worker has released its `taken` counter (pairs with the acquire load in `slot_is_free`).
States, parents and table are touched by their owner only. Room is checked before anything is
written: in the batch before each call of the model, for states and table before a section is
consumed.
"""
# mypy: ignore-errors
# (numba infers these types itself, and knows its intrinsics where mypy does not)

from __future__ import annotations

from numba import int64, njit

from mmuwitness.explore.search_memory import (
    BATCH_COUNTS,
    BATCH_SECTIONS,
    LINE_BYTES,
    Status,
    offsets,
)
from mmuwitness.explore.search_table import (
    NATIVE,
    absorb,
    deal,
    emit_loops,
    enter,
    hash_of,
    part_of,
)
from mmuwitness.explore.search_words import (
    call_model,
    drop_lowest_bit,
    load,
    load_acquire,
    lowest_bit,
    pause,
    store,
    store_half,
    store_release,
)

SUCCESSORS, MAX_SUCCESSORS, META, INFO, OUT = offsets("successors max_successors meta info out")
STATES, COUNT, CAPACITY, NEEDED = offsets("states count capacity needed")
HEAD, EDGES, DEPTH, LEVEL_START, LEVEL_END, LEVEL_SENT, LEVEL_DONE, LEVEL_EXPANDED = offsets(
    "head edges depth level_start level_end level_sent level_done level_expanded"
)
DIVIDE_STATES, DIVIDE_FRONTIER, PART, PARTS, TURN, PATIENCE = offsets(
    "divide_states divide_frontier part parts turn patience"
)
OUTBOXES, BOARD, RING, BATCH_BYTES, BATCH_ROOM, SECTION_BYTES = offsets(
    "outboxes board ring batch_bytes batch_room section_bytes"
)
WANT_CLAIMS, WANT_COVERS, WANT_DEADLOCK, WANT_ANY, ALL_CLAIMS, ALL_COVERS, ALL_DEADLOCK = offsets(
    "want_claims want_covers want_deadlock want_any all_claims all_covers all_deadlock"
)
OUTCOME, CLAIMS, COVERS, DEADLOCK, DEADLOCK_STATE, DEADLOCK_DEPTH = offsets(
    "outcome claims covers deadlock deadlock_state deadlock_depth"
)
ERROR_STATE, ERROR_DEPTH, ERROR_SITE, ERROR_LABEL = offsets(
    "error_state error_depth error_site error_label"
)
CLAIM_STATE, CLAIM_DEPTH, COVER_STATE, COVER_DEPTH, COVER_LABEL = offsets(
    "claim_state claim_depth cover_state cover_depth cover_label"
)
SPENT, NO_ROOM, WAITING, LARGE, COMPLETE, DECIDED, ERROR, BROKEN = map(int, Status)

# Words at the start of a batch: is it the last of its level, how many states were expanded, and
# what its maker has found so far.
LAST, EXPANDED, FOUND_CLAIMS, FOUND_COVERS, FOUND_DEADLOCK, FAILED = range(0, 48, 8)


@njit(**NATIVE)
def note_state(worker, state, info):
    """Remember the first state that violates a claim, is a deadlock or errs. True on an error."""
    depth = load(worker + DEPTH)
    seen = load(worker + CLAIMS)
    left = load(info) & ~seen
    store(worker + CLAIMS, seen | left)
    while left != 0:
        bit = lowest_bit(left)
        store(worker + CLAIM_STATE + 8 * bit, state)
        store(worker + CLAIM_DEPTH + 8 * bit, depth)
        left = drop_lowest_bit(left)
    if load(info + 8) != 0 and load(worker + DEADLOCK) == 0:
        store(worker + DEADLOCK, int64(1))
        store(worker + DEADLOCK_STATE, state)
        store(worker + DEADLOCK_DEPTH, depth)
    if load(info + 16) == 0:
        return False
    if load(worker + ERROR_SITE) != 0:  # from a batch that is not consumed yet
        return True
    store(worker + ERROR_STATE, state)
    store(worker + ERROR_DEPTH, depth)
    store(worker + ERROR_SITE, load(info + 16))
    store(worker + ERROR_LABEL, load(info + 24))
    return True


@njit(**NATIVE)
def note_covers(worker, state, label, marks):
    """Remember the first step that executes each new mark."""
    store(worker + COVERS, load(worker + COVERS) | marks)
    while marks != 0:
        bit = lowest_bit(marks)
        store(worker + COVER_STATE + 8 * bit, state)
        store(worker + COVER_LABEL + 8 * bit, label)
        store(worker + COVER_DEPTH + 8 * bit, load(worker + DEPTH))
        marks = drop_lowest_bit(marks)


@njit(**NATIVE)
def produce(worker, batch, width):
    """Expand states into `batch` until it is full or the level ends. Returns the entries, or -1
    if the model claims more successors than it was declared to have."""
    successors, most = load(worker + SUCCESSORS), load(worker + MAX_SUCCESSORS)
    meta, info, out = load(worker + META), load(worker + INFO), load(worker + OUT)
    states, room = load(worker + STATES), load(worker + BATCH_ROOM)
    part, parts = load(worker + PART), load(worker + PARTS)
    head, level_end = load(worker + HEAD), load(worker + LEVEL_END)
    counts, section_bytes = batch + BATCH_COUNTS, load(worker + SECTION_BYTES)
    used, first, failed = int64(0), head, False
    for other in range(parts):
        store(counts + 8 * other, int64(0))
    while head < level_end and used + most <= room and not failed:
        if parts == 1:
            out = batch + BATCH_SECTIONS + used * 8 * width
        many = call_model(successors, states + head * 8 * width, out, meta, info)
        if many < 0 or many > most:
            return int64(-1)
        state = head * parts + part
        news = load(info) & ~load(worker + CLAIMS)
        news |= load(info + 8) & ~load(worker + DEADLOCK)
        if (news | load(info + 16)) != 0:
            failed = note_state(worker, state, info)
        head += 1
        for k in range(many):
            marks = load(meta + 16 * k + 8) & ~load(worker + COVERS)
            if marks != 0:
                note_covers(worker, state, load(meta + 16 * k), marks)
            successor = out + k * 8 * width
            value = hash_of(successor, width)
            other = part_of(value, parts)
            words = batch + BATCH_SECTIONS + other * section_bytes
            at = load(counts + 8 * other)
            if parts > 1:
                for word in range(width):
                    store(words + (at * width + word) * 8, load(successor + 8 * word))
            store(words + (room * width + at) * 8, value)
            store_half(words + (room * width + room) * 8 + 4 * at, state)
            store(counts + 8 * other, at + 1)
        used += many
    store(worker + HEAD, head)
    store(worker + EDGES, load(worker + EDGES) + used)
    store(worker + LEVEL_SENT, int64(head == level_end))
    store(batch + LAST, int64(head == level_end))
    store(batch + EXPANDED, head - first)
    store(batch + FOUND_CLAIMS, load(worker + CLAIMS))
    store(batch + FOUND_COVERS, load(worker + COVERS))
    store(batch + FOUND_DEADLOCK, load(worker + DEADLOCK))
    store(batch + FAILED, int64(failed))
    return used


@njit(**NATIVE)
def taken_at(worker, taker, maker):
    """Address of the count of batches of `maker` that `taker` has consumed."""
    parts = load(worker + PARTS)
    return load(worker + BOARD) + LINE_BYTES * (parts + taker * parts + maker)


@njit(**NATIVE)
def slot_is_free(worker, produced):
    """True once every worker has consumed the batch which the next one will overwrite."""
    part, oldest = load(worker + PART), produced - load(worker + RING)
    patience = load(worker + PATIENCE)
    for taker in range(load(worker + PARTS)):
        spins = 0
        while load_acquire(taken_at(worker, taker, part)) <= oldest:
            spins += 1
            if spins > patience:
                return False
            pause()
    return True


@njit(**NATIVE)
def batch_is_there(worker, maker, taken):
    """True once `maker` has published its batch number `taken`."""
    spins, patience = 0, load(worker + PATIENCE)
    while load_acquire(load(worker + BOARD) + LINE_BYTES * maker) <= taken:
        spins += 1
        if spins > patience:
            return False
        pause()
    return True


@njit(**NATIVE)
def decide(worker, batch):
    """Fold the findings of a consumed batch; the outcome if they end the search, else SPENT."""
    claims = load(worker + ALL_CLAIMS) | load(batch + FOUND_CLAIMS)
    covers = load(worker + ALL_COVERS) | load(batch + FOUND_COVERS)
    deadlock = load(worker + ALL_DEADLOCK) | load(batch + FOUND_DEADLOCK)
    store(worker + ALL_CLAIMS, claims)
    store(worker + ALL_COVERS, covers)
    store(worker + ALL_DEADLOCK, deadlock)
    if load(batch + FAILED) != 0:
        return ERROR
    want_claims, want_covers = load(worker + WANT_CLAIMS), load(worker + WANT_COVERS)
    want_deadlock = load(worker + WANT_DEADLOCK)
    claims, covers, deadlock = claims & want_claims, covers & want_covers, deadlock & want_deadlock
    if load(worker + WANT_ANY) != 0:
        return DECIDED if (claims | covers | deadlock) != 0 else SPENT
    if (want_claims | want_covers | want_deadlock) == 0:
        return SPENT
    missing = (claims ^ want_claims) | (covers ^ want_covers) | (deadlock ^ want_deadlock)
    return DECIDED if missing == 0 else SPENT


@njit(**NATIVE)
def close_level(worker):
    """All batches of the level are consumed: what was added since is the next frontier. COMPLETE
    if no worker expanded anything, LARGE if the driver wants to divide the states, else SPENT."""
    if load(worker + LEVEL_EXPANDED) == 0:
        return COMPLETE
    count, frontier = load(worker + COUNT), load(worker + COUNT) - load(worker + LEVEL_END)
    store(worker + LEVEL_START, load(worker + LEVEL_END))
    store(worker + LEVEL_END, count)
    store(worker + DEPTH, load(worker + DEPTH) + 1)
    store(worker + LEVEL_SENT, int64(0))
    store(worker + LEVEL_DONE, int64(0))
    store(worker + LEVEL_EXPANDED, int64(0))
    store(worker + TURN, int64(0))
    large = count >= load(worker + DIVIDE_STATES) and frontier >= load(worker + DIVIDE_FRONTIER)
    return LARGE if large else SPENT


@njit(**NATIVE)
def consume(worker, maker, taken, width):
    """Consume batch number `taken` of `maker`. SPENT, or why it could not or must not go on."""
    part, parts = load(worker + PART), load(worker + PARTS)
    if not batch_is_there(worker, maker, taken):
        return WAITING
    batch = load(load(worker + OUTBOXES) + 8 * maker)
    batch += (taken % load(worker + RING)) * load(worker + BATCH_BYTES)
    entries = load(batch + BATCH_COUNTS + 8 * part)
    if load(worker + COUNT) + entries > load(worker + CAPACITY):
        store(worker + NEEDED, entries)
        return NO_ROOM
    words = batch + BATCH_SECTIONS + part * load(worker + SECTION_BYTES)
    absorb(worker, words, entries, width)
    last, expanded = load(batch + LAST), load(batch + EXPANDED)
    outcome = decide(worker, batch)
    store_release(taken_at(worker, part, maker), taken + 1)
    store(worker + LEVEL_EXPANDED, load(worker + LEVEL_EXPANDED) + expanded)
    done = load(worker + LEVEL_DONE) | (last << maker)
    store(worker + LEVEL_DONE, done)
    everyone = (int64(1) << parts) - 1
    if done == everyone:
        closed = close_level(worker)
        return outcome if outcome != SPENT else closed
    turn = (maker + 1) % parts
    while (done >> turn) & 1:
        turn = (turn + 1) % parts
    store(worker + TURN, turn)
    return outcome


@njit(**NATIVE)
def run(worker, width, budget):
    """Search until about `budget` states and edges are handled or the driver is needed. Returns
    a Status. May be called again after SPENT, WAITING, NO_ROOM (with more room) and LARGE."""
    if load(worker + OUTCOME) != SPENT:
        return load(worker + OUTCOME)
    part, ring = load(worker + PART), load(worker + RING)
    outbox = load(load(worker + OUTBOXES) + 8 * part)
    produced_at = load(worker + BOARD) + LINE_BYTES * part
    status = SPENT
    while status == SPENT and budget > 0:
        produced = load(produced_at)
        ahead = produced - load(taken_at(worker, part, part))
        if load(worker + LEVEL_SENT) == 0 and ahead < max(ring - 1, 1):
            if not slot_is_free(worker, produced):
                return WAITING
            batch = outbox + (produced % ring) * load(worker + BATCH_BYTES)
            head = load(worker + HEAD)
            used = produce(worker, batch, width)
            if used < 0:
                status = BROKEN
                break
            budget -= used + load(worker + HEAD) - head + 1
            store_release(produced_at, produced + 1)
        else:
            maker = load(worker + TURN)
            count = load(worker + COUNT)
            status = consume(worker, maker, load(taken_at(worker, part, maker)), width)
            budget -= load(worker + COUNT) - count
    if status not in (NO_ROOM, WAITING, LARGE):
        store(worker + OUTCOME, status)
    return status


def emit() -> str:
    """The entries as LLVM text."""
    return emit_loops(((run, 3), (enter, 4), (deal, 6)))
