"""trace-cmd's trace.dat, versions 6 and 7, as batches of events. No trace-cmd needed.

    data = Path("trace.dat").read_bytes()
    for batch in DatTrace("trace.dat", data).batches():
        print(batch.tables["kvm_exit"])

The file says itself how its events look: formats, byte order, size of a long, symbols, names of
tasks. Several instances of the ring buffer are merged in time order, as several CPUs are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from mmuwitness.trace.dat.batch import IDLE, Batches, Events
from mmuwitness.trace.dat.columns import LAYOUT, NONE_LOST, TIME, UNKNOWN_LOST
from mmuwitness.trace.dat.cursor import Buffer
from mmuwitness.trace.dat.format import Field
from mmuwitness.trace.dat.header import Header, Instance, no_events, read_header
from mmuwitness.trace.dat.stacks import stack_types
from mmuwitness.trace.dat.streams import (
    BLOCK_BYTES,
    BLOCK_BYTES_ALL,
    CpuPages,
    Room,
    Stream,
    Words,
    merged,
)
from mmuwitness.trace.dat.symbols import Symbols
from mmuwitness.trace.dat.tables import Tables
from mmuwitness.trace.events import Batch, Loss, Progress, TraceError, count_lost

BATCH_EVENTS = 400_000
_TASK = re.compile(r"^(\d{1,9}) (.*)$", re.M)
_PRINTK = re.compile(r'^(0x[0-9a-fA-F]{1,16}) : "(.*)"$', re.M)
_ALL_HAVE = {"common_type": Field("common_type", 0, 2, False, 2)}
_ALL_HAVE["common_pid"] = Field("common_pid", 4, 4, True, 4)


class DatTrace:
    """A trace.dat in memory, or mapped into it (`mmap`)."""

    def __init__(
        self,
        path: str,
        data: Buffer,
        progress: Progress | None = None,
        damage: str | None = None,
    ) -> None:
        """Reads all but the events. `path` is for messages; `damage` says why `data` may end
        before the file does."""
        self.path = path
        self._data, self._progress, self._damage = data, progress, damage
        self._header = read_header(path, data)
        self.format = f"trace.dat v{self._header.version}"
        self.clock = self._header.clock
        # uname: Linux HOST RELEASE MACHINE
        words = (self._header.uname or "").split()
        self.release = words[2] if len(words) > 2 else None
        self.losses: list[Loss] = []
        self.notes: list[str] = []
        self.complete = True

    @property
    def lost(self) -> int:
        """Events known to be lost; a loss of unknown size counts as one."""
        return count_lost(self.losses)

    def batches(self) -> Iterator[Batch]:
        """The events, from the start at each call."""
        header = self._header
        self.losses, self.notes = [], [*([self._damage] if self._damage else []), *header.notes]
        self.complete = not self.notes
        if not header.instances:
            raise no_events(self.path, header)
        streams = self._streams()
        cpus = np.array([each.pages.cpu.cpu for each in streams], np.int64)
        maker = Batches(header, self._tables(), _tasks(header.cmdlines), cpus)
        room = Room()
        for part in merged(streams, BATCH_EVENTS):
            events = Events.of(part, room)
            self._scale(events.columns[TIME])
            batch = maker.batch(events)
            self._report(streams, maker)
            if batch is not None:
                yield batch
        self._finish(streams, maker)

    def _streams(self) -> list[Stream]:
        """Of each CPU of each instance, in the order in which the kernel merges them."""
        header = self._header
        layout = _layout_words(header)
        sources = [
            (instance, cpu)
            for instance in header.instances
            for cpu in sorted(instance.cpus, key=lambda each: each.cpu)
        ]
        block_bytes = min(BLOCK_BYTES, BLOCK_BYTES_ALL // max(len(sources), 1))
        room, streams = Room(), []
        for instance, cpu in sources:
            layout[0] = instance.page_bytes
            pages = CpuPages(self.path, self._data, header, instance, cpu)
            streams.append(Stream(pages, layout.copy(), block_bytes, stack_types(header), room))
        self._note_instances(header.instances)
        return streams

    def _note_instances(self, instances: list[Instance]) -> None:
        if len(instances) > 1:
            names = ", ".join(each.name or "the top one" for each in instances)
            self.notes.append(
                f"{len(instances)} instances of the ring buffer are read as one trace: {names}; "
                "an event recorded in two of them counts twice"
            )
        for name in self._header.texts:
            self.notes.append(f"the instance {name or 'at the top'} is text and is not read")
        if self._header.shifted:
            self.notes.append(
                "recorded in a guest: times are the guest's, not shifted to the host's"
            )

    def _tables(self) -> Tables:
        header = self._header
        symbols = Symbols(header.kallsyms)
        if not len(symbols):
            self.notes.append(
                "the file has no addresses of functions (kptr_restrict when it was recorded): "
                "probes and stack traces show none"
            )
        printk = {int(where, 16): text for where, text in _PRINTK.findall(header.printk)}
        return Tables(symbols, printk)

    def _scale(self, times: Words) -> None:
        """From the recorded clock to nanoseconds, in place."""
        if self._header.tsc_to_ns is not None:
            multiplier, shift = self._header.tsc_to_ns
            ticks = times.view(np.uint64)
            high, low = ticks >> 32, ticks & 0xFFFF_FFFF
            # As the kernel's mul_u64_u32_shr(): the whole product needs more than 64 bits.
            ticks[:] = (low * multiplier >> shift) + (high * multiplier << (32 - shift))
        times += self._header.time_offset

    def _report(self, streams: list[Stream], maker: Batches) -> None:
        """Losses and faults that were met since the last report."""
        for row, cpu, count in maker.lost:
            self.losses.append(Loss(row, cpu, None if count == UNKNOWN_LOST else count))
        maker.lost.clear()
        for stream in streams:
            self.notes += stream.pages.faults
            self.complete &= not stream.pages.faults
            stream.pages.faults.clear()
            stream.pages.release()
        self.complete &= not self.losses
        if self._progress is not None:
            sizes = sum(stream.pages.cpu.size for stream in streams)
            self._progress(sum(stream.pages.read_bytes for stream in streams), sizes)

    def _finish(self, streams: list[Stream], maker: Batches) -> None:
        """What is known at the end only."""
        for stream in streams:
            if (count := stream.pending_lost) != NONE_LOST:
                maker.lost.append((maker.row, stream.pages.cpu.cpu, count))
        self._report(streams, maker)
        header = self._header
        marked = self.lost
        if header.overwritten > marked:
            self.losses.insert(0, Loss(0, None, header.overwritten - marked))
        if header.dropped:
            self.losses.append(Loss(maker.row, None, header.dropped))
        self.complete &= not self.losses
        for name, count in maker.tables.short.items():
            self._incomplete(f"{count:,} events {name} are shorter than their fields: not read")
        for name, count in maker.unknown.items():
            self._incomplete(f"{count:,} events {name}: the file does not say how they look")
        if maker.tables.undecoded:
            count = maker.tables.undecoded
            self.notes.append(f"{count:,} events of trace_printk show their format, not arguments")
        if not maker.row:
            why = "; ".join(self.notes) or "nothing was recorded"
            raise TraceError(self.path, None, f"no events in the file: {why}")

    def _incomplete(self, note: str) -> None:
        self.notes.append(note)
        self.complete = False


def _tasks(cmdlines: str) -> dict[int, str]:
    """From tracefs saved_cmdlines: names of tasks by pid."""
    return {0: IDLE, **{int(pid): name for pid, name in _TASK.findall(cmdlines)}}


def _layout_words(header: Header) -> Words:
    """See columns.LAYOUT; without the size of a sub-buffer, which each instance has its own."""
    common = dict(_ALL_HAVE)
    first = header.format(next(iter(header.formats), 0))
    for field in () if first is None else first.fields:
        if field.name in common and field.size == common[field.name].size:
            common[field.name] = field
    kind_of, pid = common["common_type"], common["common_pid"]
    layout = header.layout
    words = {
        "page_bytes": 0,
        "commit_offset": layout.commit_offset,
        "commit_size": layout.commit_size,
        "data_offset": layout.data_offset,
        "big_endian": int(header.big_endian),
        "type_offset": kind_of.offset,
        "type_size": kind_of.size,
        "pid_offset": pid.offset,
        "common_end": max(kind_of.offset + kind_of.size, pid.offset + pid.size),
    }
    return np.array([words[name] for name in LAYOUT], np.int64)
