"""The events while they come: a file per processor, and afterwards one file in order of time.

The kernel turns events into text where they are read, so each processor has a thread that reads its
trace_pipe. Their files, PATH.cpu0 and so on, are merged at the end, and stay if that fails.
"""

from __future__ import annotations

import heapq
import os
import re
import select
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, BinaryIO

from mmuwitness.trace.record.tracefs import Tracefs

READ_BYTES = 1 << 16
POLL_MS = 100
COPY_LINES = 10_000
# TASK-PID [CPU] FLAGS SECONDS.FRACTION: NAME: or NAME( or NAME -> of a syscall
EVENT = re.compile(rb"-\d+ +\[\d+\] (?:\S+ +)?(\d+)\.(\d+): (<stack trace>|[\w.]+)")
COUNTS = re.compile(r"entries-in-buffer/entries-written: \d+/\d+")
LOST = re.compile(rb"CPU: *(\d+) \[LOST (?:(\d+) )?EVENTS\]")
STACK = "<stack trace>"

Progress = Callable[[int], None]


class Pieces:
    """Reads trace_pipe of each processor of an instance into files beside `path`."""

    def __init__(self, tracefs: Tracefs, instance: str, path: Path) -> None:
        self.tracefs = tracefs
        self.processors = [
            name for name in tracefs.names(f"{instance}/per_cpu") if name.startswith("cpu")
        ]
        self.paths = [path.with_name(f"{path.name}.{name}") for name in self.processors]
        self.pipes = [f"{instance}/per_cpu/{name}/trace_pipe" for name in self.processors]
        self.stopping = threading.Event()
        self.threads: list[threading.Thread] = []
        self.failed: OSError | None = None

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Reads until the end of the block, and then what is left in the buffers."""
        handles: list[int] = []
        try:
            for pipe, path in zip(self.pipes, self.paths, strict=True):
                handles.append(self.tracefs.open_pipe(pipe))
                thread = threading.Thread(target=self._read, args=(handles[-1], path), daemon=True)
                self.threads.append(thread)
            for thread in self.threads:
                thread.start()
            yield
        finally:
            self.stopping.set()
            for thread in self.threads:
                if thread.ident:
                    thread.join()
            for handle in handles:
                os.close(handle)

    def _read(self, handle: int, path: Path) -> None:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        try:
            with path.open("wb") as piece:
                while True:
                    # Whoever stops has switched the events off before: what comes now is the rest.
                    is_last = self.stopping.is_set()
                    self._copy(handle, piece)
                    piece.flush()  # a full disk is noticed now; a killed recorder leaves it
                    if is_last:
                        return
                    poll.poll(POLL_MS)
        except OSError as error:
            self.failed = error

    @staticmethod
    def _copy(handle: int, piece: BinaryIO) -> None:
        """All there is now."""
        while True:
            try:
                text = os.read(handle, READ_BYTES)
            except BlockingIOError:
                return
            if not text:
                return
            piece.write(text)

    def size_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.paths if path.exists())

    def remove(self) -> None:
        for path in self.paths:
            path.unlink(missing_ok=True)


@dataclass
class Merged:
    """What was merged: events by name, and the lost events that were told, by processor."""

    events: Counter[str] = field(default_factory=Counter)
    told_lost: Counter[int] = field(default_factory=Counter)

    def records(self, lines: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
        """Time in ns and text of each event: its line, its stack, and what was lost before it."""
        time, text, before = 0, b"", b""
        for line in lines:
            if match := EVENT.search(line):
                if text:
                    yield time, text
                seconds, fraction, name = match.groups()
                time = int(seconds) * 10**9 + int(fraction.ljust(9, b"0"))
                text, before = before + line, b""
                self.events[name.decode()] += 1
            elif match := LOST.match(line):
                before += line
                self.told_lost[int(match[1])] += int(match[2] or 0)
            elif line.strip():
                text += line
        if text or before:
            yield time, text + before


def merge(
    pieces: Iterable[Path],
    header: str,
    lost: Mapping[int, int],
    out: IO[bytes],
    progress: Progress,
) -> Counter[str]:
    """Writes the events of all pieces to `out` in order of time; their number by name.

    What the buffers of a processor lost beyond what was told on the way is told at the end.
    """
    merged = Merged()
    out.write(header.encode())
    files = [path.open("rb") for path in pieces if path.exists()]
    try:
        ordered = heapq.merge(*map(merged.records, files), key=lambda each: each[0])
        for number, (_, text) in enumerate(ordered):
            out.write(text)
            if number % COPY_LINES == 0:
                progress(number)
    finally:
        for file in files:
            file.close()
    for processor, number in lost.items():
        if (rest := number - merged.told_lost[processor]) > 0:
            out.write(f"CPU:{processor} [LOST {rest} EVENTS]\n".encode())
    return merged.events


def header_text(kernels: str, remarks: Iterable[str], entries: int) -> str:
    """The kernel's own header, with the number of entries that there are in the end.

    It says nothing of lost ones: each processor's are told where they were lost.
    """
    counted = COUNTS.sub(f"entries-in-buffer/entries-written: {entries}/{entries}", kernels)
    first, _, rest = counted.partition("\n")
    return "\n".join([first, "#", *(f"# {remark}" for remark in remarks), rest])
