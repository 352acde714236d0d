"""Trace text as batches: `trace`, `trace_pipe`, `trace-cmd report`, `perf script`.

The text is read in blocks (blocks). In each, a compiled loop finds the events (core), and
payloads are read per kind of event by layouts (text_layout, text_tables).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mmuwitness.trace.compressed import STANDARD_INPUT, ByteStream
from mmuwitness.trace.events import Batch, Loss, Progress, TraceError, count_lost
from mmuwitness.trace.text import columns as column
from mmuwitness.trace.text.batch import BlockEvents
from mmuwitness.trace.text.blocks import BLOCK_BYTES, Blocks
from mmuwitness.trace.text.layout import FREE_TEXT
from mmuwitness.trace.text.loops import Bytes, Halves, Scanned, Words
from mmuwitness.trace.text.remarks import HEADER, Remarks
from mmuwitness.trace.text.tables import TableMaker


class TextTrace:
    """A trace in text; see `events.Trace`."""

    def __init__(
        self,
        path: str,
        progress: Progress | None = None,
        stream: ByteStream | None = None,
        block_bytes: int = BLOCK_BYTES,
    ) -> None:
        """`stream` is the first pass, if that has been opened already. No line may be longer than
        a block."""
        self.path, self._progress, self._stream = path, progress, stream
        self._block_bytes = block_bytes
        self._begin()

    def _begin(self) -> None:
        self.complete = True
        self.remarks = Remarks()
        self._said: list[str] = []
        self._tables = TableMaker()
        self._lines = self._entries = self._rows = 0
        self._seen = 0
        self._prefixed = False
        self._last_time: int | None = None
        self._back: int | None = None

    @property
    def format(self) -> str:
        if self.remarks.perf:
            return "perf script"
        return "trace-cmd report" if self.remarks.trace_cmd else "ftrace text"

    @property
    def clock(self) -> str | None:
        return "ticks" if self._seen & column.TICKS else None

    @property
    def release(self) -> str | None:
        return self.remarks.release

    @property
    def losses(self) -> list[Loss]:
        return self.remarks.losses

    @property
    def lost(self) -> int:
        return count_lost(self.losses)

    @property
    def notes(self) -> list[str]:
        return [*self._said, *self.remarks.sentences(), *self._observations()]

    def batches(self) -> Iterator[Batch]:
        if self._stream is None and self.path == STANDARD_INPUT:
            raise TraceError("standard input", None, "it can be read only once")
        stream, self._stream = self._stream or ByteStream(self.path, self._progress), None
        self._begin()
        try:
            blocks = Blocks(stream, self._block_bytes)
            for block, found in blocks:
                batch = self._batch(block, found)
                self._lines += found.lines
                if batch is None and not self._entries:
                    break
                if batch is not None:
                    yield batch
            self._note_end(stream.damage, blocks.rest)
        finally:
            stream.close()
        if not self._entries:
            why = "no event of a trace up to here" + self.remarks.why_none()
            raise TraceError(self.path, self._lines, why)
        self.remarks.check_promise(self._entries)
        if self.remarks.shortfalls or self.remarks.foreign or self.losses:
            self.complete = False

    def _note_end(self, damage: str | None, rest: bytes) -> None:
        if damage:
            self.complete = False
            self._said.append(f"{damage}, after line {self._lines}")
        if rest:
            self.complete = False
            shown = rest[-60:].decode(errors="replace")
            self._said.append(f"line {self._lines + 1} is cut off and left out: {shown!r}")

    def _batch(self, block: Bytes, found: Scanned) -> Batch | None:
        """The events of a block, numbered on from the batches before; None if it has none."""
        events = BlockEvents(block, found)
        self._note_lines(block, found, events)
        self._seen |= found.seen
        self._prefixed |= found.prefixed
        self.remarks.perf |= any(name.group for name in events.names.values())
        self._entries += events.entries
        if not events.entries:
            return None
        self._note_times(events.times, events.lines)
        batch = events.batch(self._rows, self._lines, self._tables)
        self._rows += events.count
        return batch

    def _note_lines(self, block: Bytes, found: Scanned, events: BlockEvents) -> None:
        """What the lines say that are no events."""
        text_line = -1  # the last line of a text that may go on
        for start, end, line, entry in zip(*found.others.tolist(), strict=True):
            text = block[start:end].tobytes().decode(errors="replace")
            written = entry and not HEADER.match(text) and events.name(entry - 1) in FREE_TEXT
            if written and line - 1 in (events.line(entry - 1), text_line):
                events.extend(entry - 1, end)
                self.remarks.continued += 1
                text_line = line
                continue
            row = self._rows + events.events_before(entry)
            self.remarks.note(self._lines + 1 + line, text, self._entries + entry, row)

    def _note_times(self, times: Words, lines: Halves) -> None:
        if not len(times):
            return
        back = np.flatnonzero(np.diff(times) < 0)
        if self._back is None and self._last_time is not None and times[0] < self._last_time:
            self._back = self._lines + 1 + int(lines[0])
        elif self._back is None and back.size:
            self._back = self._lines + 1 + int(lines[back[0] + 1])
        self._last_time = int(times[-1])

    def _observations(self) -> list[str]:
        said = []
        if self._seen & column.TICKS:
            said.append("its times are ticks of the trace's clock, not seconds")
        if self._seen & column.SHORT_TASKS:
            said.append("the latency format cuts the names of tasks to 8 characters")
        if self._prefixed:
            said.append("it holds several buffers; their events are put together")
        if self._back is not None:
            said.append(f"time goes back in line {self._back}: several traces in one file?")
        if self._tables.addresses:
            said.append(
                f"{self._tables.addresses} times a probed function or its caller is an address "
                "without a name: the kernel's own `trace` file and trace.dat have the names"
            )
        return said
