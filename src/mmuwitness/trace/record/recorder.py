"""Record a trace on the running kernel: through an instance of tracefs of its own, removed after.

Whatever happens, everything that was made is removed: an error, SIGINT, SIGTERM, SIGHUP, a command
that fails. What a killed recorder (SIGKILL) leaves is known by its name and removed by the next
one.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from mmuwitness.trace.record.host import Host
from mmuwitness.trace.record.pieces import STACK, Pieces, header_text, merge
from mmuwitness.trace.record.plan import NAME, Plan, Step, make_plan
from mmuwitness.trace.record.tracefs import RecordError, Tracefs

REMOVE_TRIES = 20
WAIT_SECONDS = 0.05
TERMINATE_SECONDS = 5.0
MADE = re.compile(rf"{NAME}-(\d+)")
PROBE = re.compile(rf"^\w+:({NAME}_(\d+)/\S+)", re.MULTILINE)
STAT = re.compile(r"^(overrun|commit overrun|dropped events|read events): (\d+)$", re.MULTILINE)
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
NOT_TEXT = {".dat", ".gz", ".xz", ".bz2"}

Say = Callable[[str], None]


@dataclass
class Recorded:
    path: Path
    events: Counter[str]
    stacks: int
    lost: int  # events that the buffers did not hold
    missed: int  # probes that could not fire
    seconds: float
    status: int | None  # of the command; None: there was none
    ended_by: str  # "", or the signal
    notes: list[str] = field(default_factory=list)


@dataclass
class Stop:
    """Which signal asks to end; "" while none does."""

    signal: str = ""


@contextmanager
def signals_held() -> Iterator[Stop]:
    """Signals that end a program are only noted, so that nothing is left half done."""
    stop = Stop()

    def note(number: int, _: Any) -> None:
        stop.signal = signal.Signals(number).name

    before = {number: signal.signal(number, note) for number in ENDING}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def record(
    host: Host,
    out: Path,
    command: Sequence[str],
    *,
    probes: str = "stock",
    pid: int | None = None,
    say: Say = lambda text: None,
) -> Recorded:
    """Records until the command ends, or until SIGINT. RecordError says what cannot be done."""
    tracefs = host.tracefs
    assert tracefs, "recording needs tracefs"
    check_out(out)
    pieces = None
    with signals_held() as stop:
        try:
            notes = clean(tracefs, host.is_running)
            plan = make_plan(host, str(os.getpid()), probes, pid)
            notes += plan.notes + set_up(tracefs, plan, stop)
            pieces = Pieces(tracefs, plan.instance, out)
            kernels_header = tracefs.read(f"{plan.instance}/trace")
            begin = time.monotonic()
            with pieces.reading():
                carry_out(tracefs, plan.last_step)
                status = run(command, stop, pieces, say)
                tracefs.write(f"{plan.instance}/tracing_on", "0")
                seconds = time.monotonic() - begin
            lost, read = read_stats(tracefs, plan.instance)
            missed = read_missed(tracefs, plan)
        except OSError as error:
            raise failure(tracefs, error, "recording failed", pieces) from error
        finally:
            remove(tracefs, os.getpid())
    if pieces.failed:
        raise failure(tracefs, pieces.failed, "what was read could not be kept", pieces)
    remarks = [
        f"recorded by {NAME}: kernel {host.release} {host.machine}, clock {plan.clock}",
        f"probes {probes}, {'process ' + str(pid) if pid else 'all processes'}",
    ]
    events = write_out(out, pieces, header_text(kernels_header, remarks, read), lost, say)
    stacks = events.pop(STACK, 0)
    notes += doubts(plan, events, stacks, read)
    total = sum(lost.values())
    return Recorded(out, events, stacks, total, missed, seconds, status, stop.signal, notes)


def check_out(out: Path) -> None:
    if out.suffix in NOT_TEXT:
        raise RecordError(f"{out}: text is recorded: name it .txt, or .zst to compress it")
    if out.exists():
        raise RecordError(f"{out}: exists already: give another --out, or remove it")
    if not out.parent.is_dir():
        raise RecordError(f"{out}: there is no directory {out.parent}")


def failure(tracefs: Tracefs, error: OSError, what: str, pieces: Pieces | None) -> RecordError:
    where = f"{error.filename}: " if error.filename else ""
    kept = [str(path) for path in pieces.paths if path.exists()] if pieces else []
    rest = f"; what was read is kept in {', '.join(kept)}" if kept else ""
    return RecordError(f"{where}{what}: {tracefs.why(error)}{rest}")


def set_up(tracefs: Tracefs, plan: Plan, stop: Stop) -> list[str]:
    """All steps but the last, which begins the recording. What the kernel refused is told."""
    notes, accepted, refused = [], set[str](), 0
    for step in plan.steps():
        if stop.signal:
            raise RecordError(f"ended by {stop.signal} before anything was recorded")
        try:
            carry_out(tracefs, step)
            accepted.add(step.what.partition(" ")[0])
        except OSError as error:
            if step.needed:
                raise
            if step.what != "probes" or refused < len(plan.probes):
                notes.append(f"without {step.what}: {tracefs.why(error)}")
            refused += step.path == "kprobe_events"
    if not accepted & {"event", "probes"}:
        raise RecordError(f"{tracefs.root}: no event could be enabled: " + "; ".join(notes))
    return notes


def carry_out(tracefs: Tracefs, step: Step) -> None:
    if step.text is None:
        tracefs.make(step.path)
    else:
        tracefs.write(step.path, step.text)


def run(command: Sequence[str], stop: Stop, pieces: Pieces, say: Say) -> int | None:
    """Waits for the command, or for a signal. None if there is no command."""
    child = start(command) if command else None
    reported = time.monotonic()
    try:
        while not stop.signal and not pieces.failed and (child is None or child.poll() is None):
            time.sleep(WAIT_SECONDS)
            if time.monotonic() - reported > 1:
                reported = time.monotonic()
                say(f"recording, {pieces.size_bytes() / 1e6:,.1f} MB; Ctrl-C ends it")
    finally:
        if child:
            end(child)
    return child.returncode if child else None


def start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(command)
    except OSError as error:
        raise RecordError(f"{command[0]}: cannot be run: {error.strerror}") from error


def end(child: subprocess.Popen[bytes]) -> None:
    """It has ended, or is asked to, or is made to."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(TERMINATE_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def read_stats(tracefs: Tracefs, instance: str) -> tuple[dict[int, int], int]:
    """What each processor's buffer lost, and how much was read from all."""
    lost, read = {}, 0
    for name in tracefs.names(f"{instance}/per_cpu"):
        said = Counter[str]()
        for what, number in STAT.findall(tracefs.read(f"{instance}/per_cpu/{name}/stats")):
            said[what] += int(number)
        read += said.pop("read events", 0)
        lost[int(name.removeprefix("cpu"))] = said.total()
    return lost, read


def read_missed(tracefs: Tracefs, plan: Plan) -> int:
    """How often a probe could not fire, by the third column of kprobe_profile."""
    if not plan.probes:
        return 0
    mine = {line.event for line in plan.probes}
    rows = (line.split() for line in tracefs.read("kprobe_profile").splitlines())
    return sum(int(row[2]) for row in rows if len(row) == 3 and row[0] in mine)


def remove(tracefs: Tracefs, pid: int) -> None:
    """Everything that recorder made, as far as it got. RecordError if something stays."""
    for left in range(REMOVE_TRIES, -1, -1):
        try:
            remove_instance(tracefs, f"instances/{NAME}-{pid}")
            remove_probes(tracefs, pid)
        except OSError as error:
            if not left:
                raise RecordError(
                    f"{error.filename or tracefs.root}: cannot be removed: {tracefs.why(error)}: "
                    "try `mmuwitness record --clean` later"
                ) from error
            time.sleep(WAIT_SECONDS if error.errno == errno.EBUSY else 0)
        else:
            return


def remove_instance(tracefs: Tracefs, path: str) -> None:
    if not tracefs.has(path):
        return
    # Removing it does this, too; but if somebody reads from it, it stays, and then it is quiet.
    tracefs.write(f"{path}/events/enable", "0")
    tracefs.remove(path)  # and its triggers with it


def remove_probes(tracefs: Tracefs, pid: int) -> None:
    if not tracefs.has("kprobe_events"):
        return
    for probe, of in PROBE.findall(tracefs.read("kprobe_events")):
        if int(of) == pid:
            tracefs.write("kprobe_events", f"-:{probe}")


def clean(tracefs: Tracefs, is_running: Callable[[int], bool]) -> list[str]:
    """Removes what recorders left that run no more. A sentence for each that there was."""
    matches = (MADE.fullmatch(name) for name in tracefs.names("instances"))
    pids = {int(match[1]) for match in matches if match}
    if tracefs.has("kprobe_events"):
        pids |= {int(of) for _, of in PROBE.findall(tracefs.read("kprobe_events"))}
    notes = []
    for pid in sorted(pids):
        if pid != os.getpid() and is_running(pid):
            notes.append(f"process {pid} records too: what it made in {tracefs.root} is left alone")
        else:
            remove(tracefs, pid)
            notes.append(f"removed what recorder {pid}, which runs no more, left in {tracefs.root}")
    return notes


def write_out(
    out: Path, pieces: Pieces, header: str, lost: Mapping[int, int], say: Say
) -> Counter[str]:
    """Merges the pieces, and removes them when all is written."""

    def progress(number: int) -> None:
        say(f"merging, {number:,} events")

    try:
        with out.open("xb") as raw, compressed(out, raw) as file:
            events = merge(pieces.paths, header, lost, file, progress)
    except OSError as error:
        kept = ", ".join(map(str, pieces.paths))
        raise RecordError(f"{out}: {error.strerror}; what was read is kept in {kept}") from error
    pieces.remove()
    return events


@contextmanager
def compressed(out: Path, raw: IO[bytes]) -> Iterator[IO[bytes]]:
    if out.suffix != ".zst":
        yield raw
        return
    import zstandard

    with zstandard.ZstdCompressor().stream_writer(raw, closefd=False) as writer:
        yield cast(IO[bytes], writer)


def doubts(plan: Plan, events: Counter[str], stacks: int, read: int) -> list[str]:
    """What a reader of the trace must know that the events do not say."""
    notes = []
    written = sum(events.values()) + stacks
    if read != written:
        notes.append(f"the kernel says that {read:,} events were read, the file has {written:,}")
    with_stack = [path for path in plan.stacks if events[path.partition("/")[2]]]
    if with_stack and not stacks:
        notes.append(
            # Until commit ce33c845b030 ("tracing: Dump stacktrace trigger to the corresponding
            # instance") in v5.18, a trigger puts them into the buffer of the top level.
            "no stack was recorded, as by kernels before v5.18 (ce33c845b030): causes are known "
            "only from tasks, and with --pid from system calls; trace-cmd, see --how, gets stacks"
        )
    return notes
