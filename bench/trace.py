"""How fast traces are read: text, trace.dat, and the audit on top of it.

Peers in the same run, on the same files: one regular expression of polars over the same text, and
`trace-cmd report` where it is installed. All are processor seconds with one thread, so that a busy
machine does not matter.  Run: python -m bench.trace [--json]
"""

from __future__ import annotations

import json
import lzma
import os
import re
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

DATA = Path(__file__).parents[1] / "tests/data/x86"
TEXT_BYTES = 200_000_000
DAT_EVENTS = 5_000_000
RUNS = 3  # of each reader of trace.dat; the fastest counts
STRESS, KSM_MERGE = "6.1-tdp-stress-ksm.txt.xz", "6.1-tdp-ksm-merge.dat.xz"
SECONDS = re.compile(rb"(?<= )\d+(?=\.\d{6}: )")
LINE = (
    r"^\s*(?P<task>\S.*?)-(?P<pid>\d+)\s+\[(?P<cpu>\d+)\]\s+(?:\S+\s+)?(?P<time>\d+\.\d+): "
    r"(?P<event>[^\s:(]+):?\s*(?P<rest>.*)$"
)
# What they have to reach.
LIMITS = {"text": ("at least", 100), "audit / read": ("at most", 5), "dat / peer": ("at least", 10)}


def repeat_text(path: Path) -> None:
    """A real trace again and again, each time later, until it has TEXT_BYTES."""
    text = lzma.decompress((DATA / STRESS).read_bytes())
    events = text[text.index(b"\n", text.rindex(b"\n#") + 1) + 1 :]
    first, last = (int(SECONDS.findall(part)[-1]) for part in (events[:200], events[-200:]))
    with path.open("wb") as file:
        while file.tell() < TEXT_BYTES:
            file.write(events)
            events = later(events, last + 1 - first)


def later(events: bytes, seconds: int) -> bytes:
    return SECONDS.sub(lambda found: b"%d" % (int(found[0]) + seconds), events)


def processor_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def read_all(path: Path) -> int:
    from mmuwitness.trace.open import open_trace

    return sum(batch.events.height for batch in open_trace(str(path)).batches())


def read_by_regex(path: Path) -> int:
    """The parts of each line, as text, in one go."""
    import polars as pl

    lines = pl.read_csv(
        path, has_header=False, separator="\x01", quote_char=None, new_columns=["line"]
    )
    return lines.select(pl.col("line").str.extract_groups(LINE)).height


def measure_text(directory: Path) -> dict[str, float]:
    from mmuwitness.trace.audit.auditor import audit_trace
    from mmuwitness.trace.open import open_trace

    path = directory / "stress.txt"
    repeat_text(path)
    megabytes = path.stat().st_size / 1e6
    read_all(DATA / STRESS)  # compiled code is loaded, and compiled if that was never done
    read = processor_seconds(lambda: read_all(path))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    audit = processor_seconds(lambda: audit_trace(open_trace(str(path))))
    regex = processor_seconds(lambda: read_by_regex(path))
    return {
        "text": megabytes / read,
        "text, peer": megabytes / regex,
        "text memory": memory,
        "audit / read": audit / read,
    }


def measure_dat(directory: Path) -> dict[str, float]:
    from bench.trace_dat import read_speed, repeat_dat, trace_cmd_speed

    path = directory / "trace.dat"
    repeat_dat(lzma.decompress((DATA / KSM_MERGE).read_bytes()), path, DAT_EVENTS)
    ours = max((read_speed(path) for _ in range(RUNS)), key=lambda speed: speed.events_per_second)
    found = {"dat": ours.events_per_second}
    peers = [trace_cmd_speed(path, ours.events) for _ in range(RUNS)]
    if fastest := max((peer.events_per_second for peer in peers if peer), default=None):
        found |= {"dat, peer": fastest, "dat / peer": ours.events_per_second / fastest}
    return found


UNITS = {
    "text": "MB/s into typed tables",
    "text, peer": "MB/s, one regular expression of polars",
    "text memory": "MB of memory at most, while reading",
    "audit / read": "times the time of reading the text",
    "dat": "events/s of trace.dat into typed tables",
    "dat, peer": "events/s, trace-cmd report",
    "dat / peer": "times as fast",
}


def main() -> None:
    os.environ["POLARS_MAX_THREADS"] = "1"  # before anything imports it
    with tempfile.TemporaryDirectory() as directory:
        found = measure_text(Path(directory)) | measure_dat(Path(directory))
    if "--json" in sys.argv:
        print(json.dumps(found))
        return
    for name, unit in UNITS.items():
        if name not in found:
            print(f"{name:14} {'-':>12} {unit}: trace-cmd is not installed")
            continue
        limit = " {} {}".format(*LIMITS[name]) if name in LIMITS else ""
        print(f"{name:14} {found[name]:12,.1f} {unit}{limit and f' (wanted:{limit})'}")


if __name__ == "__main__":
    main()
