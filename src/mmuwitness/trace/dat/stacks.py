"""Kernel stack traces of a trace.dat, which follow the event that they were recorded with."""

from __future__ import annotations

import numpy as np
import polars as pl

from mmuwitness.trace.dat.columns import PID, SIZE, START, TYPE
from mmuwitness.trace.dat.format import Format
from mmuwitness.trace.dat.header import Header
from mmuwitness.trace.dat.streams import Words, address, loops
from mmuwitness.trace.dat.symbols import Symbols
from mmuwitness.trace.dat.values import Records, coded, flat_numbers, interned

_NO_ADDRESS = -1  # ends a stack trace that has room for more
_FRAMES = pl.List(pl.String)


def stack_types(header: Header) -> Words:
    """The types of events that are stack traces of the event before."""
    kinds = header.formats.values()
    stacks = [each.id for each in kinds if (each.system, each.name) == ("ftrace", "kernel_stack")]
    return np.array(stacks, np.int64)


class Stacks:
    """Finds them, whose they are, and what they say."""

    def __init__(self, header: Header, symbols: Symbols) -> None:
        self.types = stack_types(header)
        self._header, self._symbols = header, symbols

    def owners(self, columns: Words, streams: Words) -> Words:
        """The event that each stack trace belongs to; -1 of all else."""
        count = columns.shape[1]
        owners = np.full(count, -1, np.int64)
        stacks = np.isin(columns[TYPE], self.types).astype(np.int64)
        if stacks.any():
            last = np.full(int(streams.max()) + 1, -1, np.int64)
            pids = np.ascontiguousarray(columns[PID])
            arrays = [address(each) for each in (streams, pids, stacks)]
            loops()["own_stacks"](*arrays, count, address(last), address(owners))
        return owners

    def column(self, columns: Words, owners: Words) -> pl.Series:
        """The stack traces of the events that are none themselves, or belong to no event; null
        where none was recorded."""
        texts: list[list[str] | None] = [None]
        codes = np.zeros(len(owners), np.uint32)
        for number in self.types.tolist():
            here = np.flatnonzero(columns[TYPE] == number)
            kind = self._header.format(number)
            if kind is None or not len(here):
                continue
            starts, sizes = self._addresses(kind, columns, here)
            first = interned(starts, sizes)
            different, own = coded(first)
            codes[np.where(owners[here] < 0, here, owners[here])] = own + len(texts)
            for at in different.tolist():
                texts.append(self._frames(starts[at : at + 1], int(sizes[at])))
        codes = codes[owners < 0]
        stacks = pl.Series("stack", texts, _FRAMES)
        return stacks[codes] if len(texts) > 1 else stacks.new_from_index(0, len(codes))

    def _addresses(self, kind: Format, columns: Words, here: Words) -> tuple[Words, Words]:
        """Where the addresses of each stack trace begin in memory, and how many bytes they are."""
        records = Records(columns[START, here], columns[SIZE, here], self._header.big_endian)
        caller, size = kind.field_named("caller"), kind.field_named("size")
        if caller is None:
            return records.starts, np.zeros(len(records), np.int64)
        start = np.minimum(caller.offset, records.sizes)
        counts = (records.sizes - start) // self._header.long_size
        if size is not None and size.offset + size.size <= int(records.sizes.min()):
            counts = np.clip(records.words(size.offset, size.size, signed=True), 0, counts)
        return records.starts + start, counts * self._header.long_size

    def _frames(self, start: Words, size: int) -> list[str]:
        long_size = self._header.long_size
        counts = np.array([size // long_size])
        # As signed numbers: of 32 bits, too, all ones are _NO_ADDRESS.
        words = flat_numbers(start, counts, long_size, True, int(self._header.big_endian))
        frames = []
        for where in words.tolist():
            if where == _NO_ADDRESS:
                break
            frames.append(self._symbols.frame(where & (1 << 8 * long_size) - 1))
        return frames
