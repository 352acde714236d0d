"""trace.dat version 7: sections, found through chains of options, each perhaps compressed."""

from __future__ import annotations

from mmuwitness.trace.dat.cursor import Cursor
from mmuwitness.trace.dat.header import (
    BUFFER,
    BUFFER_TEXT,
    COMPRESSED,
    DONE,
    PARTS,
    CpuData,
    Header,
    Instance,
    check_page_bytes,
    cpu_data,
    decompressor_for,
    read_option,
    read_part,
)


def read_sections(cursor: Cursor, header: Header) -> None:
    """All that follows the page size in the file's first bytes."""
    name = cursor.string("the name of the compression", 64)
    cursor.string("the version of the compression", 64)
    header.decompress = decompressor_for(cursor, name)
    at = cursor.number(8, "the offset of the first options")
    parts: dict[int, int] = {}
    buffers: list[Cursor] = []
    seen: set[int] = set()
    while at:
        if at in seen:
            raise cursor.error("options that follow one another in a circle", at)
        seen.add(at)
        at = _options(cursor.within(cursor.data, at=at), header, parts, buffers)
    for part in PARTS:
        if part in parts:
            _, inner = _section(cursor.within(cursor.data, at=parts[part]), header, part)
            read_part(part, inner, header)
    for buffer in buffers:
        _buffer(buffer, cursor, header)


def _section(cursor: Cursor, header: Header, expected: int) -> tuple[int, Cursor]:
    """The flags of a section and a cursor on its content, decompressed if that is needed."""
    at = cursor.at
    flags, size = _section_header(cursor, expected)
    if not flags & COMPRESSED:
        return flags, cursor
    if header.decompress is None:
        raise cursor.error("a compressed section in a file that names no compression", at)
    packed_size = cursor.number(4, "the compressed size of a section")
    whole_size = cursor.number(4, "the size of a section")
    packed = cursor.block(min(packed_size, size), "a compressed section")
    try:
        content = header.decompress(packed, whole_size)
    except ValueError as error:
        raise cursor.error(f"the compressed section is damaged: {error}", at) from error
    return flags, cursor.within(content, inside=at)


def _section_header(cursor: Cursor, expected: int) -> tuple[int, int]:
    """Flags, and bytes that follow."""
    at = cursor.at
    found = cursor.number(2, "a section's id")
    flags = cursor.number(2, "a section's flags")
    cursor.number(4, "a section's description")
    size = cursor.number(8, "a section's size")
    if found != expected:
        raise cursor.error(f"section {expected} should be here, {found} is", at)
    return flags, size


def _options(cursor: Cursor, header: Header, parts: dict[int, int], buffers: list[Cursor]) -> int:
    """Reads one section of options. The offset of the next one, 0 after the last."""
    _, inner = _section(cursor, header, DONE)
    while True:
        option = inner.number(2, "an option")
        place = inner.inside if inner.inside is not None else inner.at
        content = inner.block(inner.number(4, "an option's size"), "an option")
        value = inner.within(content, inside=place)
        if option == DONE:
            return value.number(8, "the offset of the next options") if value.left >= 8 else 0
        if option in PARTS:
            parts[option] = value.number(8, "the offset of a section")
        elif option in {BUFFER, BUFFER_TEXT}:
            _buffer_or_text(option, value, header, buffers)
        else:
            read_option(option, value, header)


def _buffer_or_text(option: int, value: Cursor, header: Header, buffers: list[Cursor]) -> None:
    if option == BUFFER:
        buffers.append(value)
        return
    value.number(8, "the offset of text")
    header.texts.append(value.string("the name of an instance"))


def _buffer(value: Cursor, cursor: Cursor, header: Header) -> None:
    """The option BUFFER: where the CPUs' data of one instance lies."""
    at = value.number(8, "the offset of an instance")
    flags, _ = _section_header(cursor.within(cursor.data, at=at), BUFFER)
    name = value.string("the name of an instance")
    clock = value.string("the clock of an instance")
    if header.clock is None or not name:
        header.clock = clock or header.clock
    elif clock and clock != header.clock:
        header.notes.append(
            f"instance {name} was recorded with the clock {clock}, not {header.clock}: "
            "the order of its events among the others is not known"
        )
    page_bytes = value.number(4, "the page size of an instance")
    if not name:
        page_bytes = max(page_bytes, header.layout.bytes)
    check_page_bytes(value, page_bytes)
    cpus: list[CpuData] = []
    for _ in range(value.number(4, "the number of CPUs")):
        cpus.append(cpu_data(value, value.number(4, "a CPU's number")))
    compressed = bool(flags & COMPRESSED)
    if compressed and header.decompress is None:
        raise value.error("compressed data in a file that names no compression")
    header.instances.append(Instance(name, page_bytes, tuple(cpus), compressed))
