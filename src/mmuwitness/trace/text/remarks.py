"""What stands between the events in trace text: headers, marks of lost events, and what is foreign.

A line of which nothing is known may have been an event before it was damaged, so it is counted and
the trace is no longer complete.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from mmuwitness.trace.events import Loss

ENTRIES = re.compile(r"#\s*entries-in-buffer/entries-written:\s*(\d+)/(\d+)")
LATENCY_ENTRIES = re.compile(r"#\s*latency: .*#(\d+)/(\d+)")
RELEASE = re.compile(r"#\s*\S+ latency trace v\S+ on (\S+)|#\s*os release : (\S+)")
TRACER = re.compile(r"#\s*tracer: (\S+)")
# "CPU:1 [LOST 17 EVENTS]" from the kernel, "CPU:1 [17 EVENTS DROPPED]" from trace-cmd; the number
# is left out where it is not known. perf says "PERF_RECORD_LOST lost 17".
LOST = re.compile(
    r"\s*CPU:\s*(?P<cpu>\d+)\s+\[(?:LOST )?(?:(?P<count>\d+) )?EVENTS(?: DROPPED)?\]"
    r"|.*PERF_RECORD_LOST(?:_SAMPLES)?\s+lost (?P<perf>\d+)"
)
CPUS = re.compile(r"cpus=\d+$")
# trace-cmd about versions and empty buffers, a serial recorder's brackets.
REMARK = re.compile(r"(version = \d+|CPU \d+ is empty|.*TRACE(BEGIN|END))$")
# The lines of a header, and "##### CPU 1 buffer started ####".
HEADER = re.compile(r"#+ CPU |#$|# tracer: |#\s+(entries-in-|latency|cmd |TASK|[|_/\\-]+)")
# perf's, if it was told to leave out the CPU.
NO_CPU = re.compile(r"\s*\S.*?\s+\d+(/\d+)?\s+\d+\.\d+:\s")
SHOWN_CHARS = 60
QUOTED = 3  # foreign lines


@dataclass
class Remarks:
    """What was said so far, for one pass over a trace."""

    losses: list[Loss] = field(default_factory=list)
    release: str | None = None
    tracer: str | None = None
    trace_cmd: bool = False
    perf: bool = False
    foreign: int = 0
    first_foreign: list[tuple[int, str]] = field(default_factory=list)
    continued: int = 0  # lines that belong to the text of the event before them
    shortfalls: list[str] = field(default_factory=list)
    _promised: int | None = None
    _entries_before: int = 0

    def note(self, line: int, text: str, entries: int, row: int) -> None:
        """A line that is no event: its number, and how many entries of the ring buffer and how
        many rows were before it."""
        if match := LOST.match(text):
            count = match["count"] or match["perf"]
            cpu = int(match["cpu"]) if match["cpu"] else None
            self.losses.append(Loss(row, cpu, int(count) if count else None))
        elif text.startswith("#"):
            self._note_header(text, entries, row)
        elif CPUS.match(text):
            self.trace_cmd = True
        elif not REMARK.match(text):
            self.foreign += 1
            if len(self.first_foreign) < QUOTED:
                self.first_foreign.append((line, text[:SHOWN_CHARS]))

    def _note_header(self, text: str, entries: int, row: int) -> None:
        if match := ENTRIES.match(text) or LATENCY_ENTRIES.match(text):
            self.check_promise(entries)
            self._promised, self._entries_before = int(match[1]), entries
            if (overwritten := int(match[2]) - int(match[1])) > 0:
                self.losses.append(Loss(row, None, overwritten))
        elif match := RELEASE.match(text):
            self.release = match[1] or match[2]
            self.perf = self.perf or match[2] is not None
        elif match := TRACER.match(text):
            self.tracer = match[1]

    def check_promise(self, entries: int) -> None:
        """Are as many entries there as the last header said?"""
        found = entries - self._entries_before
        if self._promised is not None and found < self._promised:
            self.shortfalls.append(
                f"{found} entries, but the header promises {self._promised}: "
                "the text was cut short or filtered"
            )
        self._promised = None

    def sentences(self) -> list[str]:
        said = list(self.shortfalls)
        if self.foreign:
            quoted = ", ".join(f"line {line} {text!r}" for line, text in self.first_foreign)
            lines = "line is no event" if self.foreign == 1 else "lines are no events"
            said.append(f"{self.foreign} {lines}, left out: {quoted}{self._more()}")
        if self.continued:
            said.append(f"{self.continued} lines belong to the text of the event before them")
        return said

    def why_none(self) -> str:
        """Why this text has no events, as the end of a sentence."""
        if (self.tracer or "").startswith("function_graph"):
            return ": the function_graph tracer prints another format, use `nop` with events"
        if not self.first_foreign:
            return ": its buffer was empty" if self.tracer else ""
        line, text = self.first_foreign[0]
        if NO_CPU.match(text):
            return f": line {line} has no CPU, add `cpu` to the -F of perf script: {text!r}"
        return f": line {line} is none: {text!r}"

    def _more(self) -> str:
        return " ..." if self.foreign > len(self.first_foreign) else ""
