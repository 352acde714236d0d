"""What the audit counts: per cause, VM, vCPU, page, step and over time."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from mmuwitness.trace.audit.change_pte import Change, Effect
from mmuwitness.trace.audit.faults import Fault, Outcome, Zap
from mmuwitness.trace.audit.series import Distribution, Timeline
from mmuwitness.trace.causes import Cause, Confidence
from mmuwitness.trace.facts import Fact, FactReader
from mmuwitness.trace.tracepoints import Kind
from mmuwitness.trace.windows import Window, records_slots, records_zaps

STEPS_MAX = 10_000
GFNS_MAX = 1_000_000
POINTS_MAX = 200_000
MARK_CHARS_MAX = 200


@dataclass
class CauseTotals:
    """Of all windows of one cause. `None` among the faults: the trace does not tell."""

    windows: int = 0
    pages: int = 0
    in_slot: int = 0
    outside_slots: int = 0
    slot_unknown: int = 0
    pages_unknown: int = 0  # of those
    zapped: int = 0  # SPTEs
    zapped_at_least: bool = False
    zapped_unknown: int = 0  # windows
    empty: int = 0  # windows that zapped nothing
    refaults: int = 0
    refaults_same: int = 0  # the same page frame as before
    refaults_other: int = 0
    refaults_free: int = 0  # mapped again without a fault for it: prefetch, change_pte
    retries_own: int = 0  # the window of the fault's own task
    retries_other: int = 0
    overlapped: int = 0  # windows that began while another was open
    confidence: Counter[Confidence] = field(default_factory=Counter)
    why: Counter[str] = field(default_factory=Counter)
    change_pte: Counter[Effect] = field(default_factory=Counter)
    duration: Distribution = field(default_factory=Distribution)
    refault_after: Distribution = field(default_factory=Distribution)

    @property
    def exits(self) -> int:
        """Exits of guests that it cost: pages faulted back, and faults that had to retry."""
        return self.refaults - self.refaults_free + self.retries_own + self.retries_other


@dataclass
class Step:
    """From one line that user space wrote into the trace to the next."""

    text: str
    time: int
    exits: int = 0
    faults: Counter[Outcome] = field(default_factory=Counter)
    windows: Counter[Cause] = field(default_factory=Counter)
    zapped: int = 0


@dataclass
class Vcpu:
    """A guest's processor."""

    task: str
    pid: int
    number: int | None
    exits: int = 0
    faults: Counter[Outcome] = field(default_factory=Counter)
    caused: int = 0  # exits that windows cost it


class Totals:
    """Listens to a Follower and counts."""

    def __init__(self, reader: FactReader) -> None:
        self.reader = reader
        self.causes: dict[Cause, CauseTotals] = {}
        self.vms: dict[int, Counter[Cause]] = {}
        self.vcpus: dict[int, Vcpu] = {}
        self.steps: list[Step] = []
        self.exits = Counter[str]()  # by reason
        self.faults = Counter[Outcome]()
        self.faults_inferred = 0  # retries that no return code tells
        self.fault_time = Distribution()
        self.elsewhere = 0  # windows that reached no VM
        self.event_types = Counter[int]()  # enum mmu_notifier_event, of all windows
        self.zapped_elsewhere = 0  # SPTEs, outside of all windows
        self.migrated: Counter[str] = Counter()  # pages, by reason
        self.gfns: Counter[tuple[int, int]] = Counter()  # zaps and retries of (VM, gfn)
        self.timeline = Timeline()
        self.point_times, self.point_gfns = array("q"), array("Q")
        self.point_every = 1
        self._points = 0
        self._step_times: list[int] = []

    def of(self, cause: Cause) -> CauseTotals:
        """The totals of a cause."""
        if (totals := self.causes.get(cause)) is None:
            totals = self.causes[cause] = CauseTotals()
        return totals

    # called by the follower

    def window(self, window: Window) -> None:
        """All is known of a window but the refaults of what it zapped."""
        counts = self.reader.counts
        if window.event_type is not None:
            self.event_types[window.event_type] += 1
        in_kvm = window.in_kvm or window.tracepoints
        if not in_kvm and (counts[Kind.KVM_START] or counts[Kind.UNMAP_HVA]):
            self.elsewhere += 1
            return
        cause = window.tag.cause
        totals = self.of(cause)
        totals.windows += 1
        totals.pages += window.pages
        totals.in_slot += window.in_slot is True
        totals.outside_slots += window.in_slot is False
        if window.in_slot is None:
            totals.slot_unknown += 1
            totals.pages_unknown += window.pages
        if window.zapped is None:
            totals.zapped_unknown += 1
        else:
            totals.zapped += window.zapped
            totals.empty += window.zapped == 0
            totals.zapped_at_least |= window.at_least
        totals.retries_own += window.retries_own
        totals.retries_other += window.retries_other
        totals.change_pte.update(window.effects)
        totals.overlapped += window.overlaps > 0
        totals.duration.add(window.duration)
        if window.verdict is not None:
            totals.confidence[window.verdict.confidence] += 1
            totals.why[window.verdict.why] += 1
        for vm in set(window.vms) or {0}:
            self.vms.setdefault(vm, Counter())[cause] += 1
        self.timeline.add(window.opened, "window", cause)
        if (step := self._step(window.opened)) is not None:
            step.windows[cause] += 1
            step.zapped += window.zapped or 0

    def zap(self, zap: Zap, window: Window | None) -> None:
        """An SPTE is gone."""
        if window is None:
            self.zapped_elsewhere += 1
            self.of(zap.tag.cause).zapped += 1
            return
        self._hot(zap.tag.vm, zap.gfn)
        if self._points % self.point_every == 0:
            self.point_times.append(zap.time)
            self.point_gfns.append(zap.gfn)
            if len(self.point_times) >= POINTS_MAX:
                self.point_times = self.point_times[::2]
                self.point_gfns = self.point_gfns[::2]
                self.point_every *= 2
        self._points += 1

    def refault(self, zap: Zap, pfn: int | None, time: int, fault: Fault | None) -> None:
        """It is back."""
        totals = self.of(zap.tag.cause)
        totals.refaults += 1
        totals.refaults_free += fault is None
        if pfn is not None and zap.pfn is not None:
            totals.refaults_same += pfn == zap.pfn
            totals.refaults_other += pfn != zap.pfn
        totals.refault_after.add(time - zap.time)
        self.timeline.add(time, "refault", zap.tag.cause)
        if fault is not None:
            self._vcpu(fault.pid, fault.task, fault.vcpu).caused += 1

    def fault(self, fault: Fault) -> None:
        """A fault has ended."""
        self.faults[fault.outcome] += 1
        self.faults_inferred += fault.inferred
        if fault.ended is not None:
            self.fault_time.add(fault.ended - fault.time)
        vcpu = self._vcpu(fault.pid, fault.task, fault.vcpu)
        vcpu.faults[fault.outcome] += 1
        if (step := self._step(fault.time)) is not None:
            step.faults[fault.outcome] += 1
        if fault.outcome is not Outcome.RETRY:
            return
        self.timeline.add(fault.time, "retry", fault.cause)
        vcpu.caused += fault.culprit is not None
        if fault.culprit is None or fault.culprit.verdict is not None:
            totals = self.of(fault.cause)  # else its window brings it along
            totals.retries_own += fault.culprit is not None and fault.culprit is fault.own
            totals.retries_other += fault.culprit is None or fault.culprit is not fault.own
        if fault.gfn is not None:
            self._hot(fault.vm, fault.gfn)

    def change_pte(self, change: Change) -> None:
        """A change_pte() has ended."""
        if change.window is None or change.window.verdict is not None:
            cause = Cause.UNKNOWN if change.window is None else change.window.tag.cause
            self.of(cause).change_pte[change.effect] += 1

    # called by the audit

    def exit(self, table: pl.DataFrame) -> None:
        """Guests' exits: facts of that kind, no older than those followed."""
        groups = table.group_by("pid", "task", "vcpu", "reason").len()
        for pid, task, vcpu, reason, count in groups.iter_rows():
            self.exits[reason or "unknown"] += count
            self._vcpu(pid, task, vcpu).exits += count
        starts = np.searchsorted(self._step_times, table["time"].to_numpy(), side="right")
        for index, count in zip(*np.unique(starts, return_counts=True), strict=True):
            if index > 0:
                self.steps[index - 1].exits += int(count)

    def mark(self, fact: Fact) -> None:
        """User space wrote into the trace."""
        if len(self.steps) < STEPS_MAX:
            self.steps.append(Step((fact.text or "")[:MARK_CHARS_MAX].strip(), fact.time))
            self._step_times.append(fact.time)

    def migrate(self, fact: Fact) -> None:
        """mm_migrate_pages: how many pages."""
        self.migrated[fact.reason or "unknown"] += fact.ret or 0

    def finish(self) -> None:
        """The trace is over: what it records by now, early windows did not have."""
        for totals in self.causes.values():
            if records_slots(self.reader.counts):
                totals.outside_slots += totals.slot_unknown
                totals.pages -= totals.pages_unknown
                totals.slot_unknown = totals.pages_unknown = 0
            if records_slots(self.reader.counts) or records_zaps(self.reader.counts):
                totals.empty += totals.zapped_unknown
                totals.zapped_unknown = 0

    def _step(self, time: int) -> Step | None:
        if not self.steps:
            return None
        if time >= self._step_times[-1]:
            return self.steps[-1]
        index = bisect_right(self._step_times, time) - 1
        return self.steps[index] if index >= 0 else None

    def _vcpu(self, pid: int, task: str, number: int | None) -> Vcpu:
        if (vcpu := self.vcpus.get(pid)) is None:
            vcpu = self.vcpus[pid] = Vcpu(task, pid, number)
        return vcpu

    def _hot(self, vm: int, gfn: int) -> None:
        if len(self.gfns) >= GFNS_MAX:
            self.gfns = Counter({page: count for page, count in self.gfns.items() if count > 1})
        self.gfns[vm, gfn] += 1
