"""ftrace text: the lines of tracefs `trace`, `trace_pipe` and `trace-cmd report`, as events.

    for event in Trace("6.1-tdp-ksm-merge.txt.xz"):
        print(event.pid, event.name, event.fields)

Plain text or xz, recognised by content. Columns move between kernels and options (flags, TGID,
width of the task name), so everything is found by pattern. A line that is no event, no header and
no known remark is an error: a count over half a trace would look like a count.

Not read here: `perf script` text, trace.dat, and the stack dumps below a `<stack trace>` entry.
"""

import lzma
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple, TextIO

XZ_MAGIC = b"\xfd7zXZ\x00"
LINE_CHARS_MAX = 65_536
HEADER_LINES_MAX = 100
# A kprobe on a function's entry may stand behind the landing pad (x86 ENDBR64, arm64 BTI): +0x4.
ENTRY_OFFSET_MAX = 4

EVENT_LINE = re.compile(
    r"\s*(?P<task>\S.*?)-(?P<pid>\d+)\s+"
    r"(?:\(\s*[\d-]+\)\s+)?"  # TGID, with the record-tgid option
    r"\[(?P<cpu>\d+)\]\s+"
    r"(?:\S+\s+)?"  # irqs-off, need-resched, preempt-depth ...
    r"(?P<time>\d+(?:\.\d+)?):\s+"
    r"(?P<name><stack trace>|[^\s:(<]+(?=:\s|:$|\(|\s+->))"
    r":?\s*(?P<args>.*)"
)
# What may stand between events: comments, stack dumps, a serial recorder's brackets.
REMARK_LINE = re.compile(r"\s*$|#|\s*=> |TRACE(BEGIN|END)$")
ENTRIES_LINE = re.compile(r"#\s*entries-in-buffer/entries-written:\s*(\d+)/(\d+)")
# "CPU:1 [LOST 17 EVENTS]" from the kernel, "CPU:1 [17 EVENTS DROPPED]" from trace-cmd; the number
# is left out where the kernel does not know it.
LOST_LINE = re.compile(r"\s*CPU:\s*\d+ \[(?:LOST )?(?:(?P<lost>\d+) )?EVENTS(?: DROPPED)?\]")

FIELD = re.compile(r"(?<!\S)(\w+)=(\S*?),?(?=\s|$)")
NUMBER = re.compile(r"-?(0x[0-9a-fA-F]+|[0-9]+)$")
SYMBOL = r"(?P<function>\w+)(?:\.[\w.]+)?"  # without .constprop.0, .isra.0
ENTRY = re.compile(rf"\({SYMBOL}\+(?P<offset>0x[0-9a-f]+)/0x[0-9a-f]+(?: \[\w+\])?\)")
RETURN = re.compile(rf"\([^()]* <- {SYMBOL}(?: \[\w+\])?\)")


class TraceError(ValueError):
    """A trace that cannot be trusted: which file, which line, and why."""

    def __init__(self, path: Path, line: int, why: str) -> None:
        super().__init__(f"{path}:{line}: {why}")
        self.path, self.line, self.why = path, line, why


class Probe(NamedTuple):
    """Where a kprobe or kretprobe fired. Its event may have any name; the function has one."""

    function: str
    offset: int
    returns: bool

    @property
    def enters(self) -> bool:
        return not self.returns and self.offset <= ENTRY_OFFSET_MAX


@dataclass(frozen=True)
class Event:
    """One entry of the ring buffer; `args` is the text behind the event's name, as printed."""

    task: str
    pid: int
    cpu: int
    time_s: float
    name: str
    args: str

    @cached_property
    def fields(self) -> dict[str, int | str]:
        """The key=value pairs of `args`: decimal and 0x numbers as int, all else as text."""
        return {
            key: int(value, 16 if "0x" in value else 10) if NUMBER.match(value) else value
            for key, value in FIELD.findall(self.args)
        }

    @cached_property
    def probe(self) -> Probe | None:
        """The probed function, if `args` begins as a kprobe or kretprobe prints it."""
        if entry := ENTRY.match(self.args):
            return Probe(entry["function"], int(entry["offset"], 16), returns=False)
        if returned := RETURN.match(self.args):
            return Probe(returned["function"], 0, returns=True)
        return None

    def number(self, *keys: str) -> int | None:
        """The first of these fields that is there and is a number."""
        values = (self.fields.get(key) for key in keys)
        return next((value for value in values if isinstance(value, int)), None)


class Trace:
    """The events of one file, in order; iterate as often as wanted."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.lost = 0
        """Events the ring buffer lost, as far as read; a loss of unknown size counts as one."""

    def __iter__(self) -> Iterator[Event]:
        number = 0
        try:
            with self._open() as stream:
                lines = enumerate(iter(partial(stream.readline, LINE_CHARS_MAX), ""), 1)
                self.lost = promised = entries = 0
                for number, line in lines:
                    if match := EVENT_LINE.match(line):
                        self._check_whole(number, line)
                        entries += 1
                        if (name := match["name"]) != "<stack trace>":
                            task, pid, cpu, time = match.group("task", "pid", "cpu", "time")
                            args = match["args"]
                            yield Event(task, int(pid), int(cpu), float(time), name, args)
                    elif match := LOST_LINE.match(line):
                        self.lost += int(match["lost"] or 1)
                    elif match := ENTRIES_LINE.match(line):
                        promised = int(match[1])
                        self.lost += int(match[2]) - promised
                    elif not REMARK_LINE.match(line) and (entries or number > HEADER_LINES_MAX):
                        self._check_whole(number, line)
                        why = "not an ftrace event" if entries else "no ftrace event up to here"
                        raise TraceError(self.path, number, f"{why}: {line[:60]!r}")
        except (EOFError, lzma.LZMAError) as error:
            raise TraceError(self.path, number, f"damaged or cut short: {error}") from error
        if not entries:
            raise TraceError(self.path, number, "no ftrace event in the whole file")
        if entries < promised:
            why = f"{entries} entries, but its header promises {promised}: cut short or filtered"
            raise TraceError(self.path, number, f"{why} (if you filtered it, drop that header)")

    def _open(self) -> TextIO:
        with self.path.open("rb") as file:
            packed = file.read(len(XZ_MAGIC)) == XZ_MAGIC
        # A task's name is any bytes.
        if packed:
            return lzma.open(self.path, "rt", encoding="utf-8", errors="surrogateescape")
        return self.path.open(encoding="utf-8", errors="surrogateescape")

    def _check_whole(self, number: int, line: str) -> None:
        if not line.endswith("\n"):
            raise TraceError(self.path, number, f"the line is cut off: {line[-60:]!r}")
