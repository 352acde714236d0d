"""Columns of a table out of records in memory: numbers, texts, arrays, by compiled loops."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mmuwitness.trace.dat.format import Field
from mmuwitness.trace.dat.streams import Words, address, loops

TABLE_MAX = 1 << 22  # numbers below it are looked up; Linux has no more pids


class Records:
    """Some records of one format: where each begins in memory, and its bytes."""

    def __init__(self, starts: Words, sizes: Words, big_endian: bool | int) -> None:
        self.starts, self.sizes = starts, sizes
        self.swapped = int(big_endian)  # this processor is little-endian: see search_words

    def __len__(self) -> int:
        return len(self.starts)

    def only(self, chosen: NDArray[np.intp]) -> Records:
        return Records(self.starts[chosen], self.sizes[chosen], self.swapped)

    def words(self, offset: int, size: int, signed: bool) -> Words:
        """The integers at `offset` of each record."""
        return read_numbers(self.starts, offset, size, signed, self.swapped)

    def column(self, field: Field) -> pl.Series:
        """The values of a field. Records hold all fields that are in place."""
        if not field.array:
            words = self.words(field.offset, field.size, field.signed)
            return pl.Series(field.name, words if field.signed else words.view(np.uint64))
        starts, sizes = self.extents(field)
        if field.text:
            return text_series(field.name, starts, sizes)
        return self._array(field, starts, sizes)

    def extents(self, field: Field) -> tuple[Words, Words]:
        """Address and bytes of an array in each record, never beyond the record's end."""
        if field.located:
            where = self.words(field.offset, 4, signed=False)
            offsets = (where & 0xFFFF) + (field.offset + 4 if field.relative else 0)
            sizes = where >> 16
        else:
            offsets = np.full(len(self), field.offset, np.int64)
            sizes = np.full(len(self), field.size, np.int64) if field.size else self.sizes - offsets
        offsets = np.minimum(offsets, self.sizes)
        return self.starts + offsets, np.clip(sizes, 0, self.sizes - offsets)

    def _array(self, field: Field, starts: Words, sizes: Words) -> pl.Series:
        """As a kprobe prints an array of arguments: {0x1,0x2}."""
        counts = sizes // field.item
        flat = flat_numbers(starts, counts, field.item, field.signed, self.swapped).tolist()
        mask = (1 << 8 * field.item) - 1
        texts, begin = [], 0
        for end in np.cumsum(counts).tolist():
            texts.append("{" + ",".join(f"{each & mask:#x}" for each in flat[begin:end]) + "}")
            begin = end
        return pl.Series(field.name, texts, pl.String)


def read_numbers(starts: Words, offset: int, size: int, signed: bool, swapped: int) -> Words:
    """The integers at `offset` behind each address."""
    out = np.empty(len(starts), np.int64)
    loops()["numbers"](
        address(starts), len(starts), offset, size, int(signed), swapped, address(out)
    )
    return out


def flat_numbers(starts: Words, counts: Words, item: int, signed: bool, swapped: int) -> Words:
    """All elements of arrays, one behind the other."""
    before = np.cumsum(counts) - counts
    within = np.arange(int(counts.sum()), dtype=np.int64) - np.repeat(before, counts)
    places = np.repeat(starts, counts) + within * item
    return read_numbers(places, 0, item, signed, swapped)


def text_series(name: str, starts: Words, limits: Words) -> pl.Series:
    """The texts at addresses, up to a NUL or their limit. Bytes that are no UTF-8 are replaced."""
    count = len(starts)
    sizes = np.empty(count, np.int64)
    loops()["text_sizes"](address(starts), address(limits), count, address(sizes))
    different, codes = coded(interned(starts, sizes))
    starts, sizes = starts[different], sizes[different]
    out = np.empty(int(sizes.sum()), np.uint8)
    loops()["copy_texts"](address(starts), address(sizes), len(sizes), address(out))
    content, begin, texts = out.tobytes(), 0, []
    for end in np.cumsum(sizes).tolist():
        texts.append(content[begin:end].decode("utf-8", "replace"))
        begin = end
    return pl.Series(name, texts, pl.String)[codes]


def interned(starts: Words, sizes: Words) -> Words:
    """For each piece of memory the first one with the same bytes."""
    count = len(starts)
    slots = np.full(1 << (2 * count).bit_length(), -1, np.int64)
    first = np.empty(count, np.int64)
    pieces = address(starts), address(sizes), count
    loops()["intern"](*pieces, address(slots), len(slots), address(first))
    return first


def coded(words: Words) -> tuple[Words, NDArray[np.uint32]]:
    """The different numbers, ascending, and for each number which of them it is."""
    largest = int(words.max())
    if words.min() >= 0 and largest < TABLE_MAX:
        table = np.zeros(largest + 1, np.uint32)
        table[words] = 1
        different = np.flatnonzero(table)
        table[different] = np.arange(len(different))
        return different, table[words]
    different = np.unique(words)
    return different, np.searchsorted(different, words).astype(np.uint32)


def named_series(name: str, words: Words, text: Callable[[int], str | int | None]) -> pl.Series:
    """What each number stands for, made once for each that occurs (as unsigned)."""
    if (words == words[0]).all():  # a kprobe is at one address
        return pl.Series(name, [text(int(words.view(np.uint64)[0]))]).new_from_index(0, len(words))
    different, codes = coded(words)
    return pl.Series(name, [text(each) for each in different.view(np.uint64).tolist()])[codes]
