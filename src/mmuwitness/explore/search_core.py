"""The breadth-first search loop, as machine code: Python source that numba compiles once.

Imported only when no compiled copy is in the cache (see core_cache): nothing else may import it,
because importing numba costs more than a typical search. Every function works on plain addresses
and int64 words, so the result needs no Python, no numba run time and no garbage collector, and
can be called through ctypes, which releases the GIL.

The state array is also the queue. One worker owns one part of the states (all of them, when it
is alone); the part of a state is a function of its hash. A worker repeats two moves:

  produce  expand some states of its frontier; their successors go into one batch of its outbox,
           with one list of batch positions for each worker
  consume  take the next batch in the agreed order (round by round, worker 0 first) and add the
           entries on the list for this worker to its own states

All workers consume all batches in the same order, and which move comes next depends only on what
was consumed before. So every run with N workers numbers the states alike, and all workers come to
the same decision to stop at the same batch. A level is over when the last batch of that level of
every worker has been consumed, so depths are those of breadth-first search.

Why it is safe: a batch is written by its owner only, published by the release store to its
`produced` counter (pairs with the acquire load in `consume`) and overwritten only after every
worker has released its `taken` counter (pairs with the acquire load in `slot_is_free`). States,
parents and table are touched by their owner only. Room is checked before anything is written:
batch room before each call of the model, state and table room before a list is consumed.
"""

from __future__ import annotations

import platform

import llvmlite.binding as llvm
from llvmlite import ir
from numba import int64, njit
from numba.extending import intrinsic

from mmuwitness.explore.search import (
    BATCH_COUNTS,
    BATCH_WORDS,
    BLOCK,
    BUCKET_SLOTS,
    LINE_BYTES,
    NO_PARENT,
    Status,
    Worker,
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
PAUSES = {"x86_64": "llvm.x86.sse2.pause", "aarch64": "llvm.aarch64.hint"}
SPINS = 3000  # looks at another worker's counter before the driver is asked to sleep

SUCCESSORS, MAX_SUCCESSORS = Worker.successors.offset, Worker.max_successors.offset
META, INFO, CANDIDATES = Worker.meta.offset, Worker.info.offset, Worker.candidates.offset
STATES, PARENTS = Worker.states.offset, Worker.parents.offset
BUCKETS, BUCKET_COUNT = Worker.buckets.offset, Worker.bucket_count.offset
COUNT, CAPACITY, NEEDED = Worker.count.offset, Worker.capacity.offset, Worker.needed.offset
HEAD, EDGES, DEPTH = Worker.head.offset, Worker.edges.offset, Worker.depth.offset
LEVEL_START, LEVEL_END = Worker.level_start.offset, Worker.level_end.offset
LEVEL_SENT, LEVEL_DONE = Worker.level_sent.offset, Worker.level_done.offset
LEVEL_EXPANDED, PAUSE_AT = Worker.level_expanded.offset, Worker.pause_at.offset
PART, PARTS, TURN = Worker.part.offset, Worker.parts.offset, Worker.turn.offset
OUTBOXES, BOARD, RING = Worker.outboxes.offset, Worker.board.offset, Worker.ring.offset
BATCH_ROOM, BATCH_BYTES = Worker.batch_room.offset, Worker.batch_bytes.offset
OUT = Worker.out.offset
SECTION_BYTES = Worker.section_bytes.offset
WANT_CLAIMS, WANT_COVERS = Worker.want_claims.offset, Worker.want_covers.offset
WANT_DEADLOCK, WANT_ANY = Worker.want_deadlock.offset, Worker.want_any.offset
ALL_CLAIMS, ALL_COVERS = Worker.all_claims.offset, Worker.all_covers.offset
ALL_DEADLOCK, OUTCOME = Worker.all_deadlock.offset, Worker.outcome.offset
CLAIMS, COVERS, DEADLOCK = Worker.claims.offset, Worker.covers.offset, Worker.deadlock.offset
DEADLOCK_STATE, DEADLOCK_DEPTH = Worker.deadlock_state.offset, Worker.deadlock_depth.offset
ERROR_STATE, ERROR_SITE = Worker.error_state.offset, Worker.error_site.offset
ERROR_LABEL = Worker.error_label.offset
CLAIM_STATE, CLAIM_DEPTH = Worker.claim_state.offset, Worker.claim_depth.offset
COVER_STATE, COVER_DEPTH = Worker.cover_state.offset, Worker.cover_depth.offset
COVER_LABEL = Worker.cover_label.offset

SPENT, NO_ROOM, WAITING = int(Status.SPENT), int(Status.NO_ROOM), int(Status.WAITING)
COMPLETE, DECIDED, ERROR = int(Status.COMPLETE), int(Status.DECIDED), int(Status.ERROR)
BROKEN, LARGE = int(Status.BROKEN), int(Status.LARGE)

_BYTE, _HALF, _WORD, _WIDE = (ir.IntType(bits) for bits in (8, 32, 64, 128))
_TAGS = ir.VectorType(_BYTE, 16)


@intrinsic
def load(_typing, address):
    """The 64-bit word at `address`."""

    def emit(_context, builder, _signature, args):
        return builder.load(builder.inttoptr(args[0], _WORD.as_pointer()))

    return int64(int64), emit


@intrinsic
def store(_typing, address, value):
    """Write the 64-bit word `value` at `address`."""

    def emit(_context, builder, _signature, args):
        builder.store(args[1], builder.inttoptr(args[0], _WORD.as_pointer()))
        return args[1]

    return int64(int64, int64), emit


@intrinsic
def load_half(_typing, address):
    """The 32-bit word at `address`, zero-extended."""

    def emit(_context, builder, _signature, args):
        pointer = builder.inttoptr(args[0], _HALF.as_pointer())
        return builder.zext(builder.load(pointer), _WORD)

    return int64(int64), emit


@intrinsic
def store_half(_typing, address, value):
    """Write the low 32 bits of `value` at `address`."""

    def emit(_context, builder, _signature, args):
        pointer = builder.inttoptr(args[0], _HALF.as_pointer())
        builder.store(builder.trunc(args[1], _HALF), pointer)
        return args[1]

    return int64(int64, int64), emit


@intrinsic
def store_byte(_typing, address, value):
    """Write the low 8 bits of `value` at `address`."""

    def emit(_context, builder, _signature, args):
        pointer = builder.inttoptr(args[0], _BYTE.as_pointer())
        builder.store(builder.trunc(args[1], _BYTE), pointer)
        return args[1]

    return int64(int64, int64), emit


@intrinsic
def load_acquire(_typing, address):
    """The word at `address`; what its writer did before `store_release` is visible after it."""

    def emit(_context, builder, _signature, args):
        pointer = builder.inttoptr(args[0], _WORD.as_pointer())
        return builder.load_atomic(pointer, "acquire", 8)

    return int64(int64), emit


@intrinsic
def store_release(_typing, address, value):
    """Write `value` at `address`, after everything this thread read or wrote before."""

    def emit(_context, builder, _signature, args):
        pointer = builder.inttoptr(args[0], _WORD.as_pointer())
        builder.store_atomic(args[1], pointer, "release", 8)
        return args[1]

    return int64(int64, int64), emit


@intrinsic
def prefetch(_typing, address):
    """Ask for the cache line at `address`. Never faults, whatever the address."""

    def emit(_context, builder, _signature, args):
        pointer = builder.inttoptr(args[0], _BYTE.as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [_BYTE.as_pointer(), _HALF, _HALF, _HALF])
        function = builder.module.declare_intrinsic("llvm.prefetch", [_BYTE.as_pointer()], kind)
        builder.call(function, [pointer, _HALF(0), _HALF(3), _HALF(1)])
        return args[0]

    return int64(int64), emit


@intrinsic
def call_model(_typing, function, state, out, meta, info):
    """Call the model's native successor function; its address is an argument, never baked in."""

    def emit(_context, builder, _signature, args):
        kind = ir.FunctionType(_WORD, [_WORD.as_pointer()] * 4)
        pointers = [builder.inttoptr(value, _WORD.as_pointer()) for value in args[1:]]
        return builder.call(builder.inttoptr(args[0], kind.as_pointer()), pointers)

    return int64(int64, int64, int64, int64, int64), emit


@intrinsic
def pause(_typing):
    """Tell the processor that this is a waiting loop, where it has a word for that."""
    def emit(_context, builder, _signature, _args):
        if name := PAUSES.get(platform.machine()):
            kind = ir.FunctionType(ir.VoidType(), [_HALF] if name.endswith("hint") else [])
            function = builder.module.declare_intrinsic(name, (), kind)
            builder.call(function, [_HALF(1)] if name.endswith("hint") else [])
        return _WORD(0)
    return int64(), emit


@intrinsic
def mix(_typing, word):
    """Multiply by an odd constant to 128 bits and fold the halves: every bit moves many."""

    def emit(_context, builder, _signature, args):
        product = builder.mul(
            builder.zext(args[0], _WIDE), ir.Constant(_WIDE, 0x9E37_79B9_7F4A_7C15)
        )
        high = builder.trunc(builder.lshr(product, ir.Constant(_WIDE, 64)), _WORD)
        return builder.xor(builder.trunc(product, _WORD), high)

    return int64(int64), emit


@intrinsic
def scale(_typing, word, count):
    """Map an unsigned 64-bit `word` evenly to 0 .. count - 1: the high half of the product."""

    def emit(_context, builder, _signature, args):
        product = builder.mul(builder.zext(args[0], _WIDE), builder.zext(args[1], _WIDE))
        return builder.trunc(builder.lshr(product, ir.Constant(_WIDE, 64)), _WORD)

    return int64(int64, int64), emit


@intrinsic
def tag_matches(_typing, bucket, tag):
    """Bit k is set if tag byte k of the 64-byte bucket equals `tag`, for its 12 slots."""

    def emit(_context, builder, _signature, args):
        tags = builder.load(builder.inttoptr(args[0], _TAGS.as_pointer()), align=16)
        one = builder.insert_element(
            ir.Constant(_TAGS, ir.Undefined), builder.trunc(args[1], _BYTE), _HALF(0)
        )
        zeros = ir.Constant(ir.VectorType(_HALF, 16), [0] * 16)
        equal = builder.icmp_unsigned("==", tags, builder.shuffle_vector(one, one, zeros))
        mask = builder.zext(builder.bitcast(equal, ir.IntType(16)), _WORD)
        return builder.and_(mask, _WORD((1 << BUCKET_SLOTS) - 1))

    return int64(int64, int64), emit


@intrinsic
def lowest_bit(_typing, word):
    """The position of the lowest set bit; 64 if there is none."""

    def emit(_context, builder, _signature, args):
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))

    return int64(int64), emit


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
            matches &= matches - 1
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
                words + k * 8 * width, load_half(origins + 4 * k), load(hashes + 8 * k),
                count, states, parents, buckets, bucket_count, width,
            )
        start = end
    store(worker + COUNT, count)
    return count


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
        left &= left - 1
    if load(info + 8) != 0 and load(worker + DEADLOCK) == 0:
        store(worker + DEADLOCK, int64(1))
        store(worker + DEADLOCK_STATE, state)
        store(worker + DEADLOCK_DEPTH, depth)
    if load(info + 16) == 0:
        return False
    store(worker + ERROR_STATE, state)
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
        marks &= marks - 1


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
            out = batch + BATCH_WORDS + used * 8 * width
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
            words = batch + BATCH_WORDS + other * section_bytes
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
    store(batch, int64(head == level_end))
    store(batch + 8, head - first)
    store(batch + 16, load(worker + CLAIMS))
    store(batch + 24, load(worker + COVERS))
    store(batch + 32, load(worker + DEADLOCK))
    store(batch + 40, int64(failed))
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
    for taker in range(load(worker + PARTS)):
        spins = 0
        while load_acquire(taken_at(worker, taker, part)) <= oldest:
            spins += 1
            if spins > SPINS:
                return False
            pause()
    return True


@njit(**NATIVE)
def batch_is_there(worker, maker, taken):
    """True once `maker` has published its batch number `taken`."""
    spins = 0
    while load_acquire(load(worker + BOARD) + LINE_BYTES * maker) <= taken:
        spins += 1
        if spins > SPINS:
            return False
        pause()
    return True


@njit(**NATIVE)
def decide(worker, batch):
    """Fold the findings of a consumed batch; the outcome if they end the search, else SPENT."""
    claims = load(worker + ALL_CLAIMS) | load(batch + 16)
    covers = load(worker + ALL_COVERS) | load(batch + 24)
    deadlock = load(worker + ALL_DEADLOCK) | load(batch + 32)
    store(worker + ALL_CLAIMS, claims)
    store(worker + ALL_COVERS, covers)
    store(worker + ALL_DEADLOCK, deadlock)
    if load(batch + 40) != 0:
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
    store(worker + LEVEL_START, load(worker + LEVEL_END))
    store(worker + LEVEL_END, load(worker + COUNT))
    store(worker + DEPTH, load(worker + DEPTH) + 1)
    store(worker + LEVEL_SENT, int64(0))
    store(worker + LEVEL_DONE, int64(0))
    store(worker + LEVEL_EXPANDED, int64(0))
    store(worker + TURN, int64(0))
    return LARGE if load(worker + COUNT) >= load(worker + PAUSE_AT) else SPENT


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
    words = batch + BATCH_WORDS + part * load(worker + SECTION_BYTES)
    absorb(worker, words, entries, width)
    last, expanded = load(batch), load(batch + 8)
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
    if status != NO_ROOM and status != WAITING and status != LARGE:
        store(worker + OUTCOME, status)
    return status


@njit(**NATIVE)
def rebuild(worker, width, first, end):
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
    and write their new global indices to the 32-bit array at `renamed`. The many have room."""
    parts = load(load(workers) + PARTS)
    states, parents = load(worker + STATES), load(worker + PARENTS)
    for state in range(first, end):
        source = states + state * 8 * width
        owner = part_of(hash_of(source, width), parts)
        target = load(workers + 8 * owner)
        local = load(target + COUNT)
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


def emit():
    """Compile the entries to the text of one LLVM module, in which they are called loop_NAME and
    follow numba's calling convention: i32 status (result pointer, exception pointer, i64 ...)."""
    module = llvm.parse_assembly("")
    for function, arguments in ((run, 3), (rebuild, 4), (deal, 6)):
        signature = (int64,) * arguments
        function.compile(signature)
        mangled = function.overloads[signature].fndesc.llvm_func_name
        compiled = llvm.parse_assembly(function.inspect_llvm(signature))
        compiled.get_function(mangled).name = f"loop_{function.__name__}"
        module.link_in(compiled)
    return str(module)
