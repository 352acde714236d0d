"""The driver of the search loop: it calls the machine code for a few milliseconds at a time.

Between the calls it makes room, looks at the clock and for Ctrl-C, and reports. A search starts
with a lone worker on the calling thread. Once there are enough states to pay for it, they are
divided among workers on threads of their own; a call of the loop releases the GIL.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mmuwitness.explore import core_cache, search_memory
from mmuwitness.explore.search_memory import (
    BATCH_SECTIONS,
    BLOCK,
    ENTER_STEP,
    LINE_BYTES,
    Memory,
    Part,
    Status,
    Worker,
)

DIVIDE_STATES = 1 << 16  # a smaller search ends before threads would pay,
DIVIDE_FRONTIER = 1 << 12  # and where levels are smaller, threads would only wait for each other
NEVER = 1 << 62
BATCH_ROOM = 2048  # successors: a batch stays in the second-level cache
RING = 4  # batches in an outbox, if there is anyone to wait for
FIRST_BUDGET = 1 << 14  # states and edges of the first call of the loop
CALL_SECONDS = 0.02  # aimed at by the later ones; Ctrl-C waits about as long
PATIENCE = 3000  # looks, or a few ten microseconds, that a worker waits for another before it
SLEEP_SECONDS = 50e-6  # sleeps: so long at first, doubled while nothing comes, up to
SLEEP_SECONDS_MAX = 1e-3  # this; the other one may need this processor
REPORT_SECONDS = 0.1
IMPROVE_SECONDS = 1.0  # a search that takes longer is worth better code
MASK = (1 << 64) - 1


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
    frontier: int  # states not yet expanded
    depth: int
    seconds: float
    rate: float


@dataclass(frozen=True)
class Request:
    """What is searched, and what for."""

    successors: int
    max_successors: int
    initial: Sequence[int]
    stop_when: StopWhen
    memory_limit_bytes: int
    progress: Callable[[Progress], None] | None
    improve: Callable[[], int] | None


class Workers:
    """The workers of one search, and how they end."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.states_reported = 0
        self.improve = request.improve
        self.core = core_cache.search_core(len(request.initial))
        self.began = self.reported = time.perf_counter()
        self.stopped: str | None = None  # "memory", "indices" or "interrupted"
        self._halt = False
        self._failure: BaseException | None = None
        self._begun: list[Part] = []  # by threads; appended to by these
        self._ended: list[Part] = []
        self.parts = self._employ(1)
        lone = self.parts[0]
        with lone.states.words("Q") as words, lone.parents.words("I") as parents:
            for number, word in enumerate(request.initial):
                words[number] = word & MASK
            parents[0] = search_memory.NO_PARENT
        lone.worker.count = lone.worker.level_end = 1
        lone.grow(search_memory.FIRST_CAPACITY)

    def _employ(self, parts: int) -> list[Part]:
        """Workers without states. Raises OSError if there is no memory for them."""
        request, width = self.request, len(self.request.initial)
        most = request.max_successors
        room = max(BATCH_ROOM, 4 * most)
        section = room * (8 * width + 8 + 4)  # words, hash and parent of each entry
        section += -section % LINE_BYTES
        batch = BATCH_SECTIONS + parts * section
        ring = RING if parts > 1 else 1
        counters = LINE_BYTES * (parts + parts * parts)
        board = Memory(counters + 8 * parts)
        made = []
        for number in range(parts):
            outbox = Memory(ring * batch + 8 * (BLOCK + 2 * most + 4 + most * width))
            candidates = outbox.address + ring * batch
            meta = candidates + 8 * BLOCK
            info = meta + 8 * 2 * most
            ctypes.c_int64.from_address(
                board.address + counters + 8 * number
            ).value = outbox.address
            worker = Worker(
                successors=request.successors, max_successors=most,
                candidates=candidates, meta=meta, info=info, out=info + 8 * 4,
                part=number, parts=parts, outboxes=board.address + counters, board=board.address,
                ring=ring, batch_bytes=batch, batch_room=room, section_bytes=section,
                patience=PATIENCE,
                want_claims=request.stop_when.claims, want_covers=request.stop_when.covers,
                want_deadlock=request.stop_when.deadlock, want_any=request.stop_when.any_of,
                divide_states=NEVER, divide_frontier=DIVIDE_FRONTIER, deadlock_state=-1,
            )  # fmt: skip
            for bit in range(64):
                worker.claim_depth[bit] = worker.cover_depth[bit] = -1
            share = request.memory_limit_bytes // parts, search_memory.INDEX_LIMIT // parts
            part = Part(self.core, width, worker, *share)
            part.held += board, outbox
            made.append(part)
        return made

    def run(self, threads: int) -> None:
        """Search to the end, or until something stops it."""
        lone = self.parts[0]
        lone.worker.divide_states = DIVIDE_STATES if threads > 1 else NEVER
        try:
            status = self._drive(lone, self._tick)
            if status == Status.LARGE and self._divide(threads):
                self._drive_all()
            elif status == Status.LARGE:
                lone.worker.divide_states = NEVER
                self._drive(lone, self._tick)
        except KeyboardInterrupt:
            self.stopped = "interrupted"
        finally:
            self._halt = True
            self._settle()

    def _settle(self) -> None:
        """Wait for the threads, whatever the user types: they use our memory. Not by join(): in
        Python 3.11 an interrupted join() takes a running thread for one that has ended. A thread
        that has not begun finds the halt and touches nothing."""
        while len(self._ended) < len(self._begun):
            try:
                time.sleep(SLEEP_SECONDS)
            except KeyboardInterrupt:
                continue

    def _drive(self, part: Part, tick: Callable[[], None] | None) -> Status:
        """Let one worker run to its end, or until all are told to halt."""
        worker, budget, sleep = part.worker, FIRST_BUDGET, SLEEP_SECONDS
        while not self._halt:
            before = worker.position()
            start = time.perf_counter()
            status = Status(self.core.run(part.address, budget))
            seconds = time.perf_counter() - start
            if status == Status.SPENT:
                budget = budget * 2 if seconds < CALL_SECONDS / 2 else budget
                budget = budget // 2 if seconds > CALL_SECONDS * 2 else budget
            elif status == Status.WAITING and part.nearly_full():
                part.make_room()  # likely what the other does too: better now than in turns
            elif status == Status.WAITING:
                idle = worker.position() == before
                worker.patience = 1 if idle else PATIENCE
                sleep = min(2 * sleep, SLEEP_SECONDS_MAX) if idle else SLEEP_SECONDS
                time.sleep(sleep)
            elif status == Status.NO_ROOM:
                if reason := part.make_room():
                    self.stopped, self._halt = reason, True
            elif status == Status.BROKEN:
                raise RuntimeError(
                    "the model returned a number of successors outside 0 .. max_successors = "
                    f"{self.request.max_successors}: declare as many as one state can have"
                )
            else:
                return status
            if tick is not None:
                tick()
        return Status.SPENT

    def _divide(self, threads: int) -> bool:
        """Replace the lone worker, between two levels. False if there is no memory for that."""
        old = self.parts[0].worker
        if 4 * self.parts[0].bytes_used() > self.request.memory_limit_bytes:
            return False
        try:
            parts, renamed = self._employ(threads), Memory(4 * old.count)
            # Where address space is scarce, many would have to stop before the lone one.
            scarce = sum(part.most for part in parts) < 0.9 * self.parts[0].most
            if scarce or not self._deal(parts, renamed):
                return False
            for part in parts:
                part.grow(2 * part.worker.count)
        except OSError:
            return False
        for part in parts:
            part.worker.level_end, part.worker.depth = part.worker.count, old.depth
            for word in ("claims", "covers", "deadlock"):
                setattr(part.worker, word, getattr(old, word))
                setattr(part.worker, f"all_{word}", getattr(old, f"all_{word}"))
        with renamed.words("I") as names:
            _keep_findings(old, parts[0].worker, names)
        self.parts = parts
        return True

    def _deal(self, parts: list[Part], renamed: Memory) -> bool:
        """Hand the states of the lone worker to those that own them. False if one has no room."""
        lone = self.parts[0]
        old = lone.worker
        workers = (ctypes.c_int64 * len(parts))(*(part.address for part in parts))
        for first, end in ((0, old.level_start), (old.level_start, old.count)):
            for part in parts:  # the second time: after what earlier levels found
                part.worker.head = part.worker.level_start = part.worker.count
            for at in range(first, end, ENTER_STEP):
                to = min(at + ENTER_STEP, end)
                targets = ctypes.addressof(workers), renamed.address
                if self.core.deal(lone.address, at, to, *targets) < to:
                    return False
        return True

    def _drive_all(self) -> None:
        """Let all workers run, each on a thread of its own; this one reports and hears Ctrl-C."""
        bell = threading.Event()

        def work(part: Part) -> None:
            self._begun.append(part)
            try:
                self._drive(part, None)
            except BaseException as error:
                self._failure, self._halt = error, True
            finally:
                self._ended.append(part)
                bell.set()

        for part in self.parts:
            threading.Thread(target=work, args=(part,)).start()
        while len(self._ended) < len(self.parts):
            bell.wait(CALL_SECONDS)
            bell.clear()
            self._tick()
        if self._failure is not None:
            raise self._failure

    def _tick(self) -> None:
        """What is due between two calls of the loop."""
        if self.improve is not None and time.perf_counter() - self.began > IMPROVE_SECONDS:
            improve, self.improve = self.improve, None
            address = improve()  # workers on threads of their own go on meanwhile
            for part in self.parts:
                part.worker.successors = address  # read anew for each batch
        self._report()

    def _report(self) -> None:
        progress, now = self.request.progress, time.perf_counter()
        if progress is None or now - self.reported < REPORT_SECONDS:
            return
        workers = [part.worker for part in self.parts]
        states = sum(worker.count for worker in workers)
        rate = (states - self.states_reported) / (now - self.reported)
        self.reported, self.states_reported = now, states
        edges = sum(worker.edges for worker in workers)
        frontier = sum(worker.count - worker.head for worker in workers)
        depth = max(worker.deepest() for worker in workers)
        progress(Progress(states, edges, frontier, depth, now - self.began, rate))


def _keep_findings(old: Worker, new: Worker, names: memoryview) -> None:
    """Carry what a lone worker found over to one that follows it, under the new indices."""
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
