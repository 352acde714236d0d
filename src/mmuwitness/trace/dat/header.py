"""What a trace.dat says before its events: trace-cmd.dat.v6(5) and trace-cmd.dat.v7(5).

Version 6 is one run of parts in fixed order. In version 7 the same parts are sections, found
through options; any of them may be compressed. Both end up in one `Header`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from mmuwitness.trace.dat.cursor import Buffer, Cursor, Decompress, decompressor
from mmuwitness.trace.dat.format import Format, FormatFile, parse_fields
from mmuwitness.trace.events import TraceError

MAGIC = b"\x17\x08\x44tracing"
PAGE_BYTES_MAX = 1 << 26  # a sub-buffer: the kernel's own bound is far lower

# Options; sections have the id of the option that points to them.
DONE, DATE, CPUSTAT, BUFFER, TRACECLOCK, UNAME, OFFSET, CPUCOUNT = 0, 1, 2, 3, 4, 5, 7, 8
TIME_SHIFT, TSC2NSEC, HEADER_INFO, FTRACE_EVENTS, EVENT_FORMATS = 12, 14, 16, 17, 18
KALLSYMS, PRINTK, CMDLINES, BUFFER_TEXT = 19, 20, 21, 22
COMPRESSED = 1  # flag of a section


@dataclass(frozen=True)
class CpuData:
    """Where the sub-buffers of one CPU lie in the file."""

    cpu: int
    offset: int
    size: int


@dataclass(frozen=True)
class Instance:
    """One ring buffer of the recorded kernel; the top one has no name."""

    name: str
    page_bytes: int
    cpus: tuple[CpuData, ...]
    compressed: bool


@dataclass(frozen=True)
class PageLayout:
    """events/header_page: what stands before the events of a sub-buffer."""

    commit_offset: int = 8
    commit_size: int = 8
    data_offset: int = 16
    bytes: int = 0  # of a whole sub-buffer; 0: not said


@dataclass
class Header:
    """All of the file but the events."""

    version: int
    big_endian: bool
    long_size: int
    page_bytes: int
    decompress: Decompress | None = None
    layout: PageLayout = field(default_factory=PageLayout)
    formats: dict[int, FormatFile] = field(default_factory=dict)
    kallsyms: str = ""
    printk: str = ""
    cmdlines: str = ""
    instances: list[Instance] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)  # instances that were recorded as text
    clock: str | None = None
    uname: str | None = None
    time_offset: int = 0  # to add to each time stamp, in ns
    tsc_to_ns: tuple[int, int] | None = None  # multiplier, shift
    shifted: bool = False  # of a guest, with the differences to its host's clock
    cpu_count: int = 0
    overwritten: int = 0  # events, as the kernel counted them when recording ended
    dropped: int = 0
    notes: list[str] = field(default_factory=list)
    _parsed: dict[int, Format | None] = field(default_factory=dict)

    def format(self, number: int) -> Format | None:
        """How events of a type look; None if the file does not say, or in no readable way."""
        if number not in self._parsed:
            file = self.formats.get(number)
            self._parsed[number] = None if file is None else file.parse(self.long_size)
        return self._parsed[number]


def read_header(path: str, data: Buffer) -> Header:
    """The header of a trace.dat. TraceError if it is damaged beyond use."""
    start = Cursor(path, data)
    start.literal(MAGIC, "trace.dat's first bytes")
    version = start.string("the version", 16)
    if version not in {"6", "7"}:
        why = f"trace.dat of version {version!r}: versions 6 and 7 are known"
        raise start.error(f"{why} (`trace-cmd convert` makes one from the other)")
    endian, long_size = start.block(2, "byte order and size of long")
    if endian > 1 or long_size not in {4, 8}:
        raise start.error(f"byte order {endian}, long of {long_size} bytes", start.at - 2)
    cursor = Cursor(path, data, big_endian=endian == 1, at=start.at)
    page_bytes = cursor.number(4, "the page size")
    check_page_bytes(cursor, page_bytes)
    header = Header(int(version), endian == 1, long_size, page_bytes)
    if header.version == 6:
        from mmuwitness.trace.dat.v6 import read_parts

        read_parts(cursor, header)
    else:
        from mmuwitness.trace.dat.v7 import read_sections

        read_sections(cursor, header)
    return header


def check_page_bytes(cursor: Cursor, size: int) -> None:
    if not 64 <= size <= PAGE_BYTES_MAX or size % 4:
        raise cursor.error(f"a page of {size:,} bytes")


def read_part(section: int, cursor: Cursor, header: Header) -> None:
    """One of the parts that both versions have, by the id that version 7 gives it."""
    _READERS[section](cursor, header)


def _header_info(cursor: Cursor, header: Header) -> None:
    cursor.literal(b"header_page\0", "the part header_page")
    at = cursor.at
    text = _text(cursor, 8, "header_page")
    fields = {each.name: each for each in parse_fields(text, header.long_size) or ()}
    commit, data = fields.get("commit"), fields.get("data")
    if commit is None or data is None or commit.size not in {4, 8}:
        raise cursor.error("header_page names no usable `commit` and `data`", at)
    layout = PageLayout(commit.offset, commit.size, data.offset, data.offset + data.size)
    if layout.commit_offset + layout.commit_size > layout.data_offset:
        raise cursor.error("header_page has `commit` behind the start of `data`", at)
    header.layout = layout
    # The file's header has the size of a long of trace-cmd; this is the kernel's.
    header.long_size = commit.size
    cursor.literal(b"header_event\0", "the part header_event")
    _text(cursor, 8, "header_event")


def _ftrace_events(cursor: Cursor, header: Header) -> None:
    for _ in range(cursor.number(4, "the number of ftrace events")):
        _event_format(cursor, header, "ftrace")


def _event_formats(cursor: Cursor, header: Header) -> None:
    for _ in range(cursor.number(4, "the number of event systems")):
        system = cursor.string("the name of an event system")
        for _ in range(cursor.number(4, f"the number of events of {system}")):
            _event_format(cursor, header, system)


def _event_format(cursor: Cursor, header: Header, system: str) -> None:
    at = cursor.at
    file = FormatFile.of(system, _text(cursor, 8, "an event's format"))
    if file is None:
        header.notes.append(f"byte {at}: the format of an event of {system} is not readable")
    else:
        header.formats[file.id] = file


def _kallsyms(cursor: Cursor, header: Header) -> None:
    header.kallsyms = _text(cursor, 4, "kallsyms")


def _printk(cursor: Cursor, header: Header) -> None:
    header.printk = _text(cursor, 4, "the formats of trace_printk")


def _cmdlines(cursor: Cursor, header: Header) -> None:
    header.cmdlines = _text(cursor, 8, "the names of tasks")


def _text(cursor: Cursor, count_size: int, what: str) -> str:
    size = cursor.number(count_size, f"the size of {what}")
    return cursor.block(size, what).rstrip(b"\0").decode("utf-8", "replace")


_READERS: dict[int, Callable[[Cursor, Header], None]] = {
    HEADER_INFO: _header_info,
    FTRACE_EVENTS: _ftrace_events,
    EVENT_FORMATS: _event_formats,
    KALLSYMS: _kallsyms,
    PRINTK: _printk,
    CMDLINES: _cmdlines,
}
PARTS = tuple(_READERS)
"""The parts in the order of version 6."""


def read_option(option: int, cursor: Cursor, header: Header) -> None:
    """An option that both versions have; others say nothing about the events."""
    if option == TRACECLOCK:
        set_clock(_rest(cursor), header)
    elif option == UNAME:
        header.uname = _rest(cursor).strip() or None
    elif option == CPUCOUNT and cursor.left >= 4:
        header.cpu_count = cursor.number(4, "the number of CPUs")
    elif option in {DATE, OFFSET}:
        if number := re.match(r"\s*([-+]?)(0x[0-9a-fA-F]{1,16}|\d{1,19})", _rest(cursor)):
            scale = 1000 if option == DATE else 1  # a date is in microseconds
            sign = -1 if number[1] == "-" else 1
            header.time_offset += sign * int(number[2], 0 if "x" in number[2] else 10) * scale
    elif option == TSC2NSEC and cursor.left >= 16:
        multiplier, shift = cursor.number(4, "a multiplier"), cursor.number(4, "a shift")
        if multiplier and shift <= 32:
            header.tsc_to_ns = multiplier, shift
    elif option == TIME_SHIFT:
        header.shifted = True
    elif option == CPUSTAT:
        for what, count in re.findall(r"^([a-z ]+): (\d{1,18})$", _rest(cursor), re.M):
            header.overwritten += int(count) if what in {"overrun", "commit overrun"} else 0
            header.dropped += int(count) if what == "dropped events" else 0


def set_clock(text: str, header: Header) -> None:
    """From tracefs `trace_clock`: all clocks, the chosen one in brackets."""
    if chosen := re.search(r"\[([\w-]+)\]", text):
        header.clock = chosen[1]


def _rest(cursor: Cursor) -> str:
    return cursor.block(cursor.left, "an option").split(b"\0")[0].decode("utf-8", "replace")


def cpu_data(cursor: Cursor, cpu: int) -> CpuData:
    """The offset and the size of a CPU's data, as both versions store them."""
    offset = cursor.number(8, f"the offset of CPU {cpu}'s data")
    return CpuData(cpu, offset, cursor.number(8, f"the size of CPU {cpu}'s data"))


def decompressor_for(cursor: Cursor, name: str) -> Decompress | None:
    """None if nothing is compressed."""
    if name == "none":
        return None
    if (found := decompressor(name)) is None:
        raise cursor.error(f"compressed with {name!r}: zlib and zstd are known")
    return found


def no_events(path: str, header: Header) -> TraceError:
    """That a file has a header and nothing to count."""
    if header.texts:
        why = "recorded as text by a latency tracer: `trace-cmd report` shows it as a trace"
        return TraceError(path, None, why)
    return TraceError(path, None, "no ring buffer in the file: was the recording ended properly?")
