"""Exact breadth-first search over packed states, on one or more threads.

A model is a native function; `search` visits every state that it reaches from an initial one:

    i64 successors(i64 *state, i64 *out, i64 *meta, i64 *info)

  state  the words of one state, read only
  out    room for `max_successors` states; the function writes its successors there and returns
         their number (self loops and duplicates included)
  meta   two words for each successor: a label that names the step, and a mask of the marks
         (up to 64) which the step executes
  info   four words, written by every call: mask of the claims which the state violates (up to
         62), 1 if the state is a deadlock (else 0), error site (0: none), label of the erring step

States are compared whole: none is ever lost to a hash. With a given number of threads every run
gives the same numbers, and a complete search gives the same states, edges, depths and findings
with any number; only the indices differ, and which of several shallowest states is named.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmuwitness.explore.search_memory import THREADS_MAX, Part, Status, Worker
from mmuwitness.explore.search_workers import Progress, Request, StopWhen, Workers

__all__ = ["Cover", "ModelError", "Progress", "SearchResult", "StopWhen", "search"]


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
    unexpanded: int  # states whose claims and successors were not looked at
    violated: dict[int, int]  # claim -> a shallowest state that violates it
    deadlock: int | None  # a shallowest one
    error: ModelError | None
    covered: dict[int, Cover]  # mark -> a shallowest step that executes it
    covers: int  # mask of the marks in `covered`
    seconds: float
    bytes_per_state: float
    _parts: list[Part] = field(repr=False, compare=False)

    def state(self, index: int) -> tuple[int, ...]:
        """The words of a state, unsigned. Raises IndexError."""
        local, part = divmod(index, len(self._parts))
        return self._parts[part].state(local)

    def path(self, index: int) -> list[tuple[int, ...]]:
        """A shortest path: the words of each state from the initial one to this one."""
        states = []
        at: int | None = index
        while at is not None:
            states.append(self.state(at))
            local, part = divmod(at, len(self._parts))
            at = self._parts[part].parent(local)
        return states[::-1]

    def packed(self) -> memoryview:
        """The words of all states, in order of depth, of a search that one thread made."""
        (part,) = self._parts
        return part.states.words("Q")[: part.worker.count * part.width]

    def indices(self) -> Iterator[int]:
        """The indices of all states found."""
        for number, part in enumerate(self._parts):
            for local in range(part.worker.count):
                yield local * len(self._parts) + number


def search(
    successors_address: int,
    initial_words: Sequence[int],
    max_successors: int,
    *,
    threads: int = 1,
    memory_limit_bytes: int | None = None,
    stop_when: StopWhen | None = None,
    progress: Callable[[Progress], None] | None = None,
    improve: Callable[[], int] | None = None,
) -> SearchResult:
    """Visit every state that the model reaches from the initial one.

    `successors_address` is the address of a native function as described above; it must stay
    valid, and is called by several threads at once if `threads` > 1 and the search is large.
    `progress` is called at most ten times a second. `improve` is called once if the search takes
    long, and gives the address of a function that does the same, faster. Ctrl-C and the memory
    limit end the search with what it has. Raises ValueError for arguments out of range,
    RuntimeError for a model that returns more successors than it may, and OSError if there is no
    memory to begin with.
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
    request = Request(
        successors_address,
        max_successors,
        initial_words,
        stop_when or StopWhen(),
        limit,
        progress,
        improve,
    )
    workers = Workers(request)
    workers.run(threads)
    return _result(workers)


def default_memory_limit_bytes() -> int:
    """Three quarters of what is free now, as far as the system and the control group tell."""
    free = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    try:
        known = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free.append(int(known["MemAvailable"].split()[0]) * 1024)
        free.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, KeyError, ValueError):
        pass  # another system, or no limit ("max")
    return min(free) * 3 // 4


def _result(driver: Workers) -> SearchResult:
    """What was found; from here on the states are kept and the table is not."""
    workers = [part.worker for part in driver.parts]
    outcomes = {Status(worker.outcome) for worker in workers}
    stopped = driver.stopped
    if stopped is None and outcomes != {Status.COMPLETE}:
        stopped = "error" if Status.ERROR in outcomes else "decided"
    states = sum(worker.count for worker in workers)
    bytes_used = sum(part.bytes_used() for part in driver.parts)
    for part in driver.parts:
        part.finish()
    deadlocks = [(w.deadlock_depth, w.part, w.deadlock_state) for w in workers]
    errors = [(w.error_depth, w.part, w) for w in workers if w.error_site != 0]
    error = min(errors, key=lambda hit: hit[:2])[2] if errors else None
    covered = _first_covers(workers)
    return SearchResult(
        states=states,
        edges=sum(worker.edges for worker in workers),
        depth=max(worker.deepest() for worker in workers),
        complete=stopped is None,
        stopped=stopped,
        unexpanded=sum(worker.count - worker.head for worker in workers),
        violated=_first_violations(workers),
        deadlock=min((hit for hit in deadlocks if hit[2] >= 0), default=(0, 0, None))[2],
        error=ModelError(error.error_state, error.error_site, error.error_label) if error else None,
        covered=covered,
        covers=sum(1 << mark for mark in covered),
        seconds=time.perf_counter() - driver.began,
        bytes_per_state=bytes_used / states,
        _parts=driver.parts,
    )


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
