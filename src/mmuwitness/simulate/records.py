"""The words that the engine works on: what runs, tasks and operations.  64 bits each.

`Record` makes them as numpy arrays for Python; `offsets` are their places for the engine's loops.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np

RUN = (
    *("now", "end", "quantum", "tasks", "count", "operations", "context", "erring"),
    *("turns", "places", "waiters", "daemons"),
    *("next_operation", "next_guest", "next_argument"),
)
"""One run.  Times in ns of guest time.  quantum: how far vCPUs that only hit may run ahead of other
vCPUs.  tasks, count: where they are.  context: of `lower.Context`.  erring: the task that met an
error.  turns: a tree of times, that of task n at places + n, NEVER
if it waits, and at k the earlier one of 2k and 2k + 1.  waiters: tasks that wait for locks.
daemons: the first one, or 0.  next_...: addresses of what a daemon's operation asks to be done next
(see `daemon`)."""

NEVER = (1 << 63) - 1
"""The time of a task that waits."""

AHEAD = 64
"""A vCPU aims at so many pages before it touches the first."""

OPERATION = ("function", "start", "first", "second")
"""One operation: its address, the pc that it starts at, the words of its frame that its first and
second argument are in (0: it has none)."""

TASK = (
    *("time", "state", "kind", "operation", "frame", "tables", "lock", "blocked", "random"),
    *("spent", "waited", "waits", "done", "guest", "own", "peer"),
    # a vCPU
    *("sptes", "spte_bytes", "present", "writable", "aged", "page_shift", "page_mask"),
    *("contents", "mapped", "period", "touches", "writes"),
    *("pages", "hot", "hot_share", "write_share", "write_first", "write_pages", "stray_share"),
    *("classes", "class_share", "aimed", "next", "missed", "exits", "retries", "refaults"),
    *("stalled", "stalls", "tracked", "reads", "writes_absent", "writes_protected"),
    *("merged", "read_merged", "kicks", "kicks_seen", "kick_ns", "kicked"),
    # a daemon
    *("guests", "first_guest", "guest_count", "cursor", "span", "stride", "batch", "batched"),
    *("sleep", "rest", "passes", "scatter", "reports", "chains", "argument"),
)
"""One task.  time: when it goes on.  own: the number of the operation that it begins with;
operation: the address of what it runs.  tables, guest: of what it runs now.  lock: what it waits
for; blocked: since when, or -1.  spent: CPU time; waited: time it waited for locks, `waits` times;
done: operations that have ended.  peer: a daemon's next daemon, or 0; a vCPU's next vCPU of the
same guest, in a ring.

A vCPU touches a page every `period` ns: of its first `pages`, of the first `hot` with a chance of
hot_share; it writes with a chance of write_share, to `write_pages` from write_first on, or with a
chance of stray_share anywhere, and then, with class_share, what one of `classes` holds.  Shares are
out of 65,536.  sptes, contents: addresses of the arrays, with what the bits of an SPTE are; mapped:
bytes, 1 once a gfn was mapped.  aimed: address of AHEAD accesses, each twice the gfn, plus 1 for a
write, of which it has made the first `next`; missed: since when the next one is not let, or -1;
exits: accesses that were not let at once, of which `refaults` to gfns that had been mapped before;
retries: exits after the first of an access; stalled: ns lost; stalls: address of 64 counters of
exits by the bits of the ns lost; tracked: an access to a page that was aged exits, too.  reads,
writes_absent, writes_protected: exits, retries among them, by what the guest did and found.
merged: bytes, 1 for a KSM page; read_merged: exits of reads that came to one.  kicks: address of
how often the guest's vCPUs were asked to flush; kicks_seen: how many of them this one has; kick_ns:
what one takes if it is in the guest; kicked: how often it was.

A daemon runs its operation on guest_count guests from first_guest on (guests: addresses of their
tables), for every `stride`-th number below `span`, or for random ones (scatter); after `batch` of
them it sleeps, and after a pass over all it rests; reports: it comes back to Python then.  chains:
its operation may ask for another one.  argument: second argument of each."""


class State(IntEnum):
    IDLE = 0
    RUNNING = 1
    BLOCKED = 2
    OFF = 3


class Kind(IntEnum):
    VCPU = 0
    DAEMON = 1


class Came(IntEnum):
    """Why the engine came back."""

    END = 0
    PASS = 1
    ERROR = 2
    STUCK = 3


def record(names: tuple[str, ...], count: int = 1) -> np.ndarray[Any, Any]:
    """Records of these words, zero."""
    return np.zeros(count, [(name, "i8") for name in names])


def offsets(names: tuple[str, ...], wanted: str) -> list[int]:
    """Byte offsets of some words of a record."""
    return [8 * names.index(each) for each in wanted.split()]
