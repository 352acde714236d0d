"""Stack traces in text: `=> function` of the kernel and trace-cmd, call chains of perf."""

from __future__ import annotations

import re

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mmuwitness.trace.text.loops import Bytes, Halves, intern

PERF_FRAME = re.compile(r"\s*([0-9a-f]+) (\S+)")
FRAME = re.compile(r"\s*=>\s*(\S+)")
SYMBOL = re.compile(r"([A-Za-z_]\w*)(?:\.[\w.]+)?(?:\+0x[0-9a-f]+(?:/0x[0-9a-f]+)?)?")
KERNEL_HALF = 1 << 63  # where the addresses of kernels begin
STACK = pl.List(pl.String)


def frame_name(line: str) -> str | None:
    """The function of one frame, as the kernel's source has it; None for frames of user space."""
    if match := FRAME.match(line):
        name = match[1]
    elif match := PERF_FRAME.match(line):
        if int(match[1][-16:], 16) < KERNEL_HALF:
            return None
        name = match[2] if match[2] != "[unknown]" else f"0x{match[1]}"
    else:
        return None
    symbol = SYMBOL.fullmatch(name)
    return symbol[1] if symbol else name


def stack_column(
    block: Bytes, starts: Halves, ends: Halves, owners: NDArray[np.intp], count: int
) -> pl.Series:
    """The column `stack` of `count` events: the frames from `starts` to `ends` belong to `owners`,
    each an index of an event."""
    codes, found = intern(block, starts, ends)
    stacks: list[list[str] | None] = []
    for text in found:
        names = [frame_name(line) for line in text.decode(errors="replace").splitlines()]
        stacks.append([name for name in names if name] or None)
    indices: NDArray[np.uint32] = np.full(count, len(stacks), np.uint32)
    indices[owners] = codes
    return pl.Series("stack", [*stacks, None], STACK).gather(indices)


def no_stacks(count: int) -> pl.Series:
    """The column `stack` where there are none."""
    return pl.Series("stack", [None], STACK).new_from_index(0, count)
