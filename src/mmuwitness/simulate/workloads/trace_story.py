"""What a trace tells of one host: touches that faulted, and invalidations, at their times."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from mmuwitness.simulate.arrays import Array
from mmuwitness.simulate.kernel.replayed import (
    ACTION_BITS,
    DROP,
    MERGE,
    MOVE,
    NUMA,
    PROTECT,
    REPLACE,
    SWAP,
    WINDOW,
)
from mmuwitness.trace.audit.change_pte import Change
from mmuwitness.trace.audit.faults import VM_SHIFT, Fault, Zap
from mmuwitness.trace.audit.follow import COLUMNS, Follower
from mmuwitness.trace.causes import Cause
from mmuwitness.trace.facts import FactReader
from mmuwitness.trace.open import open_trace
from mmuwitness.trace.windows import Window

BY_FAULTS = {Cause.COW_GUEST, Cause.COW_FORK, Cause.COW}
"""Windows that come of themselves, when guests write again."""

ACTIONS = {
    **dict.fromkeys((Cause.DONTNEED, Cause.FREE, Cause.HOLE, Cause.MUNMAP, Cause.MMAP), DROP),
    **dict.fromkeys((Cause.KSM_WRITE_PROTECT, Cause.KSM), MERGE),
    Cause.KSM_REPLACE: REPLACE,
    Cause.NUMA_SCAN: NUMA,
    **dict.fromkeys((Cause.MPROTECT, Cause.SOFT_DIRTY, Cause.FORK), PROTECT),
    **dict.fromkeys((Cause.NUMA_MIGRATION, Cause.MIGRATION, Cause.COMPACTION), MOVE),
    **dict.fromkeys((Cause.RECLAIM, Cause.PAGEOUT), SWAP),
}
"""What is done for a cause; for all others there is a window that changes nothing."""

SINGLE = {MERGE, REPLACE, MOVE, SWAP}
WRITE_FAULT = 2
"""PFERR_WRITE of x86, bit 1 of what the guest's fault says of itself."""

Event = tuple[int, int, int]
"""ns since the trace began; the page; whether it was a write, or what is done to how many pages."""


@dataclass
class Story:
    """pages: how many the trace names.  touches and windows in their order.  mapped: by page, True
    if it was mapped before the trace began: what was done to it first was to take it away."""

    pages: int
    touches: list[Event]
    windows: list[Event]
    mapped: Array
    left_out: int
    seconds: float


@dataclass
class _Heard:
    """A Listener."""

    touches: list[tuple[int, int, bool]] = field(default_factory=list)
    windows: list[tuple[int, int, int, int]] = field(default_factory=list)
    left_out: int = 0

    def window(self, window: Window) -> None:
        cause = window.tag.cause
        if cause in BY_FAULTS:
            return
        if not window.parts:
            self.left_out += 1
        action = ACTIONS.get(cause, WINDOW)
        vm = (window.vms[0] if window.vms else 0) << VM_SHIFT
        for start, end in window.parts:
            self.windows.append((window.opened, vm | start, vm | end, action))

    def fault(self, fault: Fault) -> None:
        if fault.gfn is not None:
            write = bool((fault.error_code or 0) & WRITE_FAULT)
            self.touches.append((fault.time, fault.vm << VM_SHIFT | fault.gfn, write))

    def zap(self, zap: Zap, window: Window | None) -> None:
        """Zaps are what a run says."""

    def refault(self, zap: Zap, pfn: int | None, time: int, fault: Fault | None) -> None:
        """And so are refaults."""

    def change_pte(self, change: Change) -> None:
        """And what change_pte() does."""


def read_story(path: str) -> Story:
    """TraceError if it cannot be read; ValueError if it names no page of a guest."""
    heard = _Heard()
    reader = FactReader(columns=COLUMNS)
    follower = Follower(reader, heard)
    reader.kinds = follower.kinds
    span = follower.follow(open_trace(path))
    if heard.left_out and not heard.windows:
        raise ValueError(f"{path}: no window tells its gfns; a trace with probes does")
    ranges = [np.arange(start, end) for _, start, end, _ in heard.windows]
    named = np.array([gfn for _, gfn, _ in heard.touches], np.int64)
    if not len(named) + len(ranges):
        raise ValueError(f"{path} names no page of a guest: neither faults nor windows with gfns")
    gfns = np.unique(np.concatenate([named, *ranges]))
    windows = [
        (time - span.start, *place(gfns, start, end, action))
        for time, start, end, action in sorted(heard.windows)
    ]
    touches = [
        (time - span.start, int(np.searchsorted(gfns, gfn)), int(write))
        for time, gfn, write in sorted(heard.touches)
    ]
    mapped = first_taken(len(gfns), touches, windows)
    seconds = (span.end - span.start) / 1e9
    return Story(len(gfns), touches, windows, mapped, heard.left_out, seconds)


def place(gfns: Array, start: int, end: int, action: int) -> tuple[int, int]:
    """Page, and action with the number of pages.  Who works on one page is given one."""
    first = int(np.searchsorted(gfns, start))
    pages = 1 if action in SINGLE else end - start
    return first, pages << ACTION_BITS | action


def first_taken(pages: int, touches: list[Event], windows: list[Event]) -> Array:
    """By page, True if a window was over it before any touch."""
    never = np.iinfo(np.int64).max
    touched, taken = np.full(pages, never), np.full(pages, never)
    for time, page, _ in reversed(touches):
        touched[page] = time
    for time, page, what in reversed(windows):
        taken[page : page + (what >> ACTION_BITS)] = time
    earlier: Array = taken < touched
    return earlier
