"""What the search loop and its driver share: memory, and the layout of it.

The loop (search_core) is machine code that knows addresses and 64-bit words only. Everything it
reads or writes is described here, once: the numbers, the words of one worker, and the arrays of
states, parents and table which belong to a worker.
"""

from __future__ import annotations

import ctypes
import mmap
from enum import IntEnum

from mmuwitness.explore.core_cache import Core

LINE_BYTES = 64  # a cache line, and a bucket of the table: 16 bytes of tags, 12 slots of 4 bytes
BUCKET_SLOTS = 12
THREADS_MAX = 62  # one bit each in a signed word
BATCH_COUNTS = 64  # byte offset in a batch of the number of entries for each worker
BATCH_SECTIONS = BATCH_COUNTS + 8 * (THREADS_MAX + 2)  # byte offset of the entries themselves
BLOCK = 256  # entries whose cache misses overlap; their lines fit the first-level cache
NO_PARENT = 0xFFFF_FFFF  # of the initial state
INDEX_LIMIT = NO_PARENT - 1  # states that 32-bit indices can tell apart

LOAD = 0.8  # of the slots; with more, too many buckets overflow
FIRST_CAPACITY = 4096  # states: a small search touches little memory
ENTER_STEP = 1 << 18  # states entered into a new table between two looks for Ctrl-C
HUGE_BYTES = 1 << 22  # memory from this size on asks for huge pages


class Status(IntEnum):
    """Why the loop came back."""

    SPENT = 0  # the budget is used up
    NO_ROOM = 1  # `needed` more states might not fit
    WAITING = 2  # for another worker, longer than it takes to sleep
    LARGE = 3  # a level is over, and there are enough states to divide
    COMPLETE = 4  # no state is left to expand
    DECIDED = 5  # what StopWhen asks for was found
    ERROR = 6  # the model reported an error
    BROKEN = 7  # the model reported more successors than it may have


class Worker(ctypes.Structure):
    """All that the loop knows of one worker: 64-bit words, addresses among them."""

    successors: int
    max_successors: int
    meta: int  # scratch, written by the model for each state
    info: int
    out: int
    candidates: int  # scratch, one word for each entry of a block
    states: int  # `count` states of this part, in order of discovery
    parents: int  # 32 bits each, global indices
    buckets: int
    bucket_count: int
    count: int
    capacity: int
    needed: int
    head: int  # the next state to expand; all before it are
    edges: int
    depth: int  # of the level that starts and ends at:
    level_start: int
    level_end: int
    level_sent: int  # 1 once the own part of the level is expanded
    level_done: int  # mask of the workers whose last batch of the level is consumed
    level_expanded: int  # states, by all workers
    divide_states: int  # LARGE from this many states on,
    divide_frontier: int  # if so many are to be expanded
    part: int  # number of this worker; global index = index in the part * parts + part
    parts: int
    turn: int  # whose batch is consumed next
    patience: int  # looks at another worker's counter before the loop comes back WAITING
    outboxes: int  # addresses, one for each worker
    board: int  # counters of batches produced and consumed, each in a cache line of its own
    ring: int  # batches in an outbox
    batch_bytes: int
    batch_room: int  # successors in a batch
    section_bytes: int  # of a batch, for one worker
    want_claims: int
    want_covers: int
    want_deadlock: int
    want_any: int
    all_claims: int  # found by anyone, as far as the consumed batches tell
    all_covers: int
    all_deadlock: int
    outcome: int
    claims: int  # found by this worker
    covers: int
    deadlock: int
    deadlock_state: int
    deadlock_depth: int
    error_state: int
    error_depth: int
    error_site: int
    error_label: int
    claim_state: ctypes.Array[ctypes.c_int64]
    claim_depth: ctypes.Array[ctypes.c_int64]  # -1: not by this worker
    cover_state: ctypes.Array[ctypes.c_int64]
    cover_depth: ctypes.Array[ctypes.c_int64]
    cover_label: ctypes.Array[ctypes.c_int64]

    _fields_ = [
        (name, ctypes.c_int64 * 64 if "Array" in kind else ctypes.c_int64)
        for name, kind in __annotations__.items()
    ]

    def position(self) -> tuple[int, ...]:
        """Changes with nearly every move the worker makes."""
        return self.head, self.count, self.turn, self.depth

    def deepest(self) -> int:
        """Depth of the deepest state that this worker knows to exist."""
        depth = self.depth if self.level_end > self.level_start else self.depth - 1
        return depth + 1 if self.count > self.level_end else depth


def offsets(names: str) -> list[int]:
    """Byte offsets of words of a Worker, for the loop."""
    return [getattr(Worker, name).offset for name in names.split()]


class Memory:
    """Anonymous memory, zero at first. Pages cost nothing until they are touched."""

    def __init__(self, size: int) -> None:
        self.size = size
        # Private, because shared anonymous memory gets no huge pages.
        self._map = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    @property
    def address(self) -> int:
        return ctypes.addressof(ctypes.c_char.from_buffer(self._map))

    def words(self, kind: str) -> memoryview:
        """The content as items of a struct format: "Q" of 64 bits, "I" of 32."""
        view: memoryview = memoryview(self._map).cast(kind)  # type: ignore[call-overload]
        return view

    def use_huge_pages(self) -> None:
        """From now on pages come in large pieces, whose addresses the processor finds faster.
        Not from the start, because a small search would clear more memory than it uses."""
        if hasattr(mmap, "MADV_HUGEPAGE"):
            self._map.madvise(mmap.MADV_HUGEPAGE)

    def trim(self, size: int) -> None:
        """Give back the address space behind `size`, where the system can."""
        try:
            self._map.resize(max(size, 1))
        except (SystemError, OSError):
            return

    def close(self) -> None:
        self._map.close()


class Part:
    """The states of one worker, their parents and their table.

    States and parents never move: address space for all that may come is reserved at the start.
    The table is made anew when it is full.
    """

    def __init__(
        self, core: Core, width: int, worker: Worker, memory_bytes: int, indices: int
    ) -> None:
        """`memory_bytes` bounds the memory (but FIRST_CAPACITY states always fit), `indices` the
        states. Raises OSError if the system has no address space left."""
        self.core, self.width, self.worker = core, width, worker
        self.held: list[Memory] = []  # whose addresses the worker knows
        self.state_bytes = 8 * width + 4
        affordable = memory_bytes / (self.state_bytes + LINE_BYTES / (BUCKET_SLOTS * LOAD))
        fitting = self._reserve(max(int(affordable), FIRST_CAPACITY))
        self.most = min(fitting, indices)
        self.limit = "memory" if fitting <= indices else "indices"
        self.table = Memory(LINE_BYTES)
        worker.states, worker.parents = self.states.address, self.parents.address
        worker.capacity = self.most  # until there is a table: see grow()

    def _reserve(self, capacity: int) -> int:
        """Address space for `capacity` states, or for as many as the system allows."""
        while True:
            try:
                self.states = Memory(capacity * 8 * self.width)
                self.parents = Memory(capacity * 4)
                Memory(self._table_bytes(capacity)).close()  # there is room for it
                return capacity
            except OSError:
                if capacity < FIRST_CAPACITY:
                    raise
                capacity //= 2

    @staticmethod
    def _table_bytes(capacity: int) -> int:
        return (int(capacity / (BUCKET_SLOTS * LOAD)) + 1) * LINE_BYTES

    @property
    def address(self) -> int:
        return ctypes.addressof(self.worker)

    def bytes_used(self) -> int:
        return self.worker.count * self.state_bytes + self.table.size

    def grow(self, capacity: int) -> None:
        """A table for `capacity` states, `most` at most. The old one goes before the new one
        comes, so that there are never two: all states are entered anew from their array.
        Raises OSError."""
        worker = self.worker
        capacity = min(capacity, self.most)
        worker.capacity = 0
        self.table.close()
        self.table = Memory(self._table_bytes(capacity))
        for memory, soon in (
            (self.table, self.table.size),
            (self.states, capacity * 8 * self.width),
            (self.parents, capacity * 4),
        ):
            if soon >= HUGE_BYTES:
                memory.use_huge_pages()
        # Touch the pages in order now: a page that is first read, then written, faults twice.
        ctypes.memset(self.table.address, 0, self.table.size)
        worker.buckets, worker.bucket_count = self.table.address, self.table.size // LINE_BYTES
        for first in range(0, worker.count, ENTER_STEP):
            self.core.enter(self.address, first, min(first + ENTER_STEP, worker.count))
        worker.capacity = capacity

    def make_room(self) -> str | None:
        """Room for `needed` more states. None, or the reason why it cannot be."""
        worker = self.worker
        wanted = worker.count * (4 if worker.count < 1 << 20 else 2) + worker.needed
        if min(wanted, self.most) < worker.count + worker.needed:
            return self.limit
        try:
            self.grow(wanted)
        except (OSError, MemoryError):
            return "memory"
        return None

    def nearly_full(self) -> bool:
        """True if the table will have to grow soon, and can."""
        return self.worker.capacity < self.most and self.worker.count > 0.95 * self.worker.capacity

    def finish(self) -> None:
        """Keep the states and their parents, and nothing else."""
        self.table.close()
        self.held.clear()
        self.states.trim(self.worker.count * 8 * self.width)
        self.parents.trim(self.worker.count * 4)

    def state(self, local: int) -> tuple[int, ...]:
        """The words of a state, by its index in this part. Raises IndexError."""
        if not 0 <= local < self.worker.count:
            raise IndexError(f"no state {local}: this part has {self.worker.count}")
        words = self.states.words("Q")
        return tuple(words[local * self.width : (local + 1) * self.width])

    def parent(self, local: int) -> int | None:
        """The global index of the parent of a state; None for the initial state."""
        index = int(self.parents.words("I")[local])
        return None if index == NO_PARENT else index
