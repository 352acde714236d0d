"""What lowering a program leaves: its LLVM IR, and what the numbers in it mean."""

from __future__ import annotations

from dataclasses import dataclass, field

from mmuwitness.process.errors import Location

Line = tuple[str, str, int]
"""A line of process code: file inside the package, function, line."""


@dataclass
class ErrorSite:
    """What went wrong when a lowered step stops with an error, and where."""

    message: str
    where: Location


@dataclass
class Lowered:
    """The IR of one program and the tables that give its numbers meaning.  lines: if the program
    is to say which lines it ran, their places in its table of bytes, `@lines`.
    counters: the functions that are counted, in the order of its table of words, `@counts`."""

    text: str
    marks: list[str]
    errors: list[ErrorSite] = field(default_factory=list)
    successors_max: int = 0
    lines: dict[Line, int] | None = None
    counters: list[str] = field(default_factory=list)

    def line_number(self, where: Location) -> int:
        """Of `@lines`, the byte of a line that a process runs."""
        assert self.lines is not None
        return self.lines.setdefault((where.file, where.function, where.line), len(self.lines))

    def counter_number(self, name: str) -> int:
        """Of `@counts`, the word of a function."""
        if name not in self.counters:
            self.counters.append(name)
        return self.counters.index(name)
