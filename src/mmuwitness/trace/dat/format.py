"""tracefs `events/*/*/format` files: where each field of an event lies in its record.

name: kvm_unmap_hva_range
ID: 1553
format:
    field:unsigned short common_type;       offset:0;       size:2; signed:0;
    field:unsigned long start;      offset:8;       size:8; signed:0;

print fmt: "mmu notifier unmap range: %#016lx -- %#016lx", REC->start, REC->end
"""

from __future__ import annotations

import re
from dataclasses import dataclass

RECORD_BYTES_MAX = 1 << 16
"""No event is larger: a field that would end beyond it is damaged."""

_FIELD = re.compile(
    r"^\s*field:(?P<declaration>[^;\n]+);\s*offset:(?P<offset>\d{1,9});\s*size:(?P<size>\d{1,9});"
    r"(?:\s*signed:(?P<signed>\d);)?",
    re.M,
)
_LOCATED = re.compile(r"__(data|rel)_loc\s+(.*?)\s*(?:\[\w*\])?$")
_NAMED = re.compile(r"(.*?)\s*(\w+)\s*(?:\[\s*(\w*)\s*\])?$")
_HEAD = re.compile(r"\s*name:\s*(\S+)\s*\nID:\s*(\d{1,9})\s*\n")
_ITEM_BYTES = {
    **dict.fromkeys(("char", "bool", "u8", "s8", "__u8", "__s8", "x8"), 1),
    **dict.fromkeys(("short", "u16", "s16", "__u16", "__s16", "x16"), 2),
    **dict.fromkeys(("int", "unsigned", "u32", "s32", "__u32", "__s32", "x32"), 4),
    **dict.fromkeys(("long long", "u64", "s64", "__u64", "__s64", "x64"), 8),
}
_NUMBER_BYTES = (1, 2, 4, 8)


@dataclass(frozen=True)
class Field:
    """One field. Of a number, `item` is its size; of an array, that of each element; an array of
    `size` 0 ends with the record. Where `located`, the record holds in 32 bits where the array is:
    its offset in the low half, its length in bytes in the high half.
    """

    name: str
    offset: int
    size: int
    signed: bool
    item: int
    array: bool = False
    text: bool = False  # an array of characters, up to a NUL
    located: bool = False
    relative: bool = False  # located, and its offset counts from behind these 32 bits


@dataclass(frozen=True)
class Format:
    """A kind of event, and how it is printed."""

    system: str
    name: str
    id: int
    fields: tuple[Field, ...]
    print_format: str

    @property
    def end(self) -> int:
        """The first byte behind all that a record has in place."""
        return max((each.offset + each.size for each in self.fields), default=0)

    def field_named(self, name: str) -> Field | None:
        return next((each for each in self.fields if each.name == name), None)


@dataclass(frozen=True)
class FormatFile:
    """Such a file, and of what it says only which event it is about: most events never occur."""

    system: str
    name: str
    id: int
    text: str

    @classmethod
    def of(cls, system: str, text: str) -> FormatFile | None:
        """None if it is about none."""
        head = _HEAD.match(text)
        return None if head is None else cls(system, head[1], int(head[2]), text)

    def parse(self, long_size: int) -> Format | None:
        """None if a field is damaged. A long of the kernel has `long_size` bytes."""
        body, _, printed = self.text.partition("\nprint fmt:")
        fields = parse_fields(body, long_size)
        if fields is None:
            return None
        return Format(self.system, self.name, self.id, fields, printed.strip())


def parse_fields(text: str, long_size: int) -> tuple[Field, ...] | None:
    """The fields of a format file, or of events/header_page; None if one of them is damaged."""
    fields = []
    for match in _FIELD.finditer(text):
        if (field := _field(match, long_size)) is None:
            return None
        fields.append(field)
    return tuple(fields) if len(fields) == text.count("field:") else None


def _field(match: re.Match[str], long_size: int) -> Field | None:
    offset, size = int(match["offset"]), int(match["size"])
    signed = match["signed"] not in {None, "0"}
    named = _NAMED.match(match["declaration"].strip())
    if named is None or offset + size > RECORD_BYTES_MAX:
        return None
    kind, name, count = named[1], named[2], named[3]
    if located := _LOCATED.match(kind):
        if size != 4:
            return None
        item = _item_bytes(located[2], long_size)
        text = located[2] == "char"
        relative = located[1] == "rel"
        return Field(name, offset, size, signed, item, True, text, True, relative)
    if count is None and size in _NUMBER_BYTES:
        return Field(name, offset, size, signed, size)
    item = size // int(count) if (count or "").isdigit() and int(count or 0) else 0
    item = item if item in _NUMBER_BYTES else _item_bytes(kind, long_size)
    return Field(name, offset, size, signed, item, True, kind.split()[-1:] == ["char"])


def _item_bytes(kind: str, long_size: int) -> int:
    """Of an element of an array, by its C type; what is not known is shown byte by byte."""
    kind = kind.removeprefix("unsigned ").removeprefix("signed ").removeprefix("const ")
    if kind.endswith("*") or kind == "long":
        return long_size
    return _ITEM_BYTES.get(kind, 1)
