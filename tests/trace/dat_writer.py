"""Writes trace.dat files, versions 6 and 7, from the formats' descriptions and nothing of ours."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import zstandard

UNAME, CLOCKS = "Linux lab 6.1.0-56-cloud-amd64 x86_64", "local [mono] boot\n"
COMMON = (
    ("unsigned short common_type", 0, 2, 0),
    ("unsigned char common_flags", 2, 1, 0),
    ("unsigned char common_preempt_count", 3, 1, 0),
    ("int common_pid", 4, 4, 1),
)


@dataclass(frozen=True)
class Machine:
    """Who recorded."""

    big_endian: bool = False
    long_size: int = 8
    page_bytes: int = 4096

    def pack(self, layout: str, *values: object) -> bytes:
        return struct.pack((">" if self.big_endian else "<") + layout, *values)

    @property
    def long(self) -> str:
        return "Q" if self.long_size == 8 else "I"

    @property
    def data_offset(self) -> int:
        return 8 + self.long_size

    def record(self, kind: int, pid: int, payload: bytes) -> bytes:
        return self.pack("HBBi", kind, 0, 0, pid) + payload


@dataclass(frozen=True)
class Item:
    """An event in a ring buffer, or what else is in there.

    how: plain, absolute (with an absolute time stamp before it), long (its size in a word of its
    own), discarded. lost: events lost before it, -1 if not known how many; it begins a sub-buffer.
    """

    time: int
    record: bytes
    how: str = "plain"
    lost: int = 0


@dataclass
class Cpu:
    """One CPU's ring buffer: `pages` once written."""

    machine: Machine
    pages: list[bytes] = field(default_factory=list)
    data: bytes = b""
    start: int = 0
    last: int = 0
    lost: int = 0
    open: bool = False

    def add(self, item: Item) -> None:
        room = self.machine.page_bytes - self.machine.data_offset
        if not self.open or item.lost:
            self.begin(item)
        made = self.event(item)
        if len(self.data) + len(made) > room:
            self.begin(item)
            made = self.event(item)
        assert len(self.data) + len(made) <= room
        self.data += made
        self.last = item.time

    def begin(self, item: Item) -> None:
        self.end()
        self.start = self.last = item.time
        self.lost, self.open = item.lost, True

    def end(self) -> None:
        """Closes the sub-buffer: time, commit with its marks, data, perhaps the number of lost."""
        if not self.open:
            return
        machine = self.machine
        flags, tail = len(self.data), b""
        room = machine.page_bytes - machine.data_offset - len(self.data)
        if self.lost:
            flags |= 1 << 31
            if self.lost > 0 and room >= machine.long_size:
                flags |= 1 << 30
                tail = machine.pack(machine.long, self.lost)
        page = machine.pack("Q" + machine.long, self.start, flags) + self.data + tail
        self.pages.append(page.ljust(machine.page_bytes, b"\0"))
        self.data, self.open = b"", False

    def event(self, item: Item) -> bytes:
        made, delta = b"", item.time - self.last
        if item.how == "absolute":
            made += self.head(31, item.time & (1 << 27) - 1)
            made += self.machine.pack("I", item.time >> 27 & (1 << 32) - 1)
            delta = 0
        elif delta >= 1 << 27:
            made += self.head(30, delta & (1 << 27) - 1)
            made += self.machine.pack("I", delta >> 27)
            delta = 0
        record = item.record + bytes(-len(item.record) % 4)
        if item.how == "discarded":
            # The kernel marks one that would have no time with 1: 0 is the end of a sub-buffer.
            return (
                made
                + self.head(29, delta or 1)
                + self.machine.pack("I", len(record))
                + (record[4:])
            )
        if item.how == "long" or len(record) > 112:
            return made + self.head(0, delta) + self.machine.pack("I", len(record) + 4) + record
        return made + self.head(len(record) // 4, delta) + record

    def head(self, kind: int, delta: int) -> bytes:
        word = kind << 27 | delta if self.machine.big_endian else kind | delta << 5
        return self.machine.pack("I", word)


def ring(machine: Machine, items: Sequence[Item]) -> list[bytes]:
    """The sub-buffers that hold these items."""
    cpu = Cpu(machine)
    for item in items:
        cpu.add(item)
    cpu.end()
    return cpu.pages


Fields = Sequence[tuple[str, int, int, int]]


def format_file(name: str, number: int, fields: Fields, printed: str = '""') -> str:
    """As in tracefs; the common fields are put before the others."""
    lines = [
        f"\tfield:{declaration};\toffset:{offset};\tsize:{size};\tsigned:{signed};\n"
        for declaration, offset, size, signed in [*COMMON, *fields]
    ]
    return f"name: {name}\nID: {number}\nformat:\n{''.join(lines)}\nprint fmt: {printed}\n"


@dataclass
class Recording:
    """What to write. `instances` have a name and the sub-buffers of each CPU by its number."""

    machine: Machine = field(default_factory=Machine)
    ftrace: list[str] = field(default_factory=list)
    systems: dict[str, list[str]] = field(default_factory=dict)
    kallsyms: str = ""
    printk: str = ""
    cmdlines: str = ""
    options: list[tuple[int, bytes]] = field(default_factory=list)
    instances: list[tuple[str, dict[int, list[bytes]]]] = field(default_factory=list)

    def parts(self) -> dict[int, bytes]:
        """The parts of the header by the number that version 7 gives them."""
        pack, machine = self.machine.pack, self.machine
        commit = f"\tfield: local_t commit;\toffset:8;\tsize:{machine.long_size};\tsigned:1;\n"
        size = machine.page_bytes - machine.data_offset
        page = (
            "\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;\n"
            f"{commit}\tfield: int overwrite;\toffset:8;\tsize:1;\tsigned:1;\n"
            f"\tfield: char data;\toffset:{machine.data_offset};\tsize:{size};\tsigned:1;\n"
        ).encode()
        event = b"# compressed entry header\n"
        formats = b"".join(pack("Q", len(text)) + text.encode() for text in self.ftrace)
        systems = pack("I", len(self.systems))
        for name, files in self.systems.items():
            systems += name.encode() + b"\0" + pack("I", len(files))
            systems += b"".join(pack("Q", len(text)) + text.encode() for text in files)
        header = b"header_page\0" + pack("Q", len(page)) + page
        return {
            16: header + b"header_event\0" + pack("Q", len(event)) + event,
            17: pack("I", len(self.ftrace)) + formats,
            18: systems,
            19: pack("I", len(self.kallsyms)) + self.kallsyms.encode(),
            20: pack("I", len(self.printk)) + self.printk.encode(),
            21: pack("Q", len(self.cmdlines.encode())) + self.cmdlines.encode(),
        }

    def start(self, version: bytes) -> bytes:
        machine = self.machine
        first = b"\x17\x08\x44tracing" + version + b"\0"
        return (
            first
            + bytes([machine.big_endian, machine.long_size])
            + machine.pack("I", machine.page_bytes)
        )

    def option(self, number: int, content: bytes) -> bytes:
        return self.machine.pack("HI", number, len(content)) + content


def write_v6(recording: Recording) -> bytes:
    pack, page = recording.machine.pack, recording.machine.page_bytes
    made = recording.start(b"6") + b"".join(recording.parts().values())
    (top, cpus), *others = recording.instances
    assert top == ""
    count = 1 + max(number for _, each in recording.instances for number in each)
    made += pack("I", count) + b"options  \0"
    made += recording.option(5, UNAME.encode() + b"\0") + recording.option(4, b"")
    for number, content in recording.options:
        made += recording.option(number, content)
    holes = []
    for name, _ in others:
        holes.append(len(made) + 6)
        made += recording.option(3, bytes(8) + name.encode() + b"\0")
    made += pack("H", 0)
    tables = [len(made) + 10]
    made += b"flyrecord\0" + bytes(16 * count)
    made += pack("Q", len(CLOCKS)) + CLOCKS.encode()
    for hole in holes:
        made = made[:hole] + pack("Q", len(made)) + made[hole + 8 :]
        tables.append(len(made) + 10)
        made += b"flyrecord\0" + bytes(16 * count)
    for table, (_, cpus) in zip(tables, recording.instances, strict=True):
        for number in range(count):
            made += bytes(-len(made) % page)
            content = b"".join(cpus.get(number, []))
            at = table + 16 * number
            made = made[:at] + pack("QQ", len(made), len(content)) + made[at + 16 :]
            made += content
    return made


def write_v7(recording: Recording, compression: str = "none", chunk_pages: int = 2) -> bytes:
    pack, page = recording.machine.pack, recording.machine.page_bytes
    made = recording.start(b"7") + compression.encode() + b"\0" + b"1.0\0"
    hole = len(made)
    made += bytes(8)
    known: dict[str, Callable[[bytes], bytes]] = {
        "zlib": zlib.compress,
        "zstd": zstandard.ZstdCompressor().compress,
    }
    squeeze = known.get(compression)

    def section(number: int, content: bytes) -> bytes:
        if squeeze is None:
            return pack("HHIQ", number, 0, 0, len(content)) + content
        packed = squeeze(content)
        whole = pack("II", len(packed), len(content)) + packed
        return pack("HHIQ", number, 1, 0, len(whole)) + whole

    options = recording.option(5, UNAME.encode() + b"\0")
    options += recording.option(4, CLOCKS.encode() + b"\0")
    for number, content in recording.options:
        options += recording.option(number, content)
    for number, content in recording.parts().items():
        options += recording.option(number, pack("Q", len(made)))
        made += section(number, content)
    buffers = b""
    for name, cpus in recording.instances:
        at = len(made)
        made += pack("HHIQ", 3, int(squeeze is not None), 0, 0)
        buffer = pack("Q", at) + name.encode() + b"\0mono\0" + pack("II", page, len(cpus))
        for number, pages in cpus.items():
            made += bytes(-len(made) % page)
            content = b"".join(pages)
            size = len(content)
            if squeeze is not None and pages:
                step = chunk_pages * page
                chunks = [content[where : where + step] for where in range(0, size, step)]
                content = pack("I", len(chunks))
                for chunk in chunks:
                    packed = squeeze(chunk)
                    content += pack("II", len(packed), len(chunk)) + packed
                size = len(content) - 4  # as trace-cmd does: without the number of chunks
            buffer += pack("IQQ", number, len(made), size)
            made += content
        buffers += recording.option(3, buffer)
    second = len(made)
    made += section(0, buffers + recording.option(0, pack("Q", 0)))
    first = len(made)
    made += section(0, options + recording.option(0, pack("Q", second)))
    return made[:hole] + pack("Q", first) + made[hole + 8 :]
