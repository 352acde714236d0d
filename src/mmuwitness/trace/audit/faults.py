"""SPTEs and guests' faults: what a window zapped, who faulted it back, who had to retry and why.

A fault begins with its tracepoint (kvm_page_fault, kvm_guest_fault) and ends with the return of its
handler or, without that probe, with the next entry into the guest. A fault that installed nothing
and came back for the same page was a retry, recorded or not.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from mmuwitness.trace.audit.change_pte import Change
from mmuwitness.trace.causes import Cause
from mmuwitness.trace.facts import Fact, FactReader
from mmuwitness.trace.kernel import Dialect
from mmuwitness.trace.tracepoints import Kind
from mmuwitness.trace.windows import PAGE_SHIFT, Tag, Task, Window, Windows, records_slots

HUGE_PAGES = 512  # of a level-2 leaf with 4K pages
PENDING_MAX = 4_000_000
VM_SHIFT = 52


class Outcome(StrEnum):
    """How a guest's fault ended."""

    FIXED = "mapped"
    FAST = "fixed without the lock"
    RETRY = "retried"
    SPURIOUS = "spurious"
    OTHER = "to user space, or emulated"
    UNKNOWN = "unknown"


@dataclass(slots=True, eq=False)
class Fault:
    """A guest's fault. Times are ns."""

    row: int
    time: int
    pid: int
    task: str
    vcpu: int | None
    gfn: int | None
    error_code: int | None
    hva: int | None = None
    pfn: int | None = None
    installed: bool = False
    fast: bool = False
    spurious: bool = False
    own: Window | None = None  # the last window that its own task opened inside it
    ended: int | None = None
    outcome: Outcome = Outcome.UNKNOWN
    inferred: bool = False  # a retry by its coming back, not by its return code
    culprit: Window | None = None  # of a retry
    cause: Cause = Cause.UNKNOWN  # of a retry, as far as known at its time
    vm: int = 0
    refault_of: Zap | None = None


@dataclass(slots=True, eq=False)
class Zap:
    """An SPTE that was zapped and whose page was not mapped since."""

    tag: Tag
    time: int
    gfn: int
    pfn: int | None  # None: not known
    level: int


class Listener(Protocol):
    """Who is told what was found, as it is found."""

    def window(self, window: Window) -> None:
        """All is known of a window but the refaults of what it zapped."""

    def zap(self, zap: Zap, window: Window | None) -> None:
        """An SPTE is gone; None: outside of all windows."""

    def refault(self, zap: Zap, pfn: int | None, time: int, fault: Fault | None) -> None:
        """It is back; None: not by a fault for this page (prefetch, change_pte)."""

    def fault(self, fault: Fault) -> None:
        """A fault has ended."""

    def change_pte(self, change: Change) -> None:
        """A change_pte() has ended."""


class Faults:
    """Follows SPTEs and faults of all tasks."""

    def __init__(
        self, reader: FactReader, dialect: Dialect, windows: Windows, listener: Listener
    ) -> None:
        self.reader, self.dialect, self.windows = reader, dialect, windows
        self.listener = listener
        self.pending: dict[int, Zap] = {}
        self.mapped: dict[int, tuple[int | None, int]] = {}
        """pfn and level of each gfn seen mapped, where the trace does not tell what a zap found."""
        self.task_vm: dict[int, int] = {}
        self._waiting: dict[int, Fault] = {}
        """Of each task, the last fault that came back to the guest with nothing installed."""
        self.forgotten = 0

    # SPTEs

    def spte_changed(self, fact: Fact) -> None:
        """kvm_tdp_mmu_spte_changed: any change of any SPTE."""
        dialect, old, new = self.dialect, fact.old or 0, fact.new or 0
        level, gfn = fact.level or 1, fact.gfn or 0
        was, now = dialect.leaf(old, level), dialect.leaf(new, level)
        if not (was or now):
            return
        task = self.windows.task(fact.pid)
        if task.change is not None:
            task.change.spte(was, now, dialect.writable(new))
        if was and not dialect.present(new):
            self.zapped(task, gfn, dialect.pfn(old), level, fact.time)
        elif now and (not was or dialect.pfn(old) != dialect.pfn(new)):
            self.install(task, gfn, dialect.pfn(new), level, fact.time)

    def set_spte(self, fact: Fact) -> None:
        """kvm_mmu_set_spte: a fault (or prefetch) installed a leaf."""
        new = fact.new or 0
        if self.dialect.present(new):
            task = self.windows.task(fact.pid)
            self.install(task, fact.gfn or 0, self.dialect.pfn(new), fact.level or 1, fact.time)

    def zapped(self, task: Task, gfn: int, pfn: int | None, level: int, time: int) -> None:
        """A leaf is gone: by the task's window, or by something that is none."""
        window = task.window
        if window is not None and window.closed is None and not self.windows.has_ends:
            # No end is recorded. What is more than it covers is not its own.
            if (window.zapped or 0) >= max(1, window.pages):
                self.windows.idle(task)
                window = None
        elif window is not None and window.closed is not None:
            window = None
        if window is None:
            cause = Cause.MEMSLOT if task.fault is None else Cause.UNKNOWN
            zap = Zap(Tag(None, cause, self._vm(task)), time, gfn, pfn, level)
        else:
            window.zapped = (window.zapped or 0) + 1
            if not records_slots(self.reader.counts):
                self.windows.zapped(window, gfn)
            zap = Zap(window.tag, time, gfn, pfn, level)
        if len(self.pending) >= PENDING_MAX:
            self.forgotten += len(self.pending)
            self.pending.clear()
        self.pending[gfn | zap.tag.vm << VM_SHIFT] = zap
        self.listener.zap(zap, window)

    def install(self, task: Task, gfn: int, pfn: int | None, level: int, time: int) -> None:
        """A leaf is there: perhaps again."""
        fault = task.fault
        if not self.reader.counts[Kind.SPTE_CHANGED]:
            self.mapped[gfn] = (pfn, level)
        if task.change is not None:
            fault = None  # not by the fault, even if the change is in the middle of one
        own = fault is not None and (fault.gfn == gfn or level > 1 or fault.gfn is None)
        if fault is not None and (own or not fault.installed):
            fault.installed, fault.pfn = True, pfn
        if (zap := self._pop(task, gfn, level)) is not None:
            if zap.tag.window is not None:
                zap.tag.cause = self.windows.cause(zap.tag.window)
            by = fault if own and fault is not None and fault.refault_of is None else None
            if by is not None:
                by.refault_of = zap
            self.listener.refault(zap, pfn, time, by)

    def _vm(self, task: Task) -> int:
        return self.task_vm.get(task.pid, 0)

    def _pop(self, task: Task, gfn: int, level: int) -> Zap | None:
        """The zap that this install repairs: of the page, or of the huge page around it."""
        key = gfn | self._vm(task) << VM_SHIFT
        zap = self.pending.pop(key, None)
        if zap is None and len(self.windows.vms) > 1 and task.pid not in self.task_vm:
            keys = (gfn | vm << VM_SHIFT for vm in range(len(self.windows.vms)))
            zap = next((self.pending.pop(each) for each in keys if each in self.pending), None)
        if zap is None and level == 1:
            huge = self.pending.get(key & ~(HUGE_PAGES - 1))
            zap = huge if huge is not None and huge.level > 1 else None
        return zap

    # handlers per memslot

    def unmap_gfn(self, fact: Fact) -> None:
        """kvm_unmap_gfn_range(), kvm_pgtable_stage2_unmap(): the window reaches a memslot."""
        task = self.windows.task(fact.pid)
        start = fact.gfn or 0
        end = fact.gfn_end if fact.gfn_end is not None else start + ((fact.size or 0) >> PAGE_SHIFT)
        window = task.window
        if window is not None and window.closed is None:
            # On arm64, both functions may be probed, one inside the other.
            if fact.kind == Kind.UNMAP_GFN or (start, end) not in window.parts:
                window.parts.append((start, end))
            if fact.vm is not None and not window.vms:
                self.windows.in_vm(window, fact.vm)
        task.unmapping = (start, end)
        if fact.kind == Kind.STAGE2_UNMAP:
            self._zap_mapped(task, fact.time)

    def unmap_gfn_ret(self, fact: Fact) -> None:
        """Of the older MMUs, all that tells of a zap: whether the TLB must be flushed."""
        task = self.windows.task(fact.pid)
        if task.unmapping is None or self.dialect.arch == "arm64":
            return
        told = self.reader.counts[Kind.SPTE_CHANGED] or not fact.ret
        if not told and not self._zap_mapped(task, fact.time) and task.window is not None:
            task.window.zapped, task.window.at_least = (task.window.zapped or 0) + 1, True
        task.unmapping = None

    def _zap_mapped(self, task: Task, time: int) -> int:
        """Zap what was seen mapped in the range that the task unmaps: how many SPTEs."""
        start, end = task.unmapping or (0, 0)
        if end - start < len(self.mapped):
            found = [gfn for gfn in range(start, end) if gfn in self.mapped]
            huge = {gfn & ~(HUGE_PAGES - 1) for gfn in (start, end - 1)}
            found += [gfn for gfn in huge - set(found) if self.mapped.get(gfn, (0, 1))[1] > 1]
        else:
            found = [gfn for gfn in self.mapped if start <= gfn < end]
        for gfn in found:
            pfn, level = self.mapped.pop(gfn)
            self.zapped(task, gfn, pfn, level, time)
        return len(found)

    # faults

    def begin(self, task: Task, fact: Fact) -> None:
        """A guest's fault begins."""
        if (before := task.fault) is not None:
            self._end(task, before, fact.time, None)
            if before.outcome is Outcome.UNKNOWN:
                self._waiting[fact.pid] = before
        waiting = self._waiting.pop(fact.pid, None)
        if waiting is not None:
            if waiting.gfn == fact.gfn:
                waiting.outcome, waiting.inferred = Outcome.RETRY, True
                self._blame(waiting)
            self.listener.fault(waiting)
        task.fault = Fault(
            fact.row, fact.time, fact.pid, fact.task, fact.vcpu, fact.gfn, fact.error_code
        )

    def opened(self, task: Task, window: Window) -> None:
        """A task opened a window: if inside its own fault, that fault will have to retry."""
        if task.fault is not None:
            task.fault.own = window

    def looked_up(self, fact: Fact) -> None:
        """hva_to_pfn(): the fault's address in the primary MMU."""
        if (fault := self.windows.task(fact.pid).fault) is not None:
            fault.hva = fact.address

    def requested(self, fact: Fact) -> None:
        """kvm_mmu_spte_requested, kvm_tdp_mmu_map(): the fault's gfn, also under shadow paging."""
        if (fault := self.windows.task(fact.pid).fault) is not None and fact.gfn is not None:
            fault.gfn = fact.gfn

    def stage2(self, fact: Fact) -> None:
        """arm64 is about to map or to relax permissions."""
        pages = (fact.size or 0) >> PAGE_SHIFT
        mapping = (fact.gfn or 0, fact.pfn or 0, 2 if pages >= HUGE_PAGES else 1)
        self.windows.task(fact.pid).mapping = mapping

    def stage2_ret(self, fact: Fact) -> None:
        """Whether it did."""
        task = self.windows.task(fact.pid)
        mapping, task.mapping = task.mapping, None
        if task.change is not None:
            task.change.mapped = fact.ret
        if mapping is None or fact.ret != 0:
            return
        if fact.kind == Kind.STAGE2_MAP_RET:
            self.install(task, *mapping, fact.time)
        elif task.fault is not None:
            task.fault.installed = True

    def fast(self, fact: Fact) -> None:
        """fast_page_fault: fixed or found fixed without mmu_lock, or neither."""
        if (fault := self.windows.task(fact.pid).fault) is not None:
            fault.fast = bool(fact.fixed) or (
                fact.fixed is None and fact.ret is not None and fact.ret == self.dialect.fixed
            )

    def returned(self, fact: Fact) -> None:
        """The handler returns; of two probed handlers inside one another, the inner one counts."""
        task = self.windows.task(fact.pid)
        if (fault := task.fault) is not None:
            self._end(task, fault, fact.time, fact.ret)

    def entry(self, fact: Fact) -> None:
        """Back into the guest."""
        task = self.windows.task(fact.pid)
        if (fault := task.fault) is not None:
            self._end(task, fault, fact.time, None)
            if fault.outcome is Outcome.UNKNOWN:
                self._waiting[fact.pid] = fault

    def left(self, task: Task, time: int) -> None:
        """The task is in user space: its fault, if any, was not for KVM to fix."""
        if (fault := task.fault) is not None:
            self._end(task, fault, time, None)
            if fault.outcome is Outcome.UNKNOWN:
                fault.outcome = Outcome.OTHER
                self.listener.fault(fault)

    def _end(self, task: Task, fault: Fault, time: int, ret: int | None) -> None:
        task.fault = None
        fault.ended = time
        if fault.own is not None and fault.own.vms:
            self.task_vm[fault.pid] = fault.own.tag.vm
        fault.vm = self._vm(task)
        fault.outcome = self._outcome(fault, ret)
        if fault.outcome is Outcome.RETRY:
            self._blame(fault)
        if fault.outcome is not Outcome.UNKNOWN or ret is not None:
            self.listener.fault(fault)

    def _outcome(self, fault: Fault, ret: int | None) -> Outcome:
        if fault.installed:
            if ret is not None:
                self.dialect.installed(ret)
            # It may have stored what was there.
            spurious = ret is not None and ret == self.dialect.spurious
            return Outcome.SPURIOUS if spurious else Outcome.FIXED
        if fault.fast:
            return Outcome.FAST
        if ret is None:
            return Outcome.UNKNOWN
        if self.dialect.arch == "arm64":
            retried = ret == 1 and self.reader.counts[Kind.STAGE2_MAP] > 0
            return Outcome.RETRY if retried else Outcome.OTHER if ret != 1 else Outcome.UNKNOWN
        if ret == self.dialect.retry:
            return Outcome.RETRY
        return Outcome.SPURIOUS if ret == self.dialect.spurious else Outcome.OTHER

    def _blame(self, fault: Fault) -> None:
        """Charge a retry to the window that caused it."""
        fault.culprit = window = self._culprit(fault)
        if window is None:
            return
        fault.cause = self.windows.cause(window)
        if window.verdict is None:
            window.retries_own += window is fault.own
            window.retries_other += window is not fault.own

    def _culprit(self, fault: Fault) -> Window | None:
        """The window that made a fault retry: over its page rather than elsewhere."""
        if fault.own is not None:
            return fault.own
        for window in self.windows.open_windows(but=fault.pid):
            if window.covers(fault.gfn, fault.hva):
                return window
        since = self.windows.closed_since(fault.time)
        for window in since:
            if window.covers(fault.gfn, fault.hva):
                return window
        # The end of any window in a memslot moves mmu_invalidate_seq, wherever its pages are.
        others = (*since, *self.windows.open_windows(but=fault.pid))
        return next((each for each in others if each.parts or each.zapped), None)

    def give_up(self) -> None:
        """The trace is over, or events are missing here: how faults end is not known."""
        for task in self.windows.tasks.values():
            if (fault := task.fault) is not None:
                self._end(task, fault, fault.time, None)
                if fault.outcome is Outcome.UNKNOWN:
                    self.listener.fault(fault)
        for fault in self._waiting.values():
            self.listener.fault(fault)
        self._waiting.clear()
