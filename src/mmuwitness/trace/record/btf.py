"""The types of a kernel from its BTF: where a member lies in a struct, what a function takes.

    btf = read_btf(Path("/sys/kernel/btf/vmlinux"))
    btf.member(btf.struct("mmu_notifier_range"), "start").offset  # 8 in v6.12, 16 in v6.1

A module's BTF is split: its types are numbered on from those of vmlinux, which is its `base`.
Format: Documentation/bpf/btf.rst of the kernel. Offsets are bytes unless they are said to be bits.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAGIC = 0xEB9F
HEADER = "HBBIIIII"  # magic, version, flags, length, types at, their length, strings at, length
TYPE = "III"  # name, vlen and kind and kind_flag, size or type
INT, PTR, ARRAY, STRUCT, UNION, ENUM = 1, 2, 3, 4, 5, 6
TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC, FUNC_PROTO = 8, 9, 10, 11, 12, 13
TYPE_TAG, ENUM64 = 18, 19
SEEN_THROUGH = {TYPEDEF, VOLATILE, CONST, RESTRICT, TYPE_TAG}
NAMED = {STRUCT, UNION, TYPEDEF, FUNC}
# Bytes after the three words of a type: once, and for each of its vlen elements.
TAIL = {INT: 4, ARRAY: 12, 14: 4, 17: 4}
ELEMENT = {STRUCT: 12, UNION: 12, ENUM: 8, FUNC_PROTO: 8, 15: 12, ENUM64: 12}
KIND_MAX = 19
ENCODING_SIGNED = 1


class BtfError(ValueError):
    """A file that is no BTF, or damaged: which, at which offset, and why."""


@dataclass(frozen=True)
class Member:
    name: str
    type: int
    offset: int  # in bytes; of a bit field, of the byte that it begins in
    is_bits: bool  # a bit field has no address


@dataclass(frozen=True)
class Prototype:
    parameters: tuple[tuple[str, int], ...]  # name and type
    returns: int  # type; 0 is void


@dataclass(frozen=True)
class Scalar:
    """What fits into a register: an integer, a pointer, an enum, or a struct as small as those."""

    size: int  # in bytes
    is_signed: bool


class Btf:
    """Types by number, from 1; 0 is void. `base` is what this BTF is split from."""

    def __init__(self, data: bytes, where: str, base: Btf | None = None) -> None:
        self.data, self.where, self.base = data, where, base
        self.first: int = base.end if base else 1
        self.strings_first: int = base.strings_end if base else 0
        self.offsets: list[int] = []
        self.by_name: dict[tuple[int, str], list[int]] = {}
        self._read_header()
        self._read_types()
        self.end: int = self.first + len(self.offsets)
        self.strings_end: int = self.strings_first + self.strings_length

    def _read_header(self) -> None:
        if len(self.data) < 24:
            raise BtfError(f"{self.where}: {len(self.data)} bytes are too few for BTF")
        self.order = "<" if struct.unpack_from("<H", self.data)[0] == MAGIC else ">"
        magic, version, _, header, types, length, strings, strings_length = struct.unpack_from(
            self.order + HEADER, self.data
        )
        if magic != MAGIC or version != 1:
            raise BtfError(
                f"{self.where}: begins with {self.data[:3].hex()}, not with the magic of BTF 1"
            )
        self.types_at, self.types_end = header + types, header + types + length
        self.strings_at, self.strings_length = header + strings, strings_length
        if max(self.types_end, self.strings_at + strings_length) > len(self.data):
            raise BtfError(f"{self.where}: cut off at {len(self.data)} bytes")

    def _read_types(self) -> None:
        unpack, data, at = struct.Struct(self.order + TYPE).unpack_from, self.data, self.types_at
        while at < self.types_end:
            if at + 12 > self.types_end:
                raise BtfError(f"{self.where}: offset {at}: a type is cut off")
            name, info, _ = unpack(data, at)
            kind, vlen = info >> 24 & 0x1F, info & 0xFFFF
            if not 0 < kind <= KIND_MAX:
                raise BtfError(f"{self.where}: offset {at}: kind {kind} is not known")
            if name and kind in NAMED:
                number = self.first + len(self.offsets)
                self.by_name.setdefault((kind, self._string(name)), []).append(number)
            self.offsets.append(at)
            at += 12 + TAIL.get(kind, 0) + ELEMENT.get(kind, 0) * vlen
        if at != self.types_end:
            raise BtfError(f"{self.where}: offset {self.types_end}: the last type is cut off")

    def _string(self, offset: int) -> str:
        if self.base and offset < self.strings_first:
            return self.base._string(offset)
        begin = self.strings_at + offset - self.strings_first
        end = self.data.find(b"\0", begin)
        if not self.strings_at <= begin <= end < self.strings_at + self.strings_length:
            raise BtfError(f"{self.where}: {offset} is outside of the strings")
        return self.data[begin:end].decode("utf-8", "replace")

    def _type(self, number: int) -> tuple[Btf, int, int, int, int, int]:
        """Who holds it and where its elements begin; name, kind, vlen with kind_flag, third."""
        if self.base and number < self.first:
            return self.base._type(number)
        if not self.first <= number < self.end:
            raise BtfError(f"{self.where}: there is no type {number}")
        at = self.offsets[number - self.first]
        name, info, third = struct.unpack_from(self.order + TYPE, self.data, at)
        return self, at + 12, name, info >> 24 & 0x1F, info & 0x8000FFFF, third

    def kind(self, number: int) -> int:
        return self._type(number)[3] if number else 0

    def bare(self, number: int) -> int:
        """The type behind typedefs, const, volatile and the like."""
        while self.kind(number) in SEEN_THROUGH:
            number = self._type(number)[5]
        return number

    def target(self, number: int) -> int:
        """What a pointer points to, bare; 0 if it is no pointer, or points to void."""
        bare = self.bare(number)
        return self.bare(self._type(bare)[5]) if self.kind(bare) == PTR else 0

    def numbers(self, kind: int, name: str) -> list[int]:
        inherited = self.base.numbers(kind, name) if self.base else []
        return inherited + self.by_name.get((kind, name), [])

    def names(self, kind: int) -> Iterator[str]:
        if self.base:
            yield from self.base.names(kind)
        yield from (name for of, name in self.by_name if of == kind)

    def struct(self, name: str) -> int:
        """The struct of that name; 0 if there is none. A module's own goes before the base's."""
        return (self.numbers(STRUCT, name) or [0])[-1]

    def members(self, number: int) -> Iterator[Member]:
        holder, at, _, kind, vlen, _ = self._type(number)
        if kind not in (STRUCT, UNION):
            return
        has_sizes = bool(vlen & 0x80000000)
        for index in range(vlen & 0xFFFF):
            name, of, bits = struct.unpack_from(holder.order + TYPE, holder.data, at + 12 * index)
            size_bits, bits = (bits >> 24, bits & 0xFFFFFF) if has_sizes else (0, bits)
            # An old compiler says a bit field by an offset that is inside of a byte.
            is_bits = bool(size_bits or bits % 8)
            yield Member(holder._string(name) if name else "", of, bits // 8, is_bits)

    def member(self, number: int, name: str) -> Member | None:
        """The member, also one of an anonymous struct or union inside; None if there is none."""
        for each in self.members(number):
            if each.name == name:
                return each
            inner = None if each.name else self.member(self.bare(each.type), name)
            if inner:
                return Member(name, inner.type, each.offset + inner.offset, inner.is_bits)
        return None

    def prototype(self, function: str) -> Prototype | None:
        """What it takes and returns; None if it is unknown, or two functions of that name differ.

        pahole leaves a function out whose arguments the compiler moved to other registers.
        """
        found = {self._prototype(self._type(of)[5]) for of in self.numbers(FUNC, function)}
        return found.pop() if len(found) == 1 else None

    def _prototype(self, number: int) -> Prototype:
        holder, at, _, _, vlen, returns = self._type(number)
        words = struct.iter_unpack(holder.order + "II", holder.data[at : at + 8 * (vlen & 0xFFFF)])
        return Prototype(tuple((holder._string(name), of) for name, of in words), returns)

    def scalar(self, number: int) -> Scalar | None:
        """How a value of this type lies in a register; None if it does not fit, or is void."""
        bare = self.bare(number)
        holder, at, _, kind, vlen, third = self._type(bare) if bare else (self, 0, 0, 0, 0, 0)
        if kind == PTR:
            return Scalar(8, False)
        if kind == INT:
            encoding = struct.unpack_from(holder.order + "I", holder.data, at)[0] >> 24
            return Scalar(third, bool(encoding & ENCODING_SIGNED))
        if kind in (ENUM, ENUM64):
            return Scalar(third, bool(vlen & 0x80000000))
        if kind in (STRUCT, UNION) and third in (1, 2, 4, 8):
            return Scalar(third, False)
        return None


def read_btf(path: Path, base: Btf | None = None) -> Btf:
    """Raises BtfError if it is no BTF, OSError if it cannot be read."""
    return Btf(path.read_bytes(), str(path), base)
