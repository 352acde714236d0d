"""`export --perfetto`: a trace's windows and faults for ui.perfetto.dev.

    About this trace        what it is, and whether its times are those of an emulated CPU
    Windows                 a track per task: each window a slice named by its cause, in it an
                            instant per SPTE that it zapped
    VM 0                    a track per vCPU: each fault a slice
        zaps, not by windows
        windows open, SPTEs, and mmu_invalidate_in_progress and _seq as probes read them

An arrow leads from a zap to the fault (or prefetch, or change_pte) that mapped the page again.
Times are the trace's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mmuwitness.report.perfetto_counters import Counters
from mmuwitness.report.perfetto_details import fault_details, window_details, zap_details
from mmuwitness.report.perfetto_lanes import Lanes, Mark
from mmuwitness.report.perfetto_writer import Details, Hex, PerfettoWriter, Value, hexadecimal
from mmuwitness.trace.audit.change_pte import Change
from mmuwitness.trace.audit.faults import Fault, Outcome, Zap
from mmuwitness.trace.audit.follow import COLUMNS, Follower
from mmuwitness.trace.audit.span import Span
from mmuwitness.trace.events import Loss, Trace, TraceError
from mmuwitness.trace.facts import Fact, FactReader
from mmuwitness.trace.tracepoints import Kind
from mmuwitness.trace.windows import Window, records_slots, records_zaps

NO_FACT = Fact(0, 0, 0, 0, "", None, 0)
VCPU_RANK, ZAP_RANK = 1, 2
ARROWS_SPARE = 4096
EMULATED = "times are those of an emulated CPU: order and causes are real, durations are not"


@dataclass
class Exported:
    """What was written."""

    windows: int = 0
    faults: int = 0
    arrows: int = 0
    tracks: int = 0
    complete: bool = True
    notes: tuple[str, ...] = ()


def check_output(trace: str, path: Path) -> None:
    """ValueError if the trace of this name is not to be written there, before it is opened."""
    if path.exists() and Path(trace).exists() and path.samefile(trace):
        raise ValueError(f"{path}: is the trace itself: give another name to --perfetto")
    if not path.parent.is_dir():
        raise ValueError(f"{path}: cannot be written: {path.parent} is no directory")


def export_perfetto(trace: Trace, path: Path) -> Exported:
    """Write the trace's windows and faults to `path`. TraceError if it cannot be read at all."""
    reader = FactReader(columns=(*COLUMNS, "seq"))
    try:
        with path.open("wb") as file:
            exporter = Exporter(reader, PerfettoWriter(file))
            reader.kinds = exporter.kinds
            exporter.read(trace)
    except TraceError:
        if path.is_file():  # what it holds of a trace that cannot be read looks like all there is
            path.unlink()
        raise
    except OSError as error:
        raise ValueError(f"{path}: cannot be written: {error.strerror}") from error
    done = exporter.done
    done.tracks = exporter.writer.tracks
    done.complete, done.notes = trace.complete and not trace.lost, tuple(trace.notes)
    return done


class Exporter(Follower):
    """Follows a trace and writes what it finds as it is found."""

    def __init__(self, reader: FactReader, writer: PerfettoWriter) -> None:
        super().__init__(reader, self)
        self.writer = writer
        self.done = Exported()
        self.counters = Counters(writer, self._vm_track)
        self.handlers[Kind.UNMAP_GFN] = self.handlers[Kind.STAGE2_UNMAP] = self._unmap
        for kind, handler in self.handlers.items():
            self.handlers[kind] = partial(self._see, handler)
        self._fact = NO_FACT
        self._about = writer.track("About this trace")
        self._losses = 0  # its track, once there are any
        self._by_task = writer.track("Windows")
        self._lanes: dict[int, Lanes] = {}
        self._vm_tracks: dict[int | None, int] = {}
        self._tracks: dict[tuple[int | None, str], int] = {}
        self._arrows: dict[Zap, tuple[int, int]] = {}  # of zaps that are not mapped again
        self._zaps = 0
        self._fault_arrow: dict[Fault, int] = {}
        self._last_fault: Fault | None = None
        self._open: dict[Window, list[tuple[int | None, str]]] = {}  # where they are counted

    def read(self, trace: Trace) -> None:
        """The whole trace."""
        self._write_about(trace, self.follow(trace))

    def _see(self, handler: Callable[[Fact], None], fact: Fact) -> None:
        """Follow this fact, and write what it counts."""
        self._fact = fact
        before = len(self.faults.mapped)
        handler(fact)
        self._readings(fact)
        self._count_sptes(fact, len(self.faults.mapped) - before)

    # the trace

    def _write_about(self, trace: Trace, span: Span) -> None:
        """One slice from the first event to the last: what the trace is."""
        told = {True: EMULATED, False: "durations are those of hardware", None: "too few to tell"}
        details: dict[str, Value] = {
            "file": trace.path,
            "format": trace.format,
            "kernel": trace.release,
            "clock": trace.clock,
            "unit of times": "ticks of that clock" if trace.clock == "ticks" else "ns",
            "durations": told[span.emulated],
            "complete": trace.complete and not trace.lost,
            "events lost": trace.lost,
            "notes": list(trace.notes) or None,
            "MMU": self.dialect.mmu,
            "VMs": [f"{n}: {pointer:#x}" for pointer, n in self.windows.vms.items()]
            or "not told apart",
        }
        name = Path(trace.path).name + (", emulated: no measure of time" if span.emulated else "")
        self.writer.begin(self._about, span.start, name, details)
        self.writer.end(self._about, span.end)

    def lost(self, loss: Loss, time: int) -> None:
        """Events are missing here: said so on a track of its own."""
        super().lost(loss, time)
        if not self._losses:
            self._losses = self.writer.track("Events lost")
        count = "number not known" if loss.count is None else f"{loss.count:,}"
        cpu = "" if loss.cpu is None else f", CPU {loss.cpu}"
        self.writer.instant(self._losses, time, f"events lost: {count}{cpu}")

    # windows

    def _start(self, fact: Fact) -> None:
        super()._start(fact)
        task = self.windows.task(fact.pid)
        window = task.window
        if window is not None and window.row == fact.row:
            self._lanes_of(fact.pid, fact.task).open(window, self.windows.has_ends)
        in_kvm = fact.kind in (Kind.KVM_START, Kind.UNMAP_HVA)
        if not in_kvm or window is None or records_slots(self.reader.counts):
            return
        if self.windows.has_ends:
            self._count_open(window, self._vm_of(fact), "windows open")

    def _unmap(self, fact: Fact) -> None:
        self.faults.unmap_gfn(fact)
        window = self.windows.task(fact.pid).window
        if window is not None and window.closed is None and self.windows.has_ends:
            self._count_open(window, self._vm_of(fact), "windows open over memslots")

    def _lanes_of(self, pid: int, task: str) -> Lanes:
        if (lanes := self._lanes.get(pid)) is None:
            name = f"{task} {pid}"
            lanes = self._lanes[pid] = Lanes(
                self.writer, lambda: self.writer.track(name, self._by_task), self._describe
            )
        return lanes

    def _window_end(self, fact: Fact) -> None:
        task = self.windows.task(fact.pid)
        begun = [*task.open]
        if task.last is not None and task.last.closed is None:
            begun.append(task.last)
        super()._window_end(fact)
        for window in begun:
            if window.closed is not None:
                self._lanes[fact.pid].close(window, fact.time)
                self._count_closed(window)

    def window(self, window: Window) -> None:
        """All is known of a window but the refaults of what it zapped."""
        self.done.windows += 1
        self._count_closed(window)
        self._lanes[window.pid].settle(window, self._fact.time)

    def _describe(self, window: Window) -> tuple[str, Details]:
        """Its name and details, as far as known."""
        cause = window.verdict.cause if window.verdict else self.windows.cause(window)
        return str(cause), window_details(window, cause)

    # SPTEs

    def zap(self, zap: Zap, window: Window | None) -> None:
        """An SPTE is gone; None: outside of all windows."""
        self._zaps += 1
        self._arrows[zap] = self._zaps, self._fact.pid
        details = zap_details(zap)
        if window is None:
            track = self._track(self._vm(self._fact.pid), "zaps, not by windows", ZAP_RANK)
            self.writer.instant(track, zap.time, "zap", details, starts=self._zaps)
        else:
            mark = Mark(window, zap.time, "zap", details, starts=self._zaps)
            self._lanes[window.pid].mark(mark)
        if len(self._arrows) > 2 * len(self.faults.pending) + ARROWS_SPARE:
            # Zapped again before it was seen mapped: its refault will be the later zap's.
            known = set(self.faults.pending.values()) | {zap}
            self._arrows = {each: it for each, it in self._arrows.items() if each in known}

    def refault(self, zap: Zap, pfn: int | None, time: int, fault: Fault | None) -> None:
        """It is back; None: not by a fault for this page (prefetch, change_pte)."""
        arrow, pid = self._arrows.pop(zap, (0, 0))
        if arrow:
            self.done.arrows += 1
        if arrow and time == zap.time:
            self._write_at_once(pid)  # the arrow's start comes first
        if fault is not None:
            self._fault_arrow[fault] = arrow
            return
        task = self.windows.task(self._fact.pid)
        by = "change_pte" if task.change is not None else "prefetch, or another fault"
        details: Details = {
            "gfn": Hex(zap.gfn),
            "pfn": hexadecimal(pfn),
            "by": by,
            "zapped by": str(zap.tag.cause),
            "ns since the zap": time - zap.time,
        }
        mark = Mark(task.window, time, "mapped again", details, ends=arrow)
        self._lanes_of(self._fact.pid, self._fact.task).mark(mark)

    def _write_at_once(self, pid: int) -> None:
        if pid in self._lanes:
            self._lanes[pid].write(at_once=True)

    # faults

    def _vm_track(self, vm: int | None) -> int:
        if vm not in self._vm_tracks:
            name = "VM not known" if vm is None else f"VM {vm}"
            self._vm_tracks[vm] = self.writer.track(name)
        return self._vm_tracks[vm]

    def _track(self, vm: int | None, name: str, rank: int) -> int:
        if (vm, name) not in self._tracks:
            self._tracks[vm, name] = self.writer.track(name, self._vm_track(vm), rank)
        return self._tracks[vm, name]

    def _page_fault(self, fact: Fact) -> None:
        before = self.windows.task(fact.pid).fault
        super()._page_fault(fact)
        if before is not None and before is not self._last_fault:
            self.fault(before)  # nothing told how it ended

    def fault(self, fault: Fault) -> None:
        """A fault has ended."""
        self.done.faults += 1
        self._last_fault = fault
        who = f"{fault.task} {fault.pid}"
        name = f"thread {who}" if fault.vcpu is None else f"vCPU {fault.vcpu}, {who}"
        track = self._track(self._vm(fault.pid), name, VCPU_RANK)
        arrow = self._fault_arrow.pop(fault, 0)
        zap = fault.refault_of
        details = fault_details(fault)
        name = f"fault, {fault.outcome}"
        if zap is not None:
            name = f"refault after {zap.tag.cause}"
        elif fault.outcome is Outcome.RETRY:
            name = f"retry because of {fault.cause}"
        early = zap is None or zap.time < fault.time
        # Ended because the next one begins: its own end, or that of the exit, is not recorded.
        cut = self._fact.kind == Kind.PAGE_FAULT and fault.ended == self._fact.time
        if fault.ended is None or (cut and early):
            details = {**details, "end": "not recorded"}
            self.writer.instant(track, fault.time, name, details, ends=arrow)
            return
        self.writer.begin(track, fault.time, name, details, arrow if early else 0)
        self.writer.end(track, fault.ended, arrow=0 if early else arrow)

    def change_pte(self, change: Change) -> None:
        """A change_pte() has ended: windows tell their effects."""

    # counters

    def _readings(self, fact: Fact) -> None:
        for name, value in (("in_progress", fact.in_progress), ("seq", fact.seq)):
            if value is not None:
                self.counters.set(self._vm_of(fact), f"mmu_invalidate_{name}", fact.time, value)

    def _count_open(self, window: Window, vm: int | None, name: str) -> None:
        vms = self._open.setdefault(window, [])
        if (vm, name) not in vms:
            vms.append((vm, name))
            self.counters.add(vm, name, self._fact.time, 1)

    def _count_closed(self, window: Window) -> None:
        for vm, name in self._open.pop(window, ()):
            self.counters.add(vm, name, self._fact.time, -1)

    def _count_sptes(self, fact: Fact, mapped: int) -> None:
        """How many more leaves there are: by the tracepoint, or as they are followed without it."""
        if fact.kind == Kind.SPTE_CHANGED:
            level = fact.level or 1
            was = self.dialect.leaf(fact.old or 0, level)
            mapped = self.dialect.leaf(fact.new or 0, level) - was
        elif not records_zaps(self.reader.counts):
            return
        if mapped:
            self.counters.add(self._vm(fact.pid), "SPTEs", fact.time, mapped)

    def _vm(self, pid: int) -> int | None:
        """The VM that a task is busy with; None: there are several, and no telling."""
        window = self.windows.task(pid).window
        if window is not None and window.closed is None and window.vms:
            return window.tag.vm
        return self.faults.task_vm.get(pid, 0 if len(self.windows.vms) <= 1 else None)

    def _vm_of(self, fact: Fact) -> int | None:
        pointer = fact.vm if fact.mn is None else fact.mn
        return self.windows.vms[pointer] if pointer in self.windows.vms else self._vm(fact.pid)
