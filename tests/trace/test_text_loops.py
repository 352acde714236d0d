"""The compiled loops: their arrays, and the numbers that they and their callers agree on."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

from mmuwitness.trace.text import match as text_match
from mmuwitness.trace.text.columns import PADDING
from mmuwitness.trace.text.loops import ENTRIES, Scanner, intern, own_stacks

LINE = b"vmm-1 [000] ..... 1.0: e: x\n"


def block(text: bytes) -> np.ndarray:
    return np.frombuffer(text + bytes(PADDING), np.uint8)


def test_entries_take_as_many_arguments_as_they_are_given() -> None:
    for name, count in ENTRIES.items():
        assert len(inspect.signature(getattr(text_match, name).py_func).parameters) == count


def test_scan_stops_when_its_arrays_are_full() -> None:
    text = LINE * 5 + b"?\n" * 5
    found = Scanner(2, 2).scan(block(text), len(text))
    assert (found.columns.shape[1], found.consumed, found.lines) == (2, 2 * len(LINE), 2)
    found = Scanner(20, 2).scan(block(text), len(text))
    assert found.columns.shape[1] == 5
    assert (found.others.shape[1], found.consumed) == (2, 5 * len(LINE) + 4)


def test_scan_takes_whole_lines_only() -> None:
    for size in range(len(LINE)):
        found = Scanner(2, 2).scan(block(LINE[:size]), size)
        assert (found.lines, found.consumed) == (0, 0)
    with pytest.raises(ValueError, match="without padding"):
        Scanner(2, 2).scan(np.zeros(10, np.uint8), 10)


def test_intern_tells_all_strings_apart() -> None:
    words = [b"%x" % (n % 5000 * 7919) for n in range(20_000)] + [b"", b"a" * 7, b"a" * 8, b"a" * 9]
    ends = np.cumsum([len(word) for word in words]).astype(np.int32)
    starts = np.concatenate([[0], ends[:-1]]).astype(np.int32)
    codes, found = intern(block(b"".join(words)), starts, ends)
    assert [found[code] for code in codes] == words
    assert len(found) == len(set(words)) == 5004


def test_stacks_belong_to_the_event_before_on_their_cpu() -> None:
    def owners(*entries: tuple[int, int, int]) -> list[int]:
        stack, cpu, pid = np.array(entries, np.int32).T
        return own_stacks(stack.astype(np.bool_), cpu, pid).tolist()

    assert owners((0, 0, 7), (0, 1, 8), (1, 0, 7), (1, 1, 8)) == [0, 1, 0, 1]
    assert owners((1, 0, 7), (0, 0, 7), (1, 0, 9), (1, 0, 7)) == [0, 1, 2, 1]
    assert owners((0, 8192 + 3, 7), (1, 3, 8)) == [0, 1]
