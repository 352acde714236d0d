"""The compiled loops over text, called with numpy arrays."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmuwitness.explore.loops import NativeLoops
from mmuwitness.trace.text.columns import (
    CONSUMED,
    CPU_SLOTS,
    EVENT_COLUMNS,
    EVENTS,
    INFO_WORDS,
    LINES,
    OPERATION_WORDS,
    OTHER_COLUMNS,
    OTHERS,
    PADDING,
    PREFIX,
    SEEN,
)

Bytes = NDArray[np.uint8]
Halves = NDArray[np.int32]
Words = NDArray[np.int64]

ENTRIES = {"scan": 7, "match": 11, "intern": 8, "own_stacks": 6}
SOURCES = ("trace/text/core.py", "trace/text/match.py", "trace/text/columns.py")


@cache
def loops() -> NativeLoops:
    return NativeLoops("mmuwitness.trace.text.match", SOURCES, ENTRIES)


def address(array: NDArray[Any]) -> int:
    return int(array.ctypes.data)


class Scanned(NamedTuple):
    """What `scan` found in a block: see columns."""

    columns: Halves  # EVENT_COLUMNS rows
    times: Words
    others: Halves  # OTHER_COLUMNS rows
    consumed: int  # bytes
    lines: int
    seen: int
    prefixed: bool  # the tasks of some lines have something before them


class Scanner:
    """Finds events; keeps its arrays from block to block, so a Scanned is gone with the next."""

    def __init__(self, events_max: int, others_max: int) -> None:
        if events_max % 2:
            raise ValueError("the times would not be aligned")
        self._events = np.empty(EVENT_COLUMNS * events_max + 2 * events_max, np.int32)
        self._others = np.empty((OTHER_COLUMNS, others_max), np.int32)
        self._events_max, self._others_max = events_max, others_max

    def scan(self, block: Bytes, size: int) -> Scanned:
        """The first `size` bytes of `block`, which has PADDING more, as far as there is room."""
        if len(block) < size + PADDING:
            raise ValueError("a block without padding")
        info = np.zeros(INFO_WORDS, np.int64)
        room = self._events_max
        loops()["scan"](
            address(block),
            size,
            address(self._events),
            room,
            address(self._others),
            self._others_max,
            address(info),
        )
        count = int(info[EVENTS])
        columns = self._events[: EVENT_COLUMNS * room].reshape(EVENT_COLUMNS, room)[:, :count]
        times = self._events[EVENT_COLUMNS * room :].view(np.int64)[:count]
        others = self._others[:, : int(info[OTHERS])]
        seen, prefixed = int(info[SEEN]), bool(info[PREFIX])
        return Scanned(
            columns, times, others, int(info[CONSUMED]), int(info[LINES]), seen, prefixed
        )


class Matched(NamedTuple):
    fits: NDArray[np.bool_]
    numbers: Words  # a row per number of the layout
    words: Halves  # two rows per word: offsets of its start and end
    nulls: Words  # bit k: number k could not be read when it was recorded


def match(
    block: Bytes,
    starts: Halves,
    ends: Halves,
    operations: Words,
    literals: Bytes,
    numbers: int,
    words: int,
) -> Matched:
    """Read the payloads from `starts` to `ends` by the operations of a layout."""
    count = len(starts)
    starts, ends = np.ascontiguousarray(starts), np.ascontiguousarray(ends)
    found = Matched(
        np.empty(count, np.bool_),
        np.empty((numbers, count), np.int64),
        np.empty((2 * words, count), np.int32),
        np.empty(count, np.int64),
    )
    loops()["match"](
        address(block),
        address(starts),
        address(ends),
        count,
        address(operations),
        len(operations) // OPERATION_WORDS,
        address(literals),
        address(found.numbers),
        address(found.words),
        address(found.nulls),
        address(found.fits),
    )
    return found


def intern(block: Bytes, starts: Halves, ends: Halves) -> tuple[Halves, list[bytes]]:
    """Equal strings get equal numbers: the number of each, and the strings by number."""
    count, slots = len(starts), 256
    starts, ends = np.ascontiguousarray(starts), np.ascontiguousarray(ends)
    codes, firsts = np.empty(count, np.int32), np.empty(count, np.int32)
    while True:
        table = np.zeros(slots, np.int32)
        known = loops()["intern"](
            address(block),
            address(starts),
            address(ends),
            count,
            address(table),
            slots,
            address(codes),
            address(firsts),
        )
        if known >= 0:
            break
        slots *= 16
    first = firsts[:known]
    spans = zip(starts[first].tolist(), ends[first].tolist(), strict=True)
    return codes, [block[start:end].tobytes() for start, end in spans]


def own_stacks(is_stack: NDArray[np.bool_], cpus: Halves, pids: Halves) -> Halves:
    """The event that each stack trace belongs to; all else belongs to itself."""
    owners = np.empty(len(is_stack), np.int32)
    last = np.full(CPU_SLOTS, -1, np.int32)
    cpus, pids = np.ascontiguousarray(cpus), np.ascontiguousarray(pids)
    arrays = (is_stack, cpus, pids)
    loops()["own_stacks"](
        *(address(array) for array in arrays), len(owners), address(last), address(owners)
    )
    return owners
