"""Exploration beside SPIN: states per second, bytes per state, and from the shell to the verdict.

Run: python -m bench.explore [--json].  It needs spin and gcc.

Peers in the same run, on the same machine: SPIN's fastest builds of a Promela model that was
written by hand, and has the same states and steps (tests/differential; compared here, too).  Every
run is a process of its own; runs take turns; medians; a run that other processes disturb is made
again, a few times.  Time is that of the search alone, as each tool states it, and bytes are the
peak of the process (of SPIN on two cores: of its first process, the shared memory that it touched
included).  Both tools check the same claims.

Then the largest scenario that both can do, each with its own reduction: symmetry here, partial
order in SPIN.  They keep different states; the verdict is the same.

Before every run of either tool another process uses more memory than the run will, and ends.  In
a virtual machine the first use of a page costs what the hypervisor takes to find one: up to half
of a second here, in some runs and not in others, which is nothing that either tool does.
"""

from __future__ import annotations

import json
import mmap
import os
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from bench.verdict import cold_cache

RUNS = 3
ATTEMPTS = 2  # at an undisturbed run
OTHERS_MAX = 0.1  # processors that other processes may use meanwhile
IDLE_SECONDS_MAX = 5.0  # to wait for that
WARM_BYTES = 1 << 30
ROOT = Path(__file__).resolve().parent.parent
FLOORS = {"one core": 6.0, "two cores": 9.0, "end to end": 4.0, "reduced": 30.0}
QUICK = "quick"  # code that takes less time to make: how `mmuwitness check` explores

# dontneed, larger: 2 vCPUs that read and write 2 gfns, 2 pages.
SIZES = {"vcpus": 2, "pages": 2, "written_gfns": 2}
MODEL = ROOT / "tests" / "differential" / "spin" / "dontneed.pml"
SPIN = ["spin", "-o1", "-o2", "-o3", "-DNVCPU=2", "-DNPAGES=2", "-DWRITTEN=2"]
GCC = ["gcc", "-march=native", "-DNOREDUCE", "-DSAFETY", "-DNOFAIR", "-DMEMLIM=16000", "-o", "pan"]
PAN = ["./pan", "-m2000000", "-w24", "-n"]  # a table with more slots than there are states

# dontneed_3vcpus, in which both reduce.  SPIN's table has a slot for each of its states.
LARGEST = "dontneed_3vcpus"
LARGEST_SPIN = ["spin", "-o1", "-o2", "-o3", "-DNVCPU=3", "-DNGFN=1", "-DNPAGES=4"]
LARGEST_PAN = ["./pan", "-m10000000", "-w25", "-n"]

SPIN_SECONDS = re.compile(r"elapsed time ([\d.e+]+) seconds")
SPIN_COUNTS = re.compile(r"errors: 0\n +(\d+) states, stored(?:.*\n){1,3} *([\d.e+]+) transitions")


@dataclass(frozen=True)
class Finished:
    """A process that has come to its end."""

    said: str
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    disturbed: bool
    wall: float = 0.0  # of the whole process, where `seconds` is that of the search alone


@dataclass
class Row:
    """One way to explore, and its runs.  command: in `directory`."""

    name: str
    cores: int
    command: list[str]
    directory: Path = ROOT
    claims: bool = True
    runs: list[Finished] = field(default_factory=list)
    counts: tuple[int, int] = (0, 0)

    @property
    def ours(self) -> bool:
        return self.directory == ROOT

    @property
    def told(self) -> bool:
        """Whether a disturbance is told apart from the other processes of SPIN itself."""
        return self.ours or self.cores == 1

    def median(self, what: str) -> float:
        return statistics.median(float(getattr(run, what)) for run in self.runs)

    @property
    def rate(self) -> float:
        return self.counts[0] / self.median("seconds")

    @property
    def bytes_per_state(self) -> float:
        return self.median("peak_bytes") / self.counts[0]

    def run(self) -> None:
        if self.told:
            done = undisturbed(self.command, self.directory)
        else:
            warm_memory()
            done = finished(self.command, self.directory)
        if self.ours:
            found = json.loads(done.said)
            seconds, self.counts = found["seconds"], (found["states"], found["steps"])
        else:
            seconds = max(map(float, SPIN_SECONDS.findall(done.said)))
            states, transitions = map(float, SPIN_COUNTS.findall(done.said)[0])
            # the initial state counts as a transition
            self.counts = int(states), int(transitions) - 1
        self.runs.append(replace(done, said="", seconds=seconds, wall=done.seconds))


def busy_seconds() -> float:
    """CPU seconds that all processes of this machine have used."""
    fields = Path("/proc/stat").read_text().partition("\n")[0].split()[1:8]
    user, nice, system, _idle, _iowait, *more = map(int, fields)
    return (user + nice + system + sum(more)) / os.sysconf("SC_CLK_TCK")


def finished(command: list[str], directory: Path, cache: Path | None = None) -> Finished:
    """Run a process to its end; `cache`: where mmuwitness keeps compiled code."""
    environment = dict(os.environ)
    if cache is not None:
        environment["MMUWITNESS_CACHE"] = str(cache)
    busy, start = busy_seconds(), time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command, cwd=directory, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        cpu_seconds = usage.ru_utime + usage.ru_stime
        others = busy_seconds() - busy - cpu_seconds
        output.seek(0)
        said = output.read()
    if process.returncode != 0:
        sys.exit(f"{' '.join(command)} exits {process.returncode}\n{said[-2000:]}")
    return Finished(said, wall, cpu_seconds, usage.ru_maxrss * 1024, others > OTHERS_MAX * wall)


def undisturbed(command: list[str], directory: Path, cold: bool = False) -> Finished:
    """The first of a few runs that had the machine for itself; else the last of them.

    cold: no program is in mmuwitness's cache, but the search core is, as it is compiled once per
    installation."""
    for _ in range(ATTEMPTS):
        wait_until_idle()
        warm_memory()
        with tempfile.TemporaryDirectory() as cache:
            done = finished(command, directory, cold_cache(Path(cache)) if cold else None)
        if not done.disturbed:
            break
    return done


def wait_until_idle() -> None:
    end = time.perf_counter() + IDLE_SECONDS_MAX
    while time.perf_counter() < end:
        busy = busy_seconds()
        time.sleep(0.5)
        if busy_seconds() - busy <= OTHERS_MAX * 0.5:
            return


def warm_memory() -> None:
    """Touch every page of WARM_BYTES in a process that ends then."""
    if (child := os.fork()) == 0:
        with mmap.mmap(-1, WARM_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
            if hasattr(mmap, "MADV_HUGEPAGE"):
                memory.madvise(mmap.MADV_HUGEPAGE)
            for place in range(0, WARM_BYTES, mmap.PAGESIZE):
                memory[place] = 1
        os._exit(0)
    os.waitpid(child, 0)


def explore_here(threads: int, thorough: bool, largest: bool) -> None:
    """The child process that explores with mmuwitness."""
    from mmuwitness.explore.explorer import explore
    from mmuwitness.explore.programs import Folding, reductions_of
    from mmuwitness.model.era import Era
    from mmuwitness.model.scenarios import find_scenario

    scenario = find_scenario(LARGEST)
    if not largest:
        scenario = replace(find_scenario("dontneed"), sizes=SIZES)
    folding = Folding(thorough=thorough, reduce=reductions_of(scenario, "auto"))
    found = explore(scenario, Era("v5.10"), "x86-tdp", folding=folding, threads=threads)
    result = found.result
    assert found.complete and not found.violated() and result.deadlock is None
    print(json.dumps({"states": result.states, "steps": result.edges, "seconds": result.seconds}))


def here(threads: int, *more: str) -> list[str]:
    return [sys.executable, "-m", "bench.explore", "--threads", str(threads), *more]


def build(gcc: list[str], spin: list[str]) -> str:
    return f"{shlex.join([*SPIN, *spin, '-a', str(MODEL)])} && {shlex.join([*GCC, *gcc, 'pan.c'])}"


def spin_rows(directory: Path) -> list[Row]:
    """SPIN's fastest builds.  VMAX: the size of a state, for the queues between its processes."""
    made = []
    for name, cores, gcc, spin, pan in (
        ("SPIN", 1, ["-DNOCOMP"], [], []),
        ("SPIN, states compressed", 1, [], [], []),
        ("SPIN, without claims", 1, ["-DNOCOMP"], ["-DNOCLAIMS"], []),
        ("SPIN, BFS_PAR", 2, ["-DBFS_PAR"], [], ["-u2"]),
        ("SPIN, NCORE=2", 2, ["-DNCORE=2", "-DNOCOMP", "-DVMAX=56"], [], []),
    ):
        place = directory / name
        place.mkdir()
        finished(["sh", "-c", build(["-O3", *gcc], spin)], place)
        made.append(Row(name, cores, [*PAN, *pan], place, claims=not spin))
    return made


def end_to_end(directory: Path) -> dict[str, float]:
    """From the shell to the verdict on all processors, in seconds: nothing of the model is
    compiled yet.  SPIN alone and SPIN on two cores; -O2, whose builds end first."""
    taken: dict[str, list[float]] = {"mmuwitness": [], "SPIN": [], "SPIN, BFS_PAR": []}
    alone = f"{build(['-O2', '-DNOCOMP'], [])} && {shlex.join(PAN)}"
    both = f"{build(['-O2', '-DBFS_PAR'], [])} && {shlex.join([*PAN, '-u2'])}"
    for _ in range(RUNS):
        taken["mmuwitness"].append(undisturbed(here(2, QUICK), ROOT, cold=True).seconds)
        taken["SPIN"].append(undisturbed(["sh", "-c", alone], directory).seconds)
        taken["SPIN, BFS_PAR"].append(undisturbed(["sh", "-c", both], directory).seconds)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def reduced(directory: Path) -> list[Row]:
    """The largest common scenario: mmuwitness and SPIN, each with what it can leave out."""
    spin = shlex.join([*LARGEST_SPIN, "-a", str(MODEL)])
    gcc = shlex.join([*(flag for flag in GCC if flag != "-DNOREDUCE"), "-O3", "-DNOCOMP", "pan.c"])
    finished(["sh", "-c", f"{spin} && {gcc}"], directory)
    rows = [
        Row("mmuwitness, reduced", 1, here(1, LARGEST)),
        Row("SPIN, reduced", 1, LARGEST_PAN, directory),
    ]
    finished(rows[0].command, ROOT)  # shows that it is symmetric, and compiles
    for _ in range(RUNS):
        for row in rows:
            row.run()
    return rows


def measure(directory: Path) -> tuple[list[Row], dict[str, float]]:
    rows = [Row("mmuwitness", 1, here(1)), Row("mmuwitness", 2, here(2)), *spin_rows(directory)]
    finished(rows[0].command, ROOT)  # compiles
    for _ in range(RUNS):
        for row in rows:
            row.run()
    if len({row.counts for row in rows}) != 1:
        sys.exit("they disagree: " + ", ".join(f"{row.name} {row.counts}" for row in rows))
    return rows, end_to_end(directory)


def ratios(rows: list[Row], whole: dict[str, float]) -> dict[str, float]:
    """What mmuwitness has for each of SPIN, in its fastest build that checks the claims."""
    peers = [row for row in rows if not row.ours and row.claims]
    alone = max((row for row in peers if row.cores == 1), key=lambda row: row.rate)
    return {
        "one core": rows[0].rate / alone.rate,
        "two cores": rows[1].rate / max(row.rate for row in peers),
        "end to end": min(s for name, s in whole.items() if "SPIN" in name) / whole["mmuwitness"],
        "bytes": rows[0].bytes_per_state / alone.bytes_per_state,
    }


def main() -> None:
    if "--threads" in sys.argv:
        threads = int(sys.argv[sys.argv.index("--threads") + 1])
        explore_here(threads, QUICK not in sys.argv, LARGEST in sys.argv)
        return
    with tempfile.TemporaryDirectory() as directory:
        rows, whole = measure(Path(directory))
    with tempfile.TemporaryDirectory() as directory:
        largest = reduced(Path(directory))
    found = ratios(rows, whole)
    found["reduced"] = largest[1].median("wall") / largest[0].median("wall")
    if "--json" in sys.argv:
        table = [asdict(row) | {"command": None, "directory": None} for row in rows]
        print(json.dumps({"rows": table, "end_to_end": whole, "ratios": found}))
        return
    print_rows(rows)
    print("\nend to end: " + ", ".join(f"{name} {value:.2f} s" for name, value in whole.items()))
    print(f"\n{LARGEST}, from the start of the process to the verdict:")
    for row in largest:
        print(f"{row.name:24}{row.counts[0]:>12,} states {row.median('wall'):8.2f} s")
    for name, value in found.items():
        floor = f"at least {FLOORS[name]:.0f}" if name in FLOORS else "at most 1"
        print(f"{name:12} {value:5.1f} x SPIN ({floor})")


def print_rows(rows: list[Row]) -> None:
    print(f"{rows[0].counts[0]:,} states, {rows[0].counts[1]:,} steps")
    print(f"{'':24}cores  M states/s  wall s   CPU s  bytes/state  disturbed runs")
    for row in rows:
        times = f"{row.median('seconds'):7.2f} {row.median('cpu_seconds'):7.2f}"
        disturbed = f"{sum(run.disturbed for run in row.runs)} of {RUNS}" if row.told else "?"
        rate, size = row.rate / 1e6, row.bytes_per_state
        print(f"{row.name:24}{row.cores:5} {rate:11.2f} {times} {size:12.0f} {disturbed:>15}")


if __name__ == "__main__":
    main()
