"""trace.dat version 6: the parts one after the other, then where each CPU's data lies."""

from __future__ import annotations

from mmuwitness.trace.dat.cursor import Cursor
from mmuwitness.trace.dat.header import (
    BUFFER,
    DONE,
    PARTS,
    TRACECLOCK,
    Header,
    Instance,
    cpu_data,
    read_option,
    read_part,
    set_clock,
)

CPUS_MAX = 65_536


def read_parts(cursor: Cursor, header: Header) -> None:
    """All that follows the file's first bytes, up to the CPUs' data."""
    for part in PARTS:
        read_part(part, cursor, header)
    header.cpu_count = cursor.number(4, "the number of CPUs")
    others: list[tuple[int, str]] = []
    clock_follows = False
    if (kind := cursor.block(10, "options or data")) == b"options  \0":
        clock_follows = _options(cursor, header, others)
        kind = cursor.block(10, "the kind of data")
    _buffer(cursor, header, "", kind)
    if clock_follows:
        size = cursor.number(8, "the size of trace_clock")
        set_clock(cursor.block(size, "trace_clock").decode("utf-8", "replace"), header)
    for offset, name in others:
        other = cursor.within(cursor.data, at=offset)
        _buffer(other, header, name, other.block(10, f"the data of instance {name}"))


def _options(cursor: Cursor, header: Header, others: list[tuple[int, str]]) -> bool:
    """Reads all options. Whether the clock is named behind the CPUs' table, not among them."""
    clock_follows = False
    while (option := cursor.number(2, "an option")) != DONE:
        at = cursor.at
        content = cursor.block(cursor.number(4, "an option's size"), "an option")
        inner = cursor.within(content, inside=at)
        if option == BUFFER:
            offset = inner.number(8, "the offset of an instance")
            others.append((offset, inner.string("the name of an instance")))
        else:
            clock_follows |= option == TRACECLOCK
            read_option(option, inner, header)
    return clock_follows


def _buffer(cursor: Cursor, header: Header, name: str, kind: bytes) -> None:
    if kind == b"latency  \0":
        header.texts.append(name)
        return
    if kind != b"flyrecord\0":
        raise cursor.error(f"neither flyrecord nor latency data, but {kind!r}", cursor.at - 10)
    if header.cpu_count > CPUS_MAX:
        raise cursor.error(f"{header.cpu_count:,} CPUs")
    cpus = tuple(cpu_data(cursor, cpu) for cpu in range(header.cpu_count))
    page_bytes = max(header.page_bytes, header.layout.bytes if not name else 0)
    header.instances.append(Instance(name, page_bytes, cpus, compressed=False))
