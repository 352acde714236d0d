"""trace.dat of any length, made by repeating a real one; how fast it is read, and by trace-cmd."""

from __future__ import annotations

import resource
import shutil
import struct
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmuwitness.trace.dat.header import BUFFER, read_header
from mmuwitness.trace.dat.reader import DatTrace
from mmuwitness.trace.dat.streams import CpuPages
from mmuwitness.trace.open import open_trace

COPY_GAP_NS = 1_000_000


def repeat_dat(source: bytes, path: Path, events_min: int) -> None:
    """Writes the trace.dat v7 `source` (little-endian, one instance) with its events repeated, each
    copy later than the one before, until there are that many; not compressed."""
    header = read_header("source", source)
    (instance,) = header.instances
    batches = list(DatTrace("source", source).batches())
    times = [int(each.events["time"][index]) for each in batches for index in (0, -1)]
    copies = -(-events_min // sum(len(each.events) for each in batches))
    shift = np.uint64(max(times) - min(times) + COPY_GAP_NS)
    option = bytearray()
    section = len(source)
    with path.open("wb") as file:
        file.write(source + struct.pack("<HHIQ", BUFFER, 0, 0, 0))
        for cpu in instance.cpus:
            blocks = CpuPages("source", source, header, instance, cpu).blocks(1 << 30)
            pages = np.concatenate([each.bytes for each in blocks])
            pages = pages.reshape(-1, instance.page_bytes)
            file.write(bytes(-file.tell() % instance.page_bytes))
            option += struct.pack("<IQQ", cpu.cpu, file.tell(), copies * pages.size)
            for _ in range(copies):
                file.write(pages.tobytes())
                pages[:, :8].view(np.uint64)[...] += shift
        # The option BUFFER says where the data of each CPU is: it is rewritten in place.
        old = b"".join(struct.pack("<IQQ", *vars(each).values()) for each in instance.cpus)
        name = f"\0{header.clock}\0".encode()
        at = source.rindex(old)
        file.seek(at)
        file.write(option)
        file.seek(source.rindex(name, 0, at) - 8)
        file.write(struct.pack("<Q", section))


@dataclass(frozen=True)
class Speed:
    """Processor time, all threads: of the machine's other users there is nothing in it."""

    events: int
    seconds: float

    @property
    def events_per_second(self) -> float:
        return self.events / self.seconds


def read_speed(path: Path) -> Speed:
    """Decoding all events into typed tables, in this process."""
    start = time.process_time()
    events = sum(len(each.events) for each in open_trace(str(path)).batches())
    return Speed(events, time.process_time() - start)


def trace_cmd_speed(path: Path, events: int) -> Speed | None:
    """`trace-cmd report` of the same file, printed to nowhere; None where it is not installed."""
    program = shutil.which("trace-cmd")
    if program is None:
        return None
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [program, "report", "-i", str(path)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Speed(events, seconds)
