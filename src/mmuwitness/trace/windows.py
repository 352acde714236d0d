"""Invalidations: from a start to its end, what was zapped inside, and what its task was doing.

An end belongs to the innermost open start of its task with the same range. The outermost of the
recorded layers makes the window, the others belong to it:

    __mmu_notifier_invalidate_range_start()          one per invalidation, of any process
      kvm_mmu_notifier_invalidate_range_start()      one per VM on that mm
        tracepoint kvm_unmap_hva_range               likewise; all that a host without probes has

Where no end is recorded, a window has no duration, and what its task zaps before it does anything
else belongs to it.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING

from mmuwitness.trace import causes
from mmuwitness.trace.causes import Cause, Frame, Source, Verdict, function_of, stack_frames
from mmuwitness.trace.facts import Fact, FactReader
from mmuwitness.trace.tracepoints import Kind

if TYPE_CHECKING:
    from mmuwitness.trace.audit.change_pte import Change, Effect
    from mmuwitness.trace.audit.faults import Fault

PAGE_SHIFT = 12
ADDRESS_MAX = 1 << 56
OPEN_MAX = 64  # windows of one task: more than that were not closed because an end was lost
RECENT_MAX = 64
SHARED_MAX = 65_536
FORKS_MAX = 256
SLOTS_MAX = 64


@dataclass(slots=True, eq=False)
class Tag:
    """The little of a window that its zaps remember until their pages are mapped again."""

    number: int | None  # of the window; None: not in a window
    cause: Cause = Cause.UNKNOWN
    vm: int = 0
    window: Window | None = None  # until all is known of it


@dataclass(slots=True, eq=False)
class Window:
    """One invalidation. Times are ns of the trace's clock; None: the trace does not tell."""

    number: int  # from 0, in order of their starts
    row: int
    pid: int
    task: str
    cpu: int
    start: int | None  # hva
    end: int | None
    opened: int
    layer: int  # Kind of the start that made it
    tag: Tag
    mm: int | None = None
    event_type: int | None = None
    closed: int | None = None
    vms: list[int] = field(default_factory=list)  # numbers of the VMs that it reaches
    in_kvm: int = 0  # how many VMs' starts
    tracepoints: int = 0  # kvm_unmap_hva_range in it
    parts: list[tuple[int, int]] = field(default_factory=list)  # gfn ranges, one per memslot
    in_slot: bool | None = None
    zapped: int | None = None  # SPTEs
    at_least: bool = False  # `zapped` is a lower bound
    overlaps: int = 0  # windows that were open when it began
    effects: list[Effect] = field(default_factory=list)  # of each change_pte() in it
    retries_own: int = 0
    retries_other: int = 0
    stack: list[str] | None = None
    callers: list[str] = field(default_factory=list)
    calls: tuple[str, ...] = ()  # probed functions around it, innermost last
    before: str | None = None  # the last one hit whose return is not probed
    context: tuple[Frame, ...] = ()
    known_callers: int = -1  # how many there were when its cause was last asked for
    in_guest_fault: bool = False
    verdict: Verdict | None = None

    @property
    def pages(self) -> int:
        """Guest pages in memslots if the trace tells them, else pages of the range."""
        if self.parts:
            return sum(end - start for start, end in self.parts)
        if self.in_slot is False or self.start is None or self.end is None:
            return 0
        return (self.end - self.start) >> PAGE_SHIFT

    @property
    def duration(self) -> int | None:
        """Ns from start to end."""
        return None if self.closed is None else self.closed - self.opened

    def covers(self, gfn: int | None, hva: int | None) -> bool:
        """Whether this page is in it, as far as known."""
        if gfn is not None:
            for start, end in self.parts:
                if start <= gfn < end:
                    return True
        if hva is None or self.start is None or self.end is None:
            return False
        return self.start <= hva < self.end

    def is_of(self, fact: Fact) -> bool:
        """Whether a start or end may be of this range: the same, or not recorded."""
        if self.start is None or fact.start is None:
            return True
        return (self.start, self.end) == (fact.start, fact.end)


@dataclass(slots=True, eq=False)
class Task:
    """What a task is in the middle of."""

    pid: int
    open: list[Window] = field(default_factory=list)
    last: Window | None = None  # the one that began or ended last and is not settled
    calls: list[str] = field(default_factory=list)
    before: str | None = None
    syscall: tuple[Frame, ...] = ()
    migrate: str | None = None
    fault: Fault | None = None
    change: Change | None = None
    unmapping: tuple[int, int] | None = None  # gfn range of the handler that it is in
    mapping: tuple[int, int, int] | None = None  # gfn, pfn, level that it is about to map

    @property
    def window(self) -> Window | None:
        """The window that it is in."""
        return self.open[-1] if self.open else self.last


def records_slots(counts: Counter[Kind]) -> bool:
    """Whether a trace with these facts shows each memslot that a window hits."""
    return bool(counts[Kind.UNMAP_GFN] or counts[Kind.STAGE2_UNMAP])


def records_zaps(counts: Counter[Kind]) -> bool:
    """Whether it shows each SPTE that is zapped, or at least whether one was."""
    installs = counts[Kind.SPTE_STORE] or counts[Kind.STAGE2_MAP]
    if counts[Kind.SPTE_CHANGED] or counts[Kind.UNMAP_GFN_RET]:
        return True
    return bool(counts[Kind.STAGE2_UNMAP] and installs)


class Windows:
    """Follows starts and ends of all tasks; calls `settled` once all is known of a window."""

    def __init__(self, reader: FactReader, settled: Callable[[Window], None]) -> None:
        self.reader, self.settled = reader, settled
        self.tasks: dict[int, Task] = {}
        self.busy: dict[int, Task] = {}
        """Those with open windows."""
        self.recent: deque[Window] = deque(maxlen=RECENT_MAX)
        """Those closed last."""
        self.vms: dict[int, int] = {}
        """Each VM's pointer, and its number from 0."""
        self.open_count = 0
        self.number = 0
        self.orphans = 0  # ends without a start
        self.cut = 0  # starts whose end was lost
        self._shared = set[int]()  # pages that KSM merged or that were copied since their fork
        self._slots: dict[int, tuple[int, int]] = {}  # first and last gfn seen, by hva of gfn 0
        self._forks: deque[tuple[int | None, int, int]] = deque(maxlen=FORKS_MAX)

    def task(self, pid: int) -> Task:
        """The state of this task."""
        if (task := self.tasks.get(pid)) is None:
            task = self.tasks[pid] = Task(pid)
        return task

    def start(self, fact: Fact) -> Window:
        """A start of any layer: the window that it opens or belongs to."""
        task = self.task(fact.pid)
        window = self._inside(task, fact)
        if window is None:
            window = self._open(task, fact)
        if fact.stack and window.stack is None:
            window.stack = fact.stack
        if fact.kind == Kind.KVM_START:
            window.in_kvm += 1
            if fact.mn is not None:
                self.in_vm(window, fact.mn)
        elif fact.kind == Kind.UNMAP_HVA:
            window.tracepoints += 1
        if window.start is None:
            window.start, window.end = fact.start, fact.end
        if window.mm is None:
            window.mm = fact.mm
        if window.event_type is None:
            window.event_type = fact.event_type
        return window

    def _inside(self, task: Task, fact: Fact) -> Window | None:
        """The open window that an inner layer's start belongs to."""
        begun = [*task.open]
        if task.last is not None and task.last.closed is None:
            begun.append(task.last)
        for window in reversed(begun):
            if window.is_of(fact) and window.layer < fact.kind:
                if fact.kind == Kind.UNMAP_HVA and window.tracepoints >= max(window.in_kvm, 1):
                    # Without probes in KVM, each VM's tracepoint is all there is of its part.
                    return window if window.layer == Kind.MN_START else None
                return window
        return None

    def _open(self, task: Task, fact: Fact) -> Window:
        if task.last is not None:
            self._settle(task, task.last)
        if not self.has_ends or len(task.open) >= OPEN_MAX:
            self._drop(task)
        window = Window(
            number=self.number,
            row=fact.row,
            pid=fact.pid,
            task=fact.task,
            cpu=fact.cpu,
            start=fact.start,
            end=fact.end,
            opened=fact.time,
            layer=fact.kind,
            tag=Tag(self.number),
            overlaps=self.open_count,
            calls=tuple(task.calls),
            before=task.before,
            in_guest_fault=task.fault is not None,
        )
        window.tag.window = window
        window.context = self._context(task, window)
        self.number += 1
        if self.has_ends:
            task.open.append(window)
            self.busy[task.pid] = task
            self.open_count += 1
        else:
            task.last = window
        return window

    @property
    def has_ends(self) -> bool:
        """Whether the trace records ends of windows."""
        counts = self.reader.counts
        return bool(counts[Kind.MN_END] or counts[Kind.KVM_END])

    def _drop(self, task: Task) -> None:
        """Give up on windows whose end did not come."""
        for window in task.open:
            self.cut += 1
            self.open_count -= 1
            self._settle(task, window)
        task.open.clear()
        self.busy.pop(task.pid, None)

    def in_vm(self, window: Window, pointer: int) -> None:
        """The window reaches this VM: a struct mmu_notifier or a struct kvm, always the same."""
        window.tag.vm = self.vms.setdefault(pointer, len(self.vms))
        window.vms.append(window.tag.vm)

    def end(self, fact: Fact) -> None:
        """An end: of the innermost window of the task with its range, if it is of that layer."""
        if fact.kind == Kind.KVM_END and self.reader.counts[Kind.MN_END]:
            return  # it has ended already: mm's end calls KVM's
        task = self.task(fact.pid)
        layer = Kind.MN_START if fact.kind == Kind.MN_END else Kind.KVM_START
        for index in range(len(task.open) - 1, -1, -1):
            window = task.open[index]
            if not window.is_of(fact):
                continue
            # Without probes on the starts, the tracepoint stands for the start of either layer.
            if window.layer in (layer, Kind.UNMAP_HVA):
                window.closed = fact.time
                del task.open[index]
                if not task.open:
                    del self.busy[task.pid]
                self.open_count -= 1
                self.recent.append(window)
                if task.last is not None:
                    self._settle(task, task.last)
                task.last = window
            return
        last = task.last
        if last and last.closed is None and last.is_of(fact):
            last.closed = fact.time  # the first end of the trace
        else:
            self.orphans += 1

    def returned(self, fact: Fact) -> None:
        """A return of a notifier function: its caller is who invalidates."""
        task = self.task(fact.pid)
        window = task.last if fact.kind == Kind.MN_END_RET else task.window
        name = function_of(fact.caller)
        if window is not None and name is not None and name not in window.callers:
            window.callers.append(name)

    def idle(self, task: Task) -> None:
        """The task does something that no invalidation does: what it had is over."""
        if task.last is not None:
            self._settle(task, task.last)
        task.before = None

    def lost(self) -> None:
        """Events are missing here: what was open may have ended, or something else begun."""
        for task in self.tasks.values():
            if task.last is not None:
                self._settle(task, task.last)
            self._drop(task)
            task.calls.clear()
            task.before, task.syscall, task.migrate = None, (), None
            task.unmapping = task.mapping = None

    def finish(self) -> None:
        """The trace is over."""
        for task in self.tasks.values():
            if task.last is not None:
                self._settle(task, task.last)
            self._drop(task)

    def cause(self, window: Window) -> Cause:
        """As far as known now."""
        known = len(window.callers)
        if window.verdict is None and window.known_callers != known:
            window.known_callers = known
            window.tag.cause = causes.decide(tuple(self._frames(window))).cause
        return window.tag.cause

    def open_windows(self, but: int) -> Iterator[Window]:
        """The open windows of all tasks but this one."""
        for pid, task in self.busy.items():
            if pid != but:
                yield from task.open

    def closed_since(self, time: int) -> list[Window]:
        """Those closed since then, newest first."""
        recent = reversed(self.recent)
        return list(takewhile(lambda window: (window.closed or 0) >= time, recent))

    def _settle(self, task: Task, window: Window) -> None:
        if task.last is window:
            task.last = None
        window.verdict = causes.decide(tuple(self._frames(window)))
        window.tag.cause, window.tag.window = window.verdict.cause, None
        self._conclude(window)
        self._remember(window, window.verdict.cause)
        self.settled(window)
        window.stack, window.context = None, ()

    def _conclude(self, window: Window) -> None:
        """What was not seen in it did not happen, if the trace records such things."""
        if window.parts or window.zapped or self._in_seen_slot(window):
            window.in_slot = True
        elif records_slots(self.reader.counts):
            window.in_slot = False
        if window.zapped is None and (window.in_slot is False or records_zaps(self.reader.counts)):
            window.zapped = 0

    def zapped(self, window: Window, gfn: int) -> None:
        """A window zapped this page: if it is of one page, that tells where a memslot lies."""
        if window.start is None or window.end != window.start + (1 << PAGE_SHIFT):
            return
        first = window.start - (gfn << PAGE_SHIFT)  # where gfn 0 would be
        low, high = self._slots.get(first, (gfn, gfn))
        if first in self._slots or len(self._slots) < SLOTS_MAX:
            self._slots[first] = min(low, gfn), max(high, gfn)

    def _in_seen_slot(self, window: Window) -> bool:
        """Whether its range meets what others zapped pages of."""
        if window.start is None or window.end is None:
            return False
        return any(
            window.start <= first + (high << PAGE_SHIFT)
            and first + (low << PAGE_SHIFT) < window.end
            for first, (low, high) in self._slots.items()
        )

    def _context(self, task: Task, window: Window) -> tuple[Frame, ...]:
        """What stands for the outer frames where there is no whole stack trace."""
        frames = [*task.syscall]
        if task.migrate is not None:
            frames.append(Frame(f"migrate {task.migrate}", Source.MIGRATE))
        if window.in_guest_fault:
            frames.append(Frame("guest fault", Source.GUEST))
        elif self.reader.counts[Kind.PAGE_FAULT]:
            frames.append(Frame(causes.NO_GUEST_FAULT, Source.OUTSIDE))
        if window.start == 0 and (window.end or 0) > ADDRESS_MAX:
            frames.append(Frame(causes.ALL_MEMORY, Source.RANGE))
        in_call = {frame.name for frame in task.syscall}
        for call in ("mprotect", "munmap"):
            names = {f"sys_{call}", f"sys_enter_{call}"}
            if not in_call and not names.isdisjoint(self.reader.events):
                frames.append(Frame(f"no sys_{call}", Source.ABSENT))
        return tuple(frames)

    def _frames(self, window: Window) -> Iterator[Frame]:
        if window.stack:
            yield from stack_frames(window.stack)
        for name in window.callers:
            yield Frame(name, Source.CALLER)
        if window.callers:
            yield Frame(causes.KNOWN_CALLER, Source.CALLER)
        for name in reversed(window.calls):
            yield Frame(name, Source.CALLS)
        if window.before:
            yield Frame(window.before, Source.BEFORE)
        if self.reader.functions["write_protect_page"]:
            yield Frame(causes.KSM_STEP, Source.CALLS)
        if self._shared_by_fork(window):
            yield Frame(causes.FORKED, Source.HISTORY)
        yield from window.context
        yield Frame(f"task {window.task.rstrip('0123456789')}", Source.TASK)
        if window.event_type is not None and window.event_type < len(causes.EVENT_TYPES):
            yield Frame(f"event {causes.EVENT_TYPES[window.event_type]}", Source.EVENT)

    def _shared_by_fork(self, window: Window) -> bool:
        """One page that a fork covered, and neither KSM nor a copy since."""
        page = window.start
        if page is None or page in self._shared:
            return False
        return any(
            start <= page < end and (mm == window.mm or None in (mm, window.mm))
            for mm, start, end in self._forks
        )

    def _remember(self, window: Window, cause: Cause) -> None:
        """Which pages a later copy-on-write finds shared, and by whom."""
        start, end = window.start, window.end
        if start is None or end is None or not (window.in_kvm or window.tracepoints):
            return  # of a process that has no VM
        if cause is Cause.FORK:
            self._forks.append((window.mm, start, end))
            self._shared = {page for page in self._shared if not start <= page < end}
        elif cause.group in ("KSM", "COW") and self._forks:
            if len(self._shared) >= SHARED_MAX:
                self._shared.clear()
            self._shared.add(start)
