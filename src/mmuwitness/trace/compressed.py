"""Bytes of a file, of standard input (`-`) or of an xz, gzip or zstd stream, told by content.

Damage does not raise: what can be decompressed is delivered, and `damage` says what happened.
Memory is bounded, whatever a stream claims to hold.
"""

from __future__ import annotations

import lzma
import mmap
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from mmuwitness.trace.events import Progress, TraceError

STANDARD_INPUT = "-"
HEAD_BYTES = 65_536
CHUNK_BYTES = 1 << 20
# Of zstd in one go: 4 bytes can stand for 128 KiB, and its output cannot be limited.
ZSTD_CHUNK_BYTES = 2048


class ByteStream:
    """Reads forward, once. `head` is the beginning, read beforehand, at least HEAD_BYTES of it
    if there is that much; reading starts with it all the same."""

    def __init__(self, path: str, progress: Progress | None = None) -> None:
        self.path = path
        self.damage: str | None = None
        """Known at the end: why the stream ends where it does, if it should not."""
        self._progress, self._done = progress, 0
        self._file, self.size = open_file(path)
        """`size` in bytes; None if it is not a plain file, or empty."""
        try:
            start = self._read(HEAD_BYTES)
        except OSError as error:
            raise TraceError(path, None, f"cannot be read: {error.strerror}") from error
        self.packed = packing(start)
        """"xz", "gzip", "zstd" or None."""
        self._chunks = self._plain(start) if self.packed is None else self._unpacked(start)
        self.head = b""
        for chunk in self._chunks:
            self.head += chunk
            if len(self.head) >= HEAD_BYTES:
                break
        self._rest = memoryview(self.head)

    def read_into(self, room: memoryview) -> int:
        """Fill `room`, or as much of it as there is; how many bytes."""
        filled = 0
        while filled < len(room):
            if not self._rest:
                self._rest = memoryview(next(self._chunks, b""))
                if not self._rest:
                    break
            part = self._rest[: len(room) - filled]
            room[filled : filled + len(part)] = part
            self._rest = self._rest[len(part) :]
            filled += len(part)
        if self._progress:
            self._progress(self._done, self.size)
        return filled

    def close(self) -> None:
        if self._file is not sys.stdin.buffer:
            self._file.close()

    def _read(self, size: int) -> bytes:
        chunk = self._file.read(size)
        self._done += len(chunk)
        return chunk

    def _plain(self, start: bytes) -> Iterator[bytes]:
        chunk = start
        while chunk:
            yield chunk
            try:
                chunk = self._read(CHUNK_BYTES)
            except OSError as error:
                self.damage = f"reading failed: {error.strerror}"
                return

    def _unpacked(self, start: bytes) -> Iterator[bytes]:
        """One stream after the other, as `cat a.xz b.xz` makes them."""
        assert self.packed
        source = self._plain(start)
        if self.packed == "zstd":
            source = sliced(source)
        make, errors = decompressor(self.packed)
        given = next(source, b"")
        while given:
            state = make()
            while not state.eof:
                try:
                    for chunk in decompressed(state, given, self.packed):
                        if chunk:
                            yield chunk
                except errors as error:
                    self.damage = f"the {self.packed} stream is damaged: {error}"
                    return
                if not state.eof:
                    given = next(source, b"")
                    if not given:
                        self.damage = self.damage or f"the {self.packed} stream is cut short"
                        return
            given = state.unused_data.lstrip(b"\0") or next(source, b"").lstrip(b"\0")


def open_file(path: str) -> tuple[BinaryIO, int | None]:
    """The file and its size in bytes, if it is a plain one and not empty."""
    if path == STANDARD_INPUT:
        return sys.stdin.buffer, None
    try:
        file = Path(path).open("rb")  # noqa: SIM115 - ByteStream.close()
        return file, Path(path).stat().st_size or None if Path(path).is_file() else None
    except OSError as error:
        raise TraceError(path, None, f"cannot be opened: {error.strerror}") from error


def packing(start: bytes) -> str | None:
    """How a file that begins like this is compressed."""
    magics = {b"\xfd7zXZ\x00": "xz", b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
    return next((name for magic, name in magics.items() if start.startswith(magic)), None)


def decompressor(packed: str) -> tuple[Callable[[], Any], tuple[type[Exception], ...]]:
    """What makes a decompressor of one stream, and what it may raise."""
    if packed == "xz":
        return lzma.LZMADecompressor, (lzma.LZMAError,)
    if packed == "gzip":
        return lambda: zlib.decompressobj(wbits=31), (zlib.error,)
    import zstandard

    return lambda: zstandard.ZstdDecompressor().decompressobj(), (zstandard.ZstdError,)


def decompressed(state: Any, given: bytes, packed: str) -> Iterator[bytes]:
    """What a decompressor makes of `given`, in pieces of bounded size."""
    if packed == "xz":
        yield state.decompress(given, CHUNK_BYTES)
        while not (state.eof or state.needs_input):
            yield state.decompress(b"", CHUNK_BYTES)
    elif packed == "gzip":
        yield state.decompress(given, CHUNK_BYTES)
        while state.unconsumed_tail and not state.eof:
            yield state.decompress(state.unconsumed_tail, CHUNK_BYTES)
    else:
        yield state.decompress(given)


def sliced(chunks: Iterator[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        for at in range(0, len(chunk), ZSTD_CHUNK_BYTES):
            yield chunk[at : at + ZSTD_CHUNK_BYTES]


class Mapped(NamedTuple):
    """The whole of a file, decompressed, as bytes in (virtual) memory."""

    content: mmap.mmap | bytes
    damage: str | None


def map_stream(stream: ByteStream) -> Mapped:
    """All of a stream that has not been read yet: a plain file as it is, all else through a
    temporary file that nobody else sees. Closes the stream."""
    try:
        if stream.packed is None and stream.size is not None:
            with Path(stream.path).open("rb") as file:
                return Mapped(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), None)
        with tempfile.TemporaryFile() as copy:
            room = memoryview(bytearray(CHUNK_BYTES))
            while count := stream.read_into(room):
                copy.write(room[:count])
            copy.flush()
            if not copy.tell():
                return Mapped(b"", stream.damage)
            return Mapped(mmap.mmap(copy.fileno(), 0, access=mmap.ACCESS_READ), stream.damage)
    except OSError as error:
        raise TraceError(stream.path, None, f"cannot be mapped: {error.strerror}") from error
    finally:
        stream.close()
