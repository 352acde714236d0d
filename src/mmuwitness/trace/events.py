"""What every reader of traces yields: batches of events, in time order over all CPUs.

    for batch in open_trace("trace.dat").batches():
        print(batch.events["event"].value_counts(), batch.tables["kvm_exit"]["reason"])

An event is a row of `Batch.events`, whatever its kind. What only events of its name have, its
fields, is a row of `Batch.tables[name]` with the same `row`. Text and trace.dat give the same rows.

    events   row     UInt64       counts through the whole trace from 0
             time    Int64        nanoseconds of the trace's clock (or its ticks: see `Trace.clock`)
             cpu     Int32
             task    Categorical  as the kernel names it; bytes that are no UTF-8 are replaced
             pid     Int32        of the thread
             event   Categorical  the kernel's name of the event, without its group
             place   UInt64       number of its line in text, from 1; byte offset in a binary
             stack   List(String) functions, innermost first; null where none was recorded
    tables   row     UInt64       and one column per field, named as in the kernel's format file or
                                  by who defined the probe. Int64 for signed numbers, UInt64 for
                                  unsigned ones (addresses, SPTEs), String for all else; null where
                                  a line has no such field or the kernel could not read it.

    kprobe     function  String  as in the kernel's source: no module, no .isra.0, .constprop.0
               offset    UInt64  of the probed instruction in it, in bytes
    kretprobe  function  String
               caller    String  the symbol it returns to as printed, `f+0x8/0x20 [kvm]`, or
                                 `[unknown/kretprobe'd]`; both are 0x... where text shows no more
    function   function, caller  of the function tracer
    sys_enter_NAME, sys_exit_NAME: text calls both sys_NAME; the latter has the field `ret`
    text       String            what a payload says of which nothing is known, as printed
                                 (tracing_mark_write, console, events of unknown form)

Stack traces are no rows of their own: they are put on the event that they were recorded with, the
last of the same CPU and pid. They hold the kernel's functions only. One whose event is not in the
trace is an event `kernel_stack`; those of user space are events `user_stack`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import polars as pl

Progress = Callable[[int, int | None], None]
"""Called now and then with the bytes read so far and in all (None: not known)."""


class TraceError(ValueError):
    """A file that cannot be read as a trace: which one, where, and why."""

    def __init__(self, path: str, place: int | None, why: str) -> None:
        """`place` is a line of text or the offset of a byte, as `why` says; None: the whole."""
        super().__init__(f"{path}: {why}" if place is None else f"{path}:{place}: {why}")
        self.path, self.place, self.why = path, place, why


@dataclass(frozen=True)
class Loss:
    """Events that the recorder dropped."""

    row: int  # of the first event after them
    cpu: int | None  # None: not said
    count: int | None  # None: not said


@dataclass(frozen=True)
class Batch:
    """A part of a trace, small enough for memory (tens of MB), never empty."""

    events: pl.DataFrame
    tables: Mapping[str, pl.DataFrame]  # per name of event; not of events without fields


class Trace(Protocol):
    """A trace on disk. What is said about it is known as far as it has been read."""

    @property
    def path(self) -> str: ...

    @property
    def format(self) -> str:
        """`ftrace text`, `trace-cmd report`, `perf script`, `trace.dat v6` or `v7`."""

    @property
    def release(self) -> str | None:
        """Of the kernel that was traced, if the trace says it."""

    @property
    def clock(self) -> str | None:
        """Of the times, if the trace says it; `ticks` if they are no nanoseconds."""

    @property
    def complete(self) -> bool:
        """False once something is known to be lost, cut off or not readable."""

    @property
    def losses(self) -> list[Loss]: ...

    @property
    def lost(self) -> int:
        """Events known to be lost; a loss of unknown size counts as one."""

    @property
    def notes(self) -> list[str]:
        """Sentences for the reader of a report: what was cut off, left out, assumed."""

    def batches(self) -> Iterator[Batch]:
        """The events, from the start at each call. TraceError if it is no trace."""


def count_lost(losses: list[Loss]) -> int:
    """Events in these losses; one of unknown size counts as one."""
    return sum(1 if loss.count is None else loss.count for loss in losses)
