"""Exact breadth-first search over packed states, on one or more threads.

A model is a native function; `search` visits every state it can reach from an initial one:

    i64 successors(i64 *state, i64 *out, i64 *meta, i64 *info)

  state  the words of one state, read only
  out    room for `max_successors` states; the function writes its successors there and returns
         their number (self loops and duplicates included)
  meta   two words for each successor: a label that names the step, and a mask of the marks
         (up to 64) which the step executes
  info   four words, written by every call: mask of the claims that the state violates (up to
         62), 1 if the state is a deadlock, error site (0: none) and label of the erring step

The loop itself is machine code (search_core). This module owns the memory, lets it grow, looks
for Ctrl-C and the memory limit between calls of a few milliseconds, and divides the states among
threads once there are enough to pay for it. States are compared whole: no state is ever lost to
a hash. With a given number of threads every run gives the same numbers.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from mmuwitness.explore import core_cache

LINE_BYTES = 64  # a cache line, and a bucket of the table: 16 bytes of tags, 12 slots of 4 bytes
BUCKET_SLOTS = 12
BATCH_COUNTS = 64  # byte offset in a batch of the entries for each worker
THREADS_MAX = 62  # one bit each in a signed word
BATCH_WORDS = BATCH_COUNTS + 8 * (THREADS_MAX + 2)  # byte offset in a batch of its states
NO_PARENT = 0xFFFF_FFFF  # of the initial state
INDEX_LIMIT = NO_PARENT - 1  # states that 32-bit indices can tell apart

LOAD = 0.8  # of the slots; fuller buckets overflow too often
FIRST_CAPACITY = 4096  # states: a small search touches little memory
DIVIDE_AT = 1 << 16  # states: a smaller search ends before threads would pay
BLOCK = 256  # entries whose cache misses overlap; their lines fit the first-level cache
BATCH_ROOM = 2048  # successors: a batch stays in the second-level cache
RING = 4  # batches a worker may be ahead of the slowest, with several workers
CALL_SECONDS = 0.02  # aimed at; Ctrl-C waits about as long
HUGE_BYTES = 1 << 22  # memory from this size on asks for huge pages: far fewer address misses
ENTER_STEP = 1 << 18  # states entered into a new table between two looks for Ctrl-C
REPORT_SECONDS = 0.1
MASK = (1 << 64) - 1


class Status(IntEnum):
    """Why the loop came back."""

    SPENT = 0  # the budget is used up
    NO_ROOM = 1  # `needed` more states might not fit
    WAITING = 2  # for another worker, longer than it takes to sleep
    LARGE = 3  # a level is over and there are `pause_at` states
    COMPLETE = 4  # no state is left to expand
    DECIDED = 5  # what StopWhen asks for was found
    ERROR = 6  # the model reported an error
    BROKEN = 7  # the model reported more successors than it may have


class Worker(ctypes.Structure):
    """All that the loop knows of one worker: 64-bit words, addresses among them."""

    successors: int
    max_successors: int
    meta: int
    info: int
    out: int  # scratch, the successors of one state
    candidates: int  # scratch, one word for each entry of a block
    states: int  # `count` states of this part, in order of discovery
    parents: int  # 32 bits each, global indices
    buckets: int
    bucket_count: int
    count: int
    capacity: int
    needed: int
    head: int  # the next state to expand; before it all are
    edges: int
    depth: int  # of the level that starts and ends at:
    level_start: int
    level_end: int
    level_sent: int  # 1 once the own part of the level is expanded
    level_done: int  # mask of the workers whose last batch of the level is consumed
    level_expanded: int  # states, by all workers
    pause_at: int
    part: int  # number of this worker; global index = index in the part * parts + part
    parts: int
    turn: int  # whose batch is consumed next
    outboxes: int  # addresses, one for each worker
    board: int  # counters of batches produced and taken, one in a cache line
    ring: int
    batch_room: int
    batch_bytes: int
    section_bytes: int  # of a batch, for one worker
    want_claims: int
    want_covers: int
    want_deadlock: int
    want_any: int
    all_claims: int  # as far as all consumed batches tell
    all_covers: int
    all_deadlock: int
    outcome: int
    claims: int  # found by this worker
    covers: int
    deadlock: int
    deadlock_state: int
    deadlock_depth: int
    error_state: int
    error_site: int
    error_label: int
    claim_state: ctypes.Array[ctypes.c_int64]
    claim_depth: ctypes.Array[ctypes.c_int64]
    cover_state: ctypes.Array[ctypes.c_int64]
    cover_depth: ctypes.Array[ctypes.c_int64]
    cover_label: ctypes.Array[ctypes.c_int64]

    _fields_ = [  # noqa: RUF012
        (name, ctypes.c_int64 * 64 if "Array" in kind else ctypes.c_int64)
        for name, kind in __annotations__.items()
    ]


@dataclass(frozen=True)
class StopWhen:
    """What ends a search early: all of it, or with `any_of` the first of it."""

    claims: int = 0  # mask: these claims are violated
    covers: int = 0  # mask: these marks are executed
    deadlock: bool = False
    any_of: bool = False


@dataclass(frozen=True)
class Progress:
    """How far a running search is. `rate` is in states a second since the last report."""

    states: int
    edges: int
    frontier: int
    depth: int
    seconds: float
    rate: float


@dataclass(frozen=True)
class Cover:
    """The first step that executes a mark: `path(state)`, then the step with this label."""

    state: int
    label: int
    depth: int  # of `state`


@dataclass(frozen=True)
class ModelError:
    """The model reported an error while it stepped from `state`."""

    state: int
    site: int
    label: int


@dataclass(frozen=True)
class SearchResult:
    """What a search found. States are named by an index that `path` and `state` understand."""

    states: int
    edges: int
    depth: int  # of the deepest state; the initial one has 0
    complete: bool
    stopped: str | None  # "memory", "indices", "interrupted", "error", "decided"
    violated: dict[int, int]  # claim -> a shallowest state that violates it
    deadlock: int | None  # a shallowest one
    error: ModelError | None
    covered: dict[int, Cover]  # mark -> a shallowest step that executes it
    covers: int  # mask of the marks in `covered`
    seconds: float
    bytes_per_state: float
    _parts: list[_Part] = field(repr=False, compare=False)

    def state(self, index: int) -> tuple[int, ...]:
        """The words of a state, unsigned."""
        local, part = divmod(index, len(self._parts))
        return self._parts[part].state(local)

    def parent(self, index: int) -> int | None:
        """The state from which this one was first reached; None for the initial one."""
        local, part = divmod(index, len(self._parts))
        parent = self._parts[part].parents.words("I")[local]
        return None if parent == NO_PARENT else parent

    def path(self, index: int) -> list[tuple[int, ...]]:
        """A shortest path: the words of each state from the initial one to this one."""
        states = []
        at: int | None = index
        while at is not None:
            states.append(self.state(at))
            at = self.parent(at)
        return states[::-1]

    def indices(self) -> Iterator[int]:
        """The indices of all states found."""
        for number, part in enumerate(self._parts):
            for local in range(part.worker.count):
                yield local * len(self._parts) + number


class _Memory:
    """Anonymous memory, zero at first. Pages cost nothing until they are touched."""

    def __init__(self, size: int) -> None:
        self.size = size
        # Private, because shared anonymous memory gets no huge pages.
        self._map = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    @classmethod
    def reserve(cls, size: int) -> _Memory:
        """As much of `size` as the system lets us have without a promise to use it."""
        while True:
            try:
                return cls(size)
            except (OSError, MemoryError):
                if size < HUGE_BYTES:
                    raise
                size //= 2

    @property
    def address(self) -> int:
        return ctypes.addressof(ctypes.c_char.from_buffer(self._map))

    def words(self, kind: str) -> memoryview:
        """The content as items of a struct format."""
        return memoryview(self._map).cast(kind)  # type: ignore[call-overload]

    def use_huge_pages(self) -> None:
        """From now on, pages that are touched for the first time are large: far fewer misses of
        the address cache. Not from the start, because a small search would clear too much."""
        if hasattr(mmap, "MADV_HUGEPAGE"):
            self._map.madvise(mmap.MADV_HUGEPAGE)

    def close(self) -> None:
        self._map.close()


class _Part:
    """The states of one worker, their parents and their table.

    States and parents never move: address space for all that may come is reserved at the start.
    The table is made anew when it is full.
    """

    def __init__(
        self, core: core_cache.Core, width: int, worker: Worker, memory_bytes: int, indices: int
    ) -> None:
        self.core, self.width, self.worker = core, width, worker
        self.state_bytes = 8 * width + 4
        self.memory_bytes = memory_bytes
        most = memory_bytes / (self.state_bytes + LINE_BYTES / (BUCKET_SLOTS * LOAD))
        self.indices = indices
        most = max(int(most), FIRST_CAPACITY)
        self.states = _Memory.reserve(most * 8 * width)
        self.parents = _Memory.reserve(most * 4)
        self.most = min(most, indices, self.states.size // (8 * width), self.parents.size // 4)
        self.table = _Memory(LINE_BYTES)
        worker.states, worker.parents = self.states.address, self.parents.address

    @property
    def address(self) -> int:
        return ctypes.addressof(self.worker)

    def bytes_used(self) -> int:
        return self.worker.count * self.state_bytes + self.table.size

    def grow(self, capacity: int) -> None:
        """A table for `capacity` states. The old one goes before the new one comes, so that there
        are never two: all states are entered anew from their array. Raises OSError."""
        worker = self.worker
        worker.capacity = 0
        self.table.close()
        self.table = _Memory((int(capacity / (BUCKET_SLOTS * LOAD)) + 1) * LINE_BYTES)
        for memory, used in (
            (self.table, self.table.size),
            (self.states, worker.count * 8 * self.width),
            (self.parents, worker.count * 4),
        ):
            if used >= HUGE_BYTES:
                memory.use_huge_pages()
        ctypes.memset(self.table.address, 0, self.table.size)
        worker.buckets, worker.bucket_count = self.table.address, self.table.size // LINE_BYTES
        for first in range(0, worker.count, ENTER_STEP):
            self.core.rebuild(self.address, first, min(first + ENTER_STEP, worker.count))
        worker.capacity = capacity

    def nearly_full(self) -> bool:
        return self.worker.count > self.worker.capacity * 0.95 and self.worker.capacity < self.most

    def make_room(self) -> str | None:
        """Room for `needed` more states. None, or the reason why it cannot be."""
        worker = self.worker
        wanted = worker.count * (4 if worker.count < 1 << 16 else 2) + worker.needed
        capacity = min(wanted, self.most)
        if capacity < worker.count + worker.needed:
            return "indices" if self.most == self.indices else "memory"
        try:
            self.grow(capacity)
        except (OSError, MemoryError):
            return "memory"
        return None

    def state(self, local: int) -> tuple[int, ...]:
        if not 0 <= local < self.worker.count:
            raise IndexError(f"no state {local}: this part has {self.worker.count}")
        words = self.states.words("Q")
        return tuple(words[local * self.width : (local + 1) * self.width])


class _Search:
    """One search: its workers, and what they are allowed to use."""

    def __init__(
        self,
        model: tuple[int, int],
        initial: Sequence[int],
        stop_when: StopWhen,
        memory_limit_bytes: int,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self.began = self.reported = time.perf_counter()
        self.states_reported = 0
        self.width, self.model, self.stop_when = len(initial), model, stop_when
        self.core = core_cache.search_core(self.width)
        self.memory_limit_bytes, self.progress = memory_limit_bytes, progress
        self.stopped: str | None = None
        self.halt = False
        self.failure: BaseException | None = None
        self.memories: list[_Memory] = []  # held, because workers know their addresses
        self.parts = self._employ(1)
        worker = self.parts[0].worker
        words = self.parts[0].states.words("Q")
        for number, word in enumerate(initial):
            words[number] = word & MASK
        words.release()
        parents = self.parts[0].parents.words("I")
        parents[0] = NO_PARENT
        parents.release()
        worker.count = worker.level_end = 1
        self.parts[0].grow(FIRST_CAPACITY)

    def _employ(self, parts: int) -> list[_Part]:
        """Workers without states."""
        successors, most = self.model
        room = max(BATCH_ROOM, 4 * most)
        section = room * (8 * self.width + 8 + 4)
        section += -section % LINE_BYTES
        batch = BATCH_WORDS + parts * section
        ring = RING if parts > 1 else 1
        board = _Memory(LINE_BYTES * (parts + parts * parts) + 8 * parts)
        self.memories = [board]
        outboxes = board.address + LINE_BYTES * (parts + parts * parts)
        made = []
        for number in range(parts):
            outbox = _Memory(ring * batch + 8 * (BLOCK + 2 * most + 4 + most * self.width))
            scratch = outbox.address + ring * batch
            ctypes.c_int64.from_address(outboxes + 8 * number).value = outbox.address
            worker = Worker(
                successors=successors, max_successors=most, candidates=scratch,
                meta=scratch + 8 * BLOCK, info=scratch + 8 * (BLOCK + 2 * most),
                part=number, parts=parts, outboxes=outboxes, board=board.address,
                ring=ring, batch_room=room, batch_bytes=batch,
                out=scratch + 8 * (BLOCK + 2 * most + 4), section_bytes=section,
                want_claims=self.stop_when.claims, want_covers=self.stop_when.covers,
                want_deadlock=self.stop_when.deadlock, want_any=self.stop_when.any_of,
                pause_at=1 << 62, deadlock_state=-1,
            )  # fmt: skip
            for bit in range(64):
                worker.claim_depth[bit] = worker.cover_depth[bit] = -1
            self.memories.append(outbox)
            share = self.memory_limit_bytes // parts, INDEX_LIMIT // parts
            made.append(_Part(self.core, self.width, worker, *share))
        return made

    def run(self, threads: int) -> None:
        """Search to the end, or until something stops it."""
        if threads > 1:
            self.parts[0].worker.pause_at = DIVIDE_AT
        try:
            status = self._drive(self.parts[0], self._report)
            if status == Status.LARGE:
                if 4 * self.parts[0].bytes_used() < self.memory_limit_bytes:
                    self._divide(threads)
                    self._drive_all()
                else:
                    self.parts[0].worker.pause_at = 1 << 62
                    self._drive(self.parts[0], self._report)
        except KeyboardInterrupt:
            self.stopped = "interrupted"

    def _drive(self, part: _Part, report: Callable[[], None] | None) -> Status:
        """Let one worker run to its end or a halt."""
        budget = 1 << 14
        while not self.halt:
            start = time.perf_counter()
            status = Status(self.core.run(part.address, budget))
            seconds = time.perf_counter() - start
            if status == Status.SPENT:
                budget = budget * 2 if seconds < CALL_SECONDS / 2 else budget
                budget = budget // 2 if seconds > CALL_SECONDS * 2 else budget
            elif status == Status.WAITING and part.nearly_full():
                # Likely the other one grows, and so shall we soon: do it at the same time.
                reason = part.make_room()
            elif status == Status.WAITING:
                time.sleep(50e-6)
            elif status == Status.NO_ROOM:
                reason = part.make_room()
                if reason is not None:
                    self.stopped, self.halt = reason, True
            elif status == Status.BROKEN:
                raise RuntimeError(
                    "the model returned a number of successors outside 0 .. max_successors = "
                    f"{self.model[1]}: declare as many as one state can have"
                )
            else:
                return status
            if report is not None:
                report()
        return Status.SPENT

    def _divide(self, threads: int) -> None:
        """Hand the states of the lone worker to `threads` new ones, between two levels."""
        old = self.parts[0]
        kept = self.memories
        parts = self._employ(threads)
        renamed = _Memory(4 * old.worker.count)
        addresses = (ctypes.c_int64 * threads)(*(part.address for part in parts))
        deal_to = ctypes.addressof(addresses), renamed.address
        self.core.deal(old.address, 0, old.worker.level_start, *deal_to)
        for part in parts:
            part.worker.head = part.worker.level_start = part.worker.count
        self.core.deal(old.address, old.worker.level_start, old.worker.count, *deal_to)
        names = renamed.words("I")
        for part in parts:
            worker = part.worker
            worker.level_end, worker.depth = worker.count, old.worker.depth
            for word in ("claims", "covers", "deadlock"):
                setattr(worker, word, getattr(old.worker, word))
                setattr(worker, f"all_{word}", getattr(old.worker, f"all_{word}"))
            part.grow(2 * worker.count)
        _keep_findings(old.worker, parts[0].worker, names)
        del kept
        self.parts = parts

    def _drive_all(self) -> None:
        """Let all workers run, each on a thread of its own; this one reports and hears Ctrl-C."""

        def work(part: _Part) -> None:
            try:
                _start_on_processor(part.worker.part)
                self._drive(part, None)
            except BaseException as error:
                self.failure, self.halt = error, True

        threads = [threading.Thread(target=work, args=(part,)) for part in self.parts]
        try:
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                for thread in threads:
                    thread.join(CALL_SECONDS)
                self._report()
        except BaseException:
            self.halt = True
            raise
        finally:
            _join(threads)
        if self.failure is not None:
            raise self.failure

    def _report(self) -> None:
        now = time.perf_counter()
        if self.progress is None or now - self.reported < REPORT_SECONDS:
            return
        workers = [part.worker for part in self.parts]
        states = sum(worker.count for worker in workers)
        rate = (states - self.states_reported) / (now - self.reported)
        self.reported, self.states_reported = now, states
        self.progress(
            Progress(
                states=states,
                edges=sum(worker.edges for worker in workers),
                frontier=sum(worker.count - worker.head for worker in workers),
                depth=max(_deepest(worker) for worker in workers),
                seconds=now - self.began,
                rate=rate,
            )
        )

    def result(self) -> SearchResult:
        """What was found; from here on the states are kept and the tables are not."""
        workers = [part.worker for part in self.parts]
        complete = all(worker.outcome == Status.COMPLETE for worker in workers)
        for worker in workers:
            if self.stopped is None and worker.outcome in (Status.ERROR, Status.DECIDED):
                self.stopped = Status(worker.outcome).name.lower()
        states = sum(worker.count for worker in workers)
        used = sum(part.bytes_used() for part in self.parts)
        for part in self.parts:
            part.table.close()
        deadlocks = [(w.deadlock_depth, w.deadlock_state) for w in workers if w.deadlock_state >= 0]
        errors = [w for w in workers if w.error_site]
        covered = _first_covers(workers)
        return SearchResult(
            states=states,
            edges=sum(worker.edges for worker in workers),
            depth=max(_deepest(worker) for worker in workers),
            complete=complete,
            stopped=self.stopped,
            violated=_first_violations(workers),
            deadlock=min(deadlocks)[1] if deadlocks else None,
            error=ModelError(errors[0].error_state, errors[0].error_site, errors[0].error_label)
            if errors
            else None,
            covered=covered,
            covers=sum(1 << mark for mark in covered),
            seconds=time.perf_counter() - self.began,
            bytes_per_state=used / states,
            _parts=self.parts,
        )


def _start_on_processor(number: int) -> None:
    """Move the calling thread to a processor of its own, then let the system move it again: it
    may start all threads on one, and is slow to part two threads that yield to each other."""
    if hasattr(os, "sched_setaffinity"):
        allowed = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {allowed[number % len(allowed)]})
        os.sched_setaffinity(0, allowed)


def _join(threads: list[threading.Thread]) -> None:
    """Wait for threads that are told to halt, whatever the user types: they use our memory."""
    for thread in threads:
        while thread.is_alive():
            try:
                thread.join()
            except KeyboardInterrupt:
                continue


def _deepest(worker: Worker) -> int:
    """Depth of the deepest state that this worker knows to exist."""
    depth = worker.depth if worker.level_end > worker.level_start else worker.depth - 1
    return depth + 1 if worker.count > worker.level_end else depth


def _keep_findings(old: Worker, new: Worker, names: memoryview) -> None:
    """Carry what a lone worker found over to one of its successors, under the new indices."""
    new.edges = old.edges
    if old.deadlock_state >= 0:
        new.deadlock_state = names[old.deadlock_state]
        new.deadlock_depth = old.deadlock_depth
    for bit in range(64):
        if old.claim_depth[bit] >= 0:
            new.claim_state[bit] = names[old.claim_state[bit]]
            new.claim_depth[bit] = old.claim_depth[bit]
        if old.cover_depth[bit] >= 0:
            new.cover_state[bit] = names[old.cover_state[bit]]
            new.cover_label[bit] = old.cover_label[bit]
            new.cover_depth[bit] = old.cover_depth[bit]


def _first_violations(workers: list[Worker]) -> dict[int, int]:
    found = {}
    for claim in range(64):
        hits = [(w.claim_depth[claim], w.part, w.claim_state[claim]) for w in workers]
        if reached := [hit for hit in hits if hit[0] >= 0]:
            found[claim] = min(reached)[2]
    return found


def _first_covers(workers: list[Worker]) -> dict[int, Cover]:
    found = {}
    for mark in range(64):
        reached = [(w.cover_depth[mark], w.part, w) for w in workers if w.cover_depth[mark] >= 0]
        if reached:
            depth, _, worker = min(reached, key=lambda hit: hit[:2])
            found[mark] = Cover(worker.cover_state[mark], worker.cover_label[mark], depth)
    return found


def default_memory_limit_bytes() -> int:
    """Three quarters of the memory that is free now, or of half of it where none can tell."""
    try:
        with open("/proc/meminfo") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024 * 3 // 4
    except OSError:
        pass
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * 3 // 8


def search(
    successors_address: int,
    initial_words: Sequence[int],
    max_successors: int,
    *,
    threads: int = 1,
    memory_limit_bytes: int | None = None,
    stop_when: StopWhen | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> SearchResult:
    """Visit every state that the model reaches from the initial one.

    `successors_address` is the address of a native function as described above; it must stay
    valid, and may be called from several threads at once if `threads` > 1. `progress` is called
    at most ten times a second. Ctrl-C and the memory limit end the search with what it has.
    Raises ValueError for arguments out of range and RuntimeError for a model that returns more
    successors than it declares.
    """
    if successors_address <= 0:
        raise ValueError("the model's successor function has no address")
    if not initial_words:
        raise ValueError("a state has at least one word")
    if max_successors < 1:
        raise ValueError(f"max_successors = {max_successors}: say 1 or more")
    if not 1 <= threads <= THREADS_MAX:
        raise ValueError(f"threads = {threads}: say 1 to {THREADS_MAX}")
    limit = default_memory_limit_bytes() if memory_limit_bytes is None else memory_limit_bytes
    model = successors_address, max_successors
    running = _Search(model, initial_words, stop_when or StopWhen(), limit, progress)
    running.run(threads)
    return running.result()
