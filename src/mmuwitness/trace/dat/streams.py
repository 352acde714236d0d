"""The sub-buffers of a trace.dat, block by block, and their events in time order over all CPUs.

Memory is bounded by BLOCK_BYTES_ALL of sub-buffers that are open at a time, however large the file.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from mmap import MADV_DONTNEED, PAGESIZE, mmap

import numpy as np
from numpy.typing import NDArray

from mmuwitness.explore.loops import NativeLoops
from mmuwitness.trace.dat.columns import (
    COLUMN_COUNT,
    DAMAGED_PAGES,
    DAMAGED_PLACE,
    ENTRIES,
    EVENT_BYTES_MIN,
    PENDING_LOST,
    SOURCES,
    START,
    STATE_WORDS,
    TIME,
    TYPE,
)
from mmuwitness.trace.dat.cursor import Buffer, Cursor
from mmuwitness.trace.dat.header import CpuData, Header, Instance

BLOCK_BYTES = 1 << 20
BLOCK_BYTES_ALL = 1 << 26

_NO_KEY = -1 << 63  # before any time

Words = NDArray[np.int64]


@functools.cache
def loops() -> NativeLoops:
    """The compiled loops of core."""
    return NativeLoops("mmuwitness.trace.dat.core", SOURCES, ENTRIES)


def address(words: NDArray[np.generic]) -> int:
    return int(words.ctypes.data)


@dataclass(frozen=True)
class Block:
    """Events of one CPU. `columns` has a row for each of COLUMNS; START is an address in `pages`.

    `keys` are the times, never decreasing: a clock that was set back does not reorder a CPU.
    """

    pages: NDArray[np.uint8]
    columns: Words
    keys: Words


@dataclass
class Pages:
    """Some sub-buffers, one behind the other, and where each begins in the file."""

    bytes: NDArray[np.uint8]
    places: Words


class CpuPages:
    """The sub-buffers of one CPU, decompressed where the file has them compressed."""

    def __init__(self, path: str, data: Buffer, header: Header, instance: Instance, cpu: CpuData):
        self.instance, self.cpu = instance, cpu
        self._cursor = Cursor(path, data, header.big_endian, at=min(cpu.offset, len(data)))
        self._decompress = header.decompress
        self._end = min(cpu.offset + cpu.size, len(data))
        self.read_bytes = self._released = 0
        self.faults: list[str] = []
        if cpu.offset + cpu.size > len(data):
            missing = cpu.offset + cpu.size - max(len(data), cpu.offset)
            self.faults.append(
                f"cut short: {missing:,} bytes of CPU {cpu.cpu}'s events are missing"
            )

    def blocks(self, block_bytes: int) -> Iterator[Pages]:
        """About `block_bytes` at a time, at least one sub-buffer."""
        if not self.cpu.size:
            return
        size = self.instance.page_bytes
        many = max(block_bytes // size, 1) * size
        yield from self._unpacked(many) if self.instance.compressed else self._plain(many)

    def release(self) -> None:
        """Gives back the memory of what was read of a mapped file: it can be read again."""
        data, begin = self._cursor.data, self.cpu.offset
        start, end = (
            -(-(begin + count) // PAGESIZE) * PAGESIZE
            for count in (self._released, self.read_bytes)
        )
        if isinstance(data, mmap) and start < end <= len(data):
            data.madvise(MADV_DONTNEED, start, end - start)
            self._released = self.read_bytes

    def _plain(self, block_bytes: int) -> Iterator[Pages]:
        size = self.instance.page_bytes
        start = self._cursor.at
        whole = start + (self._end - start) // size * size
        for at in range(start, whole, block_bytes):
            count = min(block_bytes, whole - at) // size
            pages = np.frombuffer(self._cursor.data, np.uint8, count * size, at)
            self.read_bytes = at + count * size - start
            yield Pages(pages, at + size * np.arange(count, dtype=np.int64))
        self._check_rest(self._end - whole)

    def _unpacked(self, block_bytes: int) -> Iterator[Pages]:
        size = self.instance.page_bytes
        parts: list[NDArray[np.uint8]] = []
        places: list[Words] = []
        for at, chunk in self._chunks():
            count = len(chunk) // size
            self._check_rest(len(chunk) - count * size)
            parts.append(np.frombuffer(chunk, np.uint8, count * size))
            places.append(at + size * np.arange(count, dtype=np.int64))
            if sum(map(len, parts)) >= block_bytes:
                yield Pages(np.concatenate(parts), np.concatenate(places))
                parts, places = [], []
        if parts:
            yield Pages(np.concatenate(parts), np.concatenate(places))

    def _chunks(self) -> Iterator[tuple[int, bytes]]:
        """The decompressed chunks and where they are in the file."""
        assert self._decompress is not None
        cursor = self._cursor
        start = at = cursor.at
        try:
            for _ in range(cursor.number(4, "the number of chunks")):
                at = cursor.at
                packed_size = cursor.number(4, "the compressed size of a chunk")
                whole_size = cursor.number(4, "the size of a chunk")
                chunk = self._decompress(cursor.block(packed_size, "a chunk"), whole_size)
                # The size in the file leaves out the number of chunks.
                self.read_bytes = min(cursor.at - start, self.cpu.size)
                yield at, chunk
        except ValueError as error:  # TraceError is one
            why = getattr(error, "why", f"byte {at}: a damaged chunk: {error}")
            self.faults.append(f"{why}; the rest of CPU {self.cpu.cpu}'s events is not read")

    def _check_rest(self, size: int) -> None:
        if size:
            why = f"{size:,} bytes behind the last whole sub-buffer of CPU {self.cpu.cpu}"
            self.faults.append(f"{why} are not read")


class Room:
    """Memory that is used again and again: fresh memory costs more than what is done with it."""

    def __init__(self) -> None:
        self._words = np.empty(0, np.int64)

    def words(self, count: int) -> Words:
        """That many words, of any value."""
        if len(self._words) < count:
            self._words = np.empty(count, np.int64)
        return self._words[:count]


class Stream:
    """The events of one CPU in one instance, block by block."""

    def __init__(
        self, pages: CpuPages, layout: Words, block_bytes: int, stack_types: Words, room: Room
    ) -> None:
        """`room` is shared: what is in it counts only until the next stream uses it."""
        self.pages, self._layout, self._room = pages, layout, room
        self._blocks = pages.blocks(block_bytes)
        self._stacks = stack_types
        self._state = np.zeros(STATE_WORDS, np.int64)
        self.block: Block | None = None
        """None behind the last event."""
        self.at = 0
        self.next_key, self.last_key = _NO_KEY, _NO_KEY
        """Times of the next event and of the last one that is known so far."""
        self.next_block()

    @property
    def pending_lost(self) -> int:
        """Events lost behind the last one."""
        return int(self._state[PENDING_LOST])

    def next_block(self) -> None:
        """Goes on to the next block that has events; to None behind the last."""
        self.block, self.at = None, 0
        while self.block is None and (pages := next(self._blocks, None)) is not None:
            columns = self._walk(pages)
            if columns.shape[1]:
                keys = np.maximum.accumulate(np.maximum(columns[TIME], self.last_key))
                self.block = Block(pages.bytes, columns, keys)
                self.next_key, self.last_key = int(keys[0]), int(keys[-1])
        if damaged := int(self._state[DAMAGED_PAGES]):
            place = int(self._state[DAMAGED_PLACE])
            self.pages.faults.append(
                f"byte {place}: damaged; {damaged:,} sub-buffers of CPU {self.pages.cpu.cpu} from "
                "there on are read as far as they can be"
            )
            self._state[DAMAGED_PAGES] = 0

    def _walk(self, pages: Pages) -> Words:
        capacity = len(pages.bytes) // EVENT_BYTES_MIN
        out = self._room.words(COLUMN_COUNT * capacity).reshape(COLUMN_COUNT, capacity)
        found = loops()["walk"](
            address(pages.bytes),
            len(pages.places),
            address(pages.places),
            address(self._layout),
            address(out),
            capacity,
            address(self._state),
        )
        columns = out[:, :found].copy()
        columns[START] += address(pages.bytes)
        return columns

    def take(self, key: int, inclusive: bool) -> list[Block]:
        """The events up to `key`, and stack traces that come right behind them: these belong to an
        event that is taken."""
        taken: list[Block] = []
        while self.block is not None:
            block, start = self.block, self.at
            keys = block.keys[start:]
            before = keys.searchsorted(key, "right" if inclusive else "left")
            stop = start + int(before)
            count = len(block.keys)
            while start < stop < count and block.columns[TYPE, stop] in self._stacks:
                stop += 1
            if taken and stop == 0:
                while stop < count and block.columns[TYPE, stop] in self._stacks:
                    stop += 1
            if stop > start:
                taken.append(
                    Block(block.pages, block.columns[:, start:stop], block.keys[start:stop])
                )
            self.at = stop
            if stop < count:
                self.next_key = int(block.keys[stop])
                break
            self.next_block()
        return taken


@dataclass
class Part:
    """Events of all CPUs for one batch: those of each stream in its order."""

    streams: list[int] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    events: int = 0

    def add(self, stream: int, blocks: list[Block]) -> None:
        for block in blocks:
            self.streams.append(stream)
            self.blocks.append(block)
            self.events += len(block.keys)


def merged(streams: list[Stream], events: int) -> Iterator[Part]:
    """The events of all streams in parts of about that many, each part later than the one before.

    At one time a lower stream comes first, as in the kernel's own merge of its CPUs.
    """
    part = Part()
    while open_ones := [number for number, each in enumerate(streams) if each.block is not None]:
        # All that come before the first known end are known; that stream is used up.
        first = min(open_ones, key=lambda number: streams[number].last_key)
        key = streams[first].last_key
        for number in open_ones:
            if streams[number].next_key <= key:
                part.add(number, streams[number].take(key, inclusive=number <= first))
        if part.events >= events:
            yield part
            part = Part()
    if part.events:
        yield part
