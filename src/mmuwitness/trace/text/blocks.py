"""Text in blocks of whole lines, each with the events that were found in it.

A block ends before an event whose stack trace, or whose further lines of text, may be in the next
one: what is held back is read again at the start of that one.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mmuwitness.trace.compressed import ByteStream
from mmuwitness.trace.events import TraceError
from mmuwitness.trace.text import columns as column
from mmuwitness.trace.text.loops import Bytes, Scanned, Scanner

BLOCK_BYTES = 16 << 20
EVENTS_MAX = BLOCK_BYTES // 64  # of a block: shorter lines make more blocks
OTHERS_MAX = EVENTS_MAX // 4
HELD_EVENTS = 1000  # a stack trace is nearer than this to its event
NEWLINE = 10


class Blocks:
    """Iterate once. Each block lives until the next one."""

    def __init__(self, stream: ByteStream, block_bytes: int) -> None:
        self._stream = stream
        self._block = np.zeros(block_bytes + column.PADDING, np.uint8)
        self._scanner = Scanner(EVENTS_MAX, OTHERS_MAX)
        self.rest = b""
        """At the end: what is left behind the last line."""

    def __iter__(self) -> Iterator[tuple[Bytes, Scanned]]:
        block = self._block
        room = memoryview(block.data)[: -column.PADDING]
        kept, at_end = 0, False
        while True:
            if not at_end:
                count = self._stream.read_into(room[kept:])
                at_end = kept + count < len(room)
                kept += count
            found = self._scanner.scan(block, kept)
            if not found.lines:
                if not at_end:
                    why = f"no line ends in {len(room)} bytes: this is no trace text"
                    raise TraceError(self._stream.path, None, why)
                self.rest = block[:kept].tobytes()
                return
            if not at_end or (block[found.consumed : kept] == NEWLINE).any():
                found = hold_back(found)
            yield block, found
            kept -= found.consumed
            block[:kept] = block[found.consumed : found.consumed + kept].copy()


def hold_back(found: Scanned) -> Scanned:
    """Without the last event, and without those of other CPUs that may get a stack trace yet."""
    count = found.columns.shape[1]
    if count < 2:  # nothing would be left, and nothing gained by waiting
        return found
    framed = found.columns[column.FRAMES_END] > found.columns[column.FRAMES_START]
    tail = max(count - HELD_EVENTS, 0)
    cpus = found.columns[column.CPU, tail:]
    last = tail + np.flatnonzero(cpus == cpus[-1])
    cut = int(last[-2:][0])  # the last one may be a stack trace itself, of the one before
    others = [tail + int(np.flatnonzero(cpus == cpu)[-1]) for cpu in np.unique(cpus)]
    waiting = min((each for each in others if not framed[each]), default=cut)
    cut = min(cut, waiting) or cut or count - 1
    start, line = found.columns[column.LINE_START, cut], found.columns[column.LINE, cut]
    return found._replace(
        columns=found.columns[:, :cut],
        times=found.times[:cut],
        others=found.others[:, found.others[column.OTHER_START] < start],
        consumed=int(start),
        lines=int(line),
    )
