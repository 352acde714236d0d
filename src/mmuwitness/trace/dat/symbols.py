"""/proc/kallsyms as a trace.dat holds it: addresses to symbols, as the kernel prints them."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from operator import itemgetter

_LINE = re.compile(r"([0-9a-f]{1,16}) [a-zA-Z] (\S+)(?:\s+\[([^\]]+)\])?")
# Functions that stand where a kretprobe has replaced the return address.
_TRAMPOLINES = ("__kretprobe_trampoline", "kretprobe_trampoline", "arch_rethook_trampoline")
KRETPROBED = "[unknown/kretprobe'd]"
_FTRACE_MARK = (1 << 31) - 1  # stands in a stack trace for a trampoline of ftrace's


@dataclass(frozen=True)
class Symbol:
    """What an address lies in: `offset` bytes into `name`, which has `size` bytes; of the kernel
    itself where `module` is empty."""

    name: str
    offset: int
    size: int
    module: str

    @property
    def function(self) -> str:
        """As in the source, without what the compiler appends (.isra.0, .constprop.0)."""
        return self.name.split(".", 1)[0] or self.name

    @property
    def printed(self) -> str:
        """As the kernel prints a return address."""
        if self.name in _TRAMPOLINES:
            return KRETPROBED
        module = f" [{self.module}]" if self.module else ""
        return f"{self.name}+{self.offset:#x}/{self.size:#x}{module}"


class Symbols:
    """The symbols by address; among several at one address the first that is listed."""

    def __init__(self, kallsyms: str) -> None:
        # Addresses have equally many hexadecimal digits: as text they sort as the numbers do.
        self._digits = len(kallsyms.split(" ", 1)[0])
        self._start = itemgetter(slice(self._digits))
        self._lines = sorted(kallsyms.strip().splitlines(), key=self._start)
        if self._lines and not self._start(self._lines[-1]).strip("0"):
            self._lines = []  # hidden from whoever recorded
        self._found: dict[int, Symbol | None] = {}

    def __len__(self) -> int:
        return len(self._lines)

    def at(self, address: int) -> Symbol | None:
        """The symbol that an address lies in; None before the first and behind the last."""
        if address not in self._found:
            self._found[address] = self._search(address)
        return self._found[address]

    def function(self, address: int) -> str:
        """The function alone; the address where there is none."""
        symbol = self.at(address)
        return f"{address:#x}" if symbol is None else symbol.function

    def frame(self, address: int) -> str:
        """As in a stack trace."""
        if address == _FTRACE_MARK:
            return "[FTRACE TRAMPOLINE]"
        symbol = self.at(address)
        replaced = symbol is not None and symbol.name in _TRAMPOLINES
        return KRETPROBED if replaced else self.function(address)

    def printed(self, address: int) -> str:
        """As the kernel prints a return address."""
        symbol = self.at(address)
        return f"{address:#x}" if symbol is None else symbol.printed

    def _search(self, address: int) -> Symbol | None:
        after = bisect_right(self._lines, f"{address:0{self._digits}x}", key=self._start)
        if not 0 < after < len(self._lines):
            return None
        start = self._start(self._lines[after - 1])
        match = _LINE.match(self._lines[bisect_left(self._lines, start, key=self._start)])
        following = _LINE.match(self._lines[after])
        if match is None or following is None:
            return None
        begin = int(match[1], 16)
        return Symbol(match[2], address - begin, int(following[1], 16) - begin, match[3] or "")
