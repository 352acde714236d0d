"""Reading numbers, strings and blocks out of trace.dat's header, never past its end."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from mmap import mmap

from mmuwitness.trace.events import TraceError

Buffer = bytes | mmap | memoryview

STEP_BYTES = 1 << 20  # decompressed at a time: a damaged size never asks for more memory at once
RATIO_MAX = 4096  # of decompressed to compressed bytes: beyond it, a size is damaged


class Cursor:
    """A place in a file that moves as it is read; or in a decompressed section of it, whose bytes
    have no offset in the file: errors name the section's, `inside`.
    """

    def __init__(
        self,
        path: str,
        data: Buffer,
        big_endian: bool = False,
        *,
        at: int = 0,
        inside: int | None = None,
    ) -> None:
        self.path, self.data, self.at, self.inside = path, data, at, inside
        self.big_endian = big_endian

    @property
    def left(self) -> int:
        return len(self.data) - self.at

    def within(self, data: Buffer, at: int = 0, inside: int | None = None) -> Cursor:
        """A cursor of the same file on other bytes, or elsewhere on its own."""
        if at > len(data):
            raise self.error(f"points to byte {at:,}: the file has {len(data):,}, it is cut short")
        return Cursor(self.path, data, self.big_endian, at=at, inside=inside)

    def error(self, why: str, at: int | None = None) -> TraceError:
        """An error at a place of the file: here, if not said."""
        here = self.at if at is None else at
        if self.inside is None:
            return TraceError(self.path, here, f"byte {here}: {why}")
        why = f"byte {self.inside}: {why} (in the section there, {here} bytes into it)"
        return TraceError(self.path, self.inside, why)

    def block(self, size: int, what: str) -> bytes:
        """The next `size` bytes."""
        if not 0 <= size <= self.left:
            raise self.error(f"cut short: {what} needs {size:,} bytes, {self.left:,} are left")
        self.at += size
        return bytes(self.data[self.at - size : self.at])

    def number(self, size: int, what: str) -> int:
        """An unsigned integer of `size` bytes."""
        return int.from_bytes(self.block(size, what), "big" if self.big_endian else "little")

    def string(self, what: str, bytes_max: int = 65_536) -> str:
        """Bytes up to a NUL, which is passed over."""
        found = bytes(self.data[self.at : self.at + bytes_max]).find(b"\0")
        if found < 0:
            raise self.error(f"{what} has no end within {min(bytes_max, self.left):,} bytes")
        text = self.block(found + 1, what)[:-1]
        return text.decode("utf-8", "replace")

    def literal(self, expected: bytes, what: str) -> None:
        """Pass over bytes that must be these."""
        if (found := self.block(len(expected), what)) != expected:
            self.at -= len(expected)
            raise self.error(f"{what}: {expected!r} should be here, {found!r} is")


Decompress = Callable[[bytes, int], bytes]
"""The whole of a compressed block, given how many bytes it makes. ValueError if it makes others."""


def decompressor(name: str) -> Decompress | None:
    """For a name as trace-cmd writes it into the file's header; None if it is not known."""
    return {"zlib": _inflate, "zstd": _unzstd}.get(name)


def _check_size(packed: bytes, size: int) -> None:
    if size > (len(packed) + 64) * RATIO_MAX:
        raise ValueError(f"{len(packed):,} bytes cannot make {size:,}")


def _inflate(packed: bytes, size: int) -> bytes:
    _check_size(packed, size)
    inflate = zlib.decompressobj()
    try:
        made = inflate.decompress(packed, size + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if len(made) != size:
        raise ValueError(f"makes {len(made):,} bytes or more, not {size:,}")
    return made


def _unzstd(packed: bytes, size: int) -> bytes:
    import zstandard

    _check_size(packed, size)
    pieces, made = [], 0
    try:
        # A window of 128 MB is the largest that zstd itself makes.
        unpack = zstandard.ZstdDecompressor(max_window_size=1 << 27)
        with unpack.stream_reader(packed) as stream:
            while made <= size and (piece := stream.read(min(STEP_BYTES, size - made + 1))):
                pieces.append(piece)
                made += len(piece)
    except (zstandard.ZstdError, MemoryError) as error:
        raise ValueError(str(error)) from error
    if made != size:
        raise ValueError(f"makes {made:,} bytes or more, not {size:,}")
    return b"".join(pieces)
