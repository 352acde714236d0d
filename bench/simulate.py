"""Simulation: guest accesses per second, bytes per guest page, and what more memory costs.

Run: python -m bench.simulate [--json] [--plot FILE] [--hour] [--only PART ...]

Peers in the same run, on the same machine, of the same workload (`ksm-density`; see
`simulate_peers`): a flat loop in Numba, told to do as many accesses and scans as were done here,
and a SimPy model for a shorter time, as it is slow.  Runs are processes of their own and take
turns; medians of processor seconds with one thread.  A process runs a small machine first, which
loads compiled code.  Bytes are the peak of a process above what it had before it made the guests.

Then machines of 1 to 128 GiB, as far as memory goes: guests of 1 GiB each, touched at the same rate
in sum, until ksmd, which does not sleep, has been through all of them twice.  --hour: an hour of 16
guests of 4 GiB, with five million touches a second in sum.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RUNS = 3
GIB_PAGES = 1 << 18
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)  # GiB
SPARE_BYTES = 2 << 30  # of memory, that others need
ERA, ARCH, DESIGN, SEED = "v6.1", "x86-tdp", "as-is", 1
SCANS = "mmuwitness.simulate.kernel.ksm.ksm_scan_item"
SIMPY_ACCESSES = 2_000_000
PARTS = ("speed", "memory", "sizes")

FLOORS = {
    "4 GiB": ("at least", 50.0, "M accesses/s"),
    "64 GiB": ("at least", 25.0, "M accesses/s"),
    "4 GiB / flat loop": ("at most", 1.5, "x its time"),
    "64 GiB / flat loop": ("at most", 1.5, "x its time"),
    "4 GiB / SimPy": ("at least", 100.0, "x as fast"),
    "64 GiB / SimPy": ("at least", 100.0, "x as fast"),
    "without KSM": ("at most", 32.0, "bytes/page"),
    "with KSM": ("at most", 64.0, "bytes/page"),
    "growth": ("at most", 1.1, "th power of the pages that time grows with"),
    "an hour": ("at most", 900.0, "s"),
}


@dataclass(frozen=True)
class Load:
    """guests of so many GiB; touches a second in sum; for so many seconds of guest time, or, if
    that is 0, until ksmd has been through all of them twice."""

    guests: int
    memory: float
    touches: float
    seconds: float
    pages_to_scan: int = 1000
    sleep_millisecs: float = 20

    @property
    def pages(self) -> int:
        return round(self.guests * self.memory * GIB_PAGES)

    @property
    def parameters(self) -> dict[str, float]:
        return {
            "guests": self.guests,
            "memory": self.memory,
            "touches": self.touches / self.guests,
            "pages_to_scan": self.pages_to_scan,
            "sleep_millisecs": self.sleep_millisecs,
        }


LOADS = {
    "small": Load(1, 1 / 64, 1e5, 1),
    "4 GiB": Load(1, 4, 5e6, 60),
    "64 GiB": Load(1, 64, 5e6, 60),
    "without KSM": Load(16, 4, 5e6, 10, pages_to_scan=1, sleep_millisecs=1e6),
    "with KSM": Load(16, 4, 1e6, 0, sleep_millisecs=0),
    "an hour": Load(16, 4, 5e6, 3600),
} | {f"size {size}": Load(size, 1, 1e6, 0, sleep_millisecs=0) for size in SIZES}
SMALL = LOADS["small"]


# -- in a process of its own ---------------------------------------------------------------


def simulate_here(load: Load, tell: Callable[[float], None] | None = None) -> dict[str, float]:
    from mmuwitness.model.era import Era
    from mmuwitness.model.host import find_arch
    from mmuwitness.simulate.cost import load_costs
    from mmuwitness.simulate.designs import find_design
    from mmuwitness.simulate.engine import Engine
    from mmuwitness.simulate.program import ManyProgram
    from mmuwitness.simulate.records import Came
    from mmuwitness.simulate.runner import typical_costs
    from mmuwitness.simulate.simulator import counters, resolved
    from mmuwitness.simulate.workloads import WORKLOADS

    costs = typical_costs(load_costs("x86"))
    kernel = find_design(DESIGN).kernel(Era(ERA), find_arch(ARCH))
    start, before = time.process_time(), memory_now()
    workload = WORKLOADS["ksm-density"](resolved("ksm-density", load.parameters), kernel, SEED)
    made = time.process_time()
    program = ManyProgram(workload.guests[0], workload.all_calls(), costs)
    for position, name in enumerate(program.tables.costs):
        program.costs[position] = costs[name]
    engine = Engine(program, workload.guests, load.guests + 16)
    workload.start(engine)
    ready, passes, step = time.process_time(), 0, (load.seconds or 1e6) / 100
    while engine.now < load.seconds * 1e9 if load.seconds else passes < 2:
        came = engine.run(engine.now + round(step * 1e9))
        if came is Came.PASS:
            workload.passed(engine)
            passes += 1
        if tell:
            tell(engine.now / 1e9)
    done = time.process_time()
    found = counters(engine, workload)
    return {
        "accesses": found["guest touches"],
        "scans": found[SCANS],
        "merges": found["mm.ksm.replace_page"],
        "faults": found["fault first"] + found["fault refault"],
        "guest seconds": engine.now / 1e9,
        "set-up seconds": made - start,
        "seconds": done - ready,
        "bytes/page": (memory_peak() - before) / load.pages,
    }


def peer_here(name: str, load: Load, accesses: int, scans: int) -> dict[str, float]:
    from bench.simulate_peers import FAULTED, MERGED, Shares, flat_loop, memory_of, simpy_model

    pages = round(load.memory * GIB_PAGES)
    shares = Shares(pages, pages // 16, pages // 8, 2 + pages // 2)
    start, before = time.process_time(), memory_now()
    memory = memory_of(shares, load.guests)
    ready = time.process_time()
    if name == "SimPy":
        rate = load.touches / load.guests
        seconds = accesses / load.touches
        done = simpy_model(memory, shares, load.guests, round(rate), load.pages_to_scan, seconds)
    else:
        slices = max(1, scans // load.pages_to_scan)
        touches = accesses // slices // load.guests
        done = flat_loop(memory, shares, load.guests, slices, touches, load.pages_to_scan)
    return {
        "accesses": done,
        "merges": int(memory.counts[MERGED]),
        "faults": int(memory.counts[FAULTED]),
        "set-up seconds": ready - start,
        "seconds": time.process_time() - ready,
        "bytes/page": (memory_peak() - before) / load.pages,
    }


def memory_now() -> int:
    """Bytes of this process; the peak begins here."""
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def memory_peak() -> int:
    return status("VmHWM")


def status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def child(name: str, load: Load, accesses: int, scans: int) -> None:
    """A small run loads the code; then the one that counts."""
    if name == "here":
        simulate_here(SMALL)
        tell = progress if load == LOADS["an hour"] else None
        found = simulate_here(load, tell)
    else:
        peer_here(name, SMALL, 1000, 1000)
        found = peer_here(name, load, accesses, scans)
    print(json.dumps(found))


def progress(seconds: float) -> None:
    if os.isatty(2):
        print(f"\r{seconds:7.0f} s of guest time", end="", file=sys.stderr, flush=True)


# -- the table -----------------------------------------------------------------------------


def run(name: str, load: str, accesses: int = 0, scans: int = 0) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.simulate", "--child", name, load]
    done = subprocess.run(
        [*command, str(accesses), str(scans)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    made: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return made | {"M accesses/s": made["accesses"] / made["seconds"] / 1e6}


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(each[name] for each in runs) for name in runs[0]}


def speed(ratios: dict[str, float]) -> dict[str, dict[str, float]]:
    rows: dict[str, dict[str, float]] = {}
    for load in ("4 GiB", "64 GiB"):
        runs: dict[str, list[dict[str, float]]] = {"here": [], "flat loop": [], "SimPy": []}
        for _ in range(RUNS):
            here = run("here", load)
            runs["here"].append(here)
            work = int(here["accesses"]), int(here["scans"])
            runs["flat loop"].append(run("flat loop", load, *work))
            runs["SimPy"].append(run("SimPy", load, SIMPY_ACCESSES))
        for name, of in runs.items():
            rows[f"{load}, {name}"] = medians(of)
        rate = {name: rows[f"{load}, {name}"]["M accesses/s"] for name in runs}
        ratios[load] = rate["here"]
        ratios[f"{load} / flat loop"] = rate["flat loop"] / rate["here"]
        ratios[f"{load} / SimPy"] = rate["here"] / rate["SimPy"]
    return rows


def memory(ratios: dict[str, float]) -> dict[str, dict[str, float]]:
    rows = {name: run("here", name) for name in ("without KSM", "with KSM")}
    ratios |= {name: row["bytes/page"] for name, row in rows.items()}
    return rows


def sizes(ratios: dict[str, float]) -> dict[str, dict[str, float]]:
    """As far as memory goes."""
    rows: dict[str, dict[str, float]] = {}
    for size in SIZES:
        needed = FLOORS["with KSM"][1] * size * GIB_PAGES + SPARE_BYTES
        if needed > os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGESIZE"):
            break
        rows[f"size {size}"] = run("here", f"size {size}")
    points = [
        (math.log(int(name.split()[1])), math.log(total_seconds(row))) for name, row in rows.items()
    ]
    if len(points) > 1:
        ratios["growth"] = statistics.linear_regression(*zip(*points, strict=True)).slope
    return rows


def hour(ratios: dict[str, float]) -> dict[str, dict[str, float]]:
    row = run("here", "an hour")
    ratios["an hour"] = total_seconds(row)
    return {"an hour": row}


def print_rows(rows: dict[str, dict[str, float]]) -> None:
    print(
        f"{'':20}M accesses/s   accesses      scans     merges     faults  set-up s   run s"
        "  ns/page  bytes/page"
    )
    for name, row in rows.items():
        nanoseconds = 1e9 * total_seconds(row) / LOADS[name.partition(",")[0]].pages
        print(
            f"{name:20}{row['M accesses/s']:12.1f} {row['accesses']:10.3g} "
            f"{row.get('scans', math.nan):10.3g} {row['merges']:10.3g} {row['faults']:10.3g} "
            f"{row['set-up seconds']:9.2f} {row['seconds']:7.2f} {nanoseconds:8.0f} "
            f"{row['bytes/page']:11.1f}"
        )


def total_seconds(row: dict[str, float]) -> float:
    return row["set-up seconds"] + row["seconds"]


def draw(rows: dict[str, dict[str, float]], path: Path) -> None:
    """Seconds and bytes by memory, both axes in powers, with what is linear beside it."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    of = {int(name.split()[1]): row for name, row in rows.items() if name.startswith("size")}
    seconds = [total_seconds(row) for row in of.values()]
    gib = [row["bytes/page"] * size * GIB_PAGES / (1 << 30) for size, row in of.items()]
    figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    for axis, values, label in zip(axes, (seconds, gib), ("processor seconds", "GiB"), strict=True):
        axis.loglog(list(of), values, "o-", base=2, label="measured")
        middle = len(of) // 2
        linear = [values[middle] * size / list(of)[middle] for size in of]
        axis.loglog(list(of), linear, "--", base=2, label="linear", color="grey")
        axis.set_xlabel("GiB of guests")
        axis.set_ylabel(label)
        axis.legend()
    figure.suptitle("ksm-density until two passes of ksmd are over")
    figure.savefig(path)


def main() -> None:
    if "--child" in sys.argv:
        name, load, accesses, scans = sys.argv[2:]
        child(name, LOADS[load], int(accesses), int(scans))
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--hour", action="store_true", help="an hour of 64 GiB, nothing else")
    parser.add_argument("--plot", type=Path, help="draw seconds and bytes by memory")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    asked = parser.parse_args()
    run("here", "small")  # compiles
    ratios: dict[str, float] = {}
    rows: dict[str, dict[str, float]] = {}
    made: dict[str, Any] = {"speed": speed, "memory": memory, "sizes": sizes, "hour": hour}
    for part in ["hour"] if asked.hour else asked.only:
        rows |= made[part](ratios)
    if asked.plot:
        draw(rows, asked.plot)
    if asked.json:
        print(json.dumps({"rows": rows, "ratios": ratios}))
        return
    print_rows(rows)
    print()
    for name, value in ratios.items():
        which, floor, unit = FLOORS[name]
        missed = value < floor if which == "at least" else value > floor
        print(f"{name:20}{value:8.2f} {unit} ({which} {floor:g}{': missed' if missed else ''})")


if __name__ == "__main__":
    main()
