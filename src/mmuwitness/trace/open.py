"""Open a trace of any kind: `for batch in open_trace("trace.dat").batches(): ...`.

What a file is, its content says, never its name.
"""

from __future__ import annotations

from collections.abc import Iterator

from mmuwitness.trace.compressed import ByteStream, map_stream
from mmuwitness.trace.events import Batch, Loss, Progress, Trace, TraceError

DAT_MAGIC = b"\x17\x08\x44tracing"
TEXT_FIRST = "write its text with `{}` and read that"
# How files begin that people take for traces, what they are, and what to do instead.
FOREIGN = (
    (b"PERFILE2", "perf.data", TEXT_FIRST.format("perf script -i FILE > FILE.txt")),
    (b"2ELIFREP", "perf.data of the other byte order", "write its text with perf where it is from"),
    (b"\x7fELF", "an ELF file (a program, kernel or core dump)", "give the trace"),
    (b"PAR1", "a Parquet file", "give the trace that it was made from"),
    (b"\xd4\xc3\xb2\xa1", "a pcap file of network packets", "give a trace of the kernel"),
    (b"\xa1\xb2\xc3\xd4", "a pcap file of network packets", "give a trace of the kernel"),
    (b"\x0a\x0d\x0d\x0a", "a pcapng file of network packets", "give a trace of the kernel"),
    (b"PK\x03\x04", "a zip archive", "unpack it"),
    (b"BZh", "compressed with bzip2", "unpack it, or use xz, gzip or zstd"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it"),
    (b"\x04\x22\x4d\x18", "compressed with lz4", "unpack it, or use xz, gzip or zstd"),
    (
        b"\xc1\x1f\xfc\xc1",
        "a CTF trace (LTTng)",
        "record with trace-cmd or perf",
    ),
    (b"\xff\xfe", "text in UTF-16", "save it in UTF-8"),
    (b"\xfe\xff", "text in UTF-16", "save it in UTF-8"),
    (b"tracing", "a part of a trace.dat, without its first bytes", "give the whole file"),
)
TAR_MAGIC, TAR_OFFSET = b"ustar", 257


def open_trace(path: str, progress: Progress | None = None) -> Trace:
    """The trace in a file, or on standard input (`-`); TraceError if it is none.

    trace.dat, ftrace text, `trace-cmd report` and `perf script`, each also as xz, gzip or zstd.
    """
    stream = ByteStream(path, progress)
    head = stream.head
    if head.startswith(DAT_MAGIC):
        from mmuwitness.trace.dat.reader import DatTrace

        content, damage = map_stream(stream)
        if damage is None:
            return DatTrace(path, content, progress)
        try:
            return DamagedTrace(DatTrace(path, content, progress), damage)
        except TraceError as error:
            raise TraceError(path, error.place, f"{damage}, so {error.why}") from error
    try:
        check_text(path, head, stream.damage)
    except TraceError:
        stream.close()
        raise
    from mmuwitness.trace.text.reader import TextTrace

    return TextTrace(path, progress, stream)


def check_text(path: str, head: bytes, damage: str | None) -> None:
    """TraceError if a file that begins with `head` is not text, by name of what it looks like."""
    if not head:
        raise TraceError(path, None, damage or "is empty")
    for magic, what, do in FOREIGN:
        if head.startswith(magic):
            raise TraceError(path, 0, f"this is {what}, not a trace: {do}")
    if head[TAR_OFFSET:].startswith(TAR_MAGIC):
        raise TraceError(path, TAR_OFFSET, "this is a tar archive, not a trace: unpack it")
    if (zero := head.find(b"\0")) >= 0:
        raise TraceError(
            path, zero, "byte 0 in what should be text: a binary file of no kind that is known here"
        )


class DamagedTrace:
    """A trace.dat of which not everything could be decompressed."""

    def __init__(self, trace: Trace, damage: str) -> None:
        self._trace, self._damage = trace, damage
        self.path, self.complete = trace.path, False

    @property
    def format(self) -> str:
        return self._trace.format

    @property
    def release(self) -> str | None:
        return self._trace.release

    @property
    def clock(self) -> str | None:
        return self._trace.clock

    @property
    def losses(self) -> list[Loss]:
        return self._trace.losses

    @property
    def lost(self) -> int:
        return self._trace.lost

    @property
    def notes(self) -> list[str]:
        return [self._damage, *self._trace.notes]

    def batches(self) -> Iterator[Batch]:
        return self._trace.batches()
