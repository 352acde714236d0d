"""Rules of the brackets: windows, and the calls inside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from mmuwitness.trace.facts import Fact
from mmuwitness.trace.rules.rule import (
    ANY_END,
    ANY_START,
    MM_START,
    Handler,
    Rule,
    evidence,
    hex_range,
)
from mmuwitness.trace.rules.state import Window
from mmuwitness.trace.rules.world import ADDRESS_MAX
from mmuwitness.trace.tracepoints import Kind

PAIRS: dict[int, int] = {
    Kind.MN_START: Kind.MN_START_RET,
    Kind.MN_END: Kind.MN_END_RET,
    Kind.KVM_START: Kind.KVM_START_RET,
    Kind.KVM_END: Kind.KVM_END_RET,
    Kind.UNMAP_GFN: Kind.UNMAP_GFN_RET,
    Kind.MN_CHANGE_PTE: Kind.MN_CHANGE_PTE_RET,
    Kind.KVM_CHANGE_PTE: Kind.KVM_CHANGE_PTE_RET,
    Kind.SET_SPTE_GFN: Kind.SET_SPTE_GFN_RET,
    Kind.HVA_TO_PFN: Kind.HVA_TO_PFN_RET,
    Kind.MAP: Kind.MAP_RET,
    Kind.TDP_UNMAP_GFN: Kind.TDP_UNMAP_GFN_RET,
    Kind.TDP_SET_SPTE_GFN: Kind.TDP_SET_SPTE_GFN_RET,
    Kind.STAGE2_UNMAP: Kind.STAGE2_UNMAP_RET,
    Kind.STAGE2_MAP: Kind.STAGE2_MAP_RET,
    Kind.RELAX: Kind.RELAX_RET,
    Kind.FAULT: Kind.FAULT_RET,
    Kind.FAULTIN: Kind.FAULTIN_RET,
    Kind.CALL: Kind.RETURN,
}
OF_MM = (Kind.MN_START, Kind.MN_END, Kind.MN_CHANGE_PTE)
NOTIFIERS = (*OF_MM, Kind.KVM_START, Kind.KVM_END, Kind.KVM_CHANGE_PTE)
HANDLERS = (Kind.FAULT, Kind.FAULTIN)
# A function that was entered so often and never returned has no probe there.
UNPAIRED_CALLS_MAX = 64
Name = tuple[int, str | None]
ENTRY_OF = {returned: entry for entry, returned in PAIRS.items()}


@dataclass(slots=True)
class Frame:
    """A call that has not returned."""

    name: Name
    fact: Fact
    windows: list[Window]  # mm's, open at its entry


class WindowsBalance(Rule):
    """Each invalidate_range_start() is followed by the invalidate_range_end() of the same range,
    in the same task, before that task goes back to its guest, to user space or out of the function
    that opened the window."""

    name = "windows_balance"
    evidence = (ANY_START, ANY_END)

    def handlers(self) -> Iterable[tuple[int, Handler]]:
        yield Kind.MN_END, self._end
        yield Kind.KVM_END, self._end
        # Where no window of mm's can be open.
        yield Kind.ENTRY, self._outside
        yield Kind.PAGE_FAULT, self._outside
        yield Kind.SYSCALL_ENTER, self._outside
        yield Kind.SYSCALL_EXIT, self._outside
        yield Kind.HOST_FAULT, self._outside

    def _end(self, fact: Fact) -> None:
        self.checked += 1
        task = self.world.task
        if fact.kind == Kind.MN_END:
            recorded = self.world.since(task.settled, Kind.MN_START)
        else:
            settled = max(task.settled, task.notified_settled)
            recorded = self.world.since(settled, Kind.KVM_START)
        if self.world.window is None and recorded:
            happened = f"an end of {hex_range(fact.start, fact.end)} that this task did not start"
            opened = task.windows or task.notified
            self.depart(
                fact,
                "the end of a window that this task has open",
                happened,
                opened[-1].fact if opened else None,
            )

    def _outside(self, fact: Fact) -> None:
        task = self.world.task
        self._left_open(fact, task.windows, Kind.MN_END)
        self._left_open(fact, task.notified, Kind.KVM_END)

    def _left_open(self, fact: Fact, windows: list[Window], end: int) -> None:
        if windows and self.world.since(windows[-1].fact.row, end):
            window = windows.pop()
            self.depart(
                fact,
                f"the end of {hex_range(window.start, window.end)} first",
                "the task went on without it",
                window.fact,
            )

    def finish(self) -> None:
        """The trace may end inside a window, but not long after its task left it."""
        if self.missing(self.world.seen):
            return
        for task in self.world.tasks.values():
            for window in [*task.windows, *task.notified]:
                if window.outlived:
                    self.depart(
                        window.fact,
                        f"the end of {hex_range(window.start, window.end)}",
                        "no end in the trace, though its task went on to windows elsewhere",
                        window.outlived,
                    )


class KvmInsideMm(Rule):
    """KVM's start() and end() run inside mm's start() and end() of the same mm and range, and all
    of mm's windows reach KVM as long as it has a notifier there."""

    name = "kvm_inside_mm"
    evidence = (
        MM_START,
        evidence("a probe on kvm_mmu_notifier_invalidate_range_start", Kind.KVM_START),
    )

    def handlers(self) -> Iterable[tuple[int, Handler]]:
        self._unnoticed: dict[int | None, tuple[Fact, Fact]] = {}
        yield Kind.KVM_START, self._start
        yield Kind.MN_START_RET, self._start_ret
        yield Kind.KVM_END, self._end
        yield Kind.UNMAP_HVA, self._unmap_hva
        yield Kind.UNMAP_GFN, self._unmap_gfn
        self._invalidated: dict[int, Fact] = {}  # by task, the last of mm's that may call KVM's
        yield Kind.MN_INVALIDATE, self._invalidate
        yield Kind.MN_END, self._invalidate
        yield Kind.KVM_INVALIDATE, self._kvm_invalidate

    def _start(self, fact: Fact) -> None:
        if Kind.MN_START not in self.world.seen:
            return
        self.checked += 1
        if missed := self._unnoticed.pop(fact.mm, None):
            # It had a notifier before, and has one now.
            self.depart(missed[0], "a start of KVM's inside mm's", "mm's alone", missed[1])
        window = self.world.window
        parent = window.parent if window else None
        if not self.world.since(self.world.task.settled, Kind.MN_START):
            return  # the recording may have begun inside of mm's
        if parent is None or not parent.same_range(fact) or parent.fact.mm != fact.mm:
            wanted = hex_range(parent.start, parent.end) if parent else "nothing: no window of mm's"
            self.depart(
                fact,
                f"a start of KVM's for {wanted}",
                f"one for {hex_range(fact.start, fact.end)}",
                parent.fact if parent else None,
            )

    def _start_ret(self, fact: Fact) -> None:
        window = self.world.window
        if window is None or window.children or window.end == ADDRESS_MAX:
            return
        if any(vm.mm == window.fact.mm for vm in self.world.vms.values()):
            self._unnoticed.setdefault(window.fact.mm, (fact, window.fact))

    def _end(self, fact: Fact) -> None:
        window = self.world.window
        if window is None or Kind.MN_END not in self.world.seen:
            return
        self.checked += 1
        if window.parent and window.parent in self.world.task.windows:
            self.depart(fact, "mm's end() first, KVM's inside it", "KVM's end() alone", window.fact)

    def _unmap_hva(self, fact: Fact) -> None:
        task = self.world.task
        if not self.world.since(task.settled, Kind.KVM_START):
            return
        self.checked += 1
        window = self.world.window
        if window is None or not window.same_range(fact) or window.gfns:
            opened = task.notified[-1] if task.notified else None
            wanted = hex_range(opened.start, opened.end) if opened else "none"
            self.depart(
                fact,
                f"kvm_unmap_hva_range for {wanted}, when KVM's start() begins",
                f"one for {hex_range(fact.start, fact.end)}",
                opened.fact if opened else None,
            )

    def _unmap_gfn(self, fact: Fact) -> None:
        task = self.world.task
        top = task.notified[-1] if task.notified else None
        if top and top.entered and not top.told and Kind.UNMAP_HVA in self.world.seen:
            self.depart(fact, "kvm_unmap_hva_range first", "kvm_unmap_gfn_range()", top.fact)

    def _invalidate(self, fact: Fact) -> None:
        self._invalidated[fact.pid] = fact

    def _kvm_invalidate(self, fact: Fact) -> None:
        if not self.world.since(self.world.task.settled, Kind.MN_INVALIDATE, Kind.MN_END):
            return
        self.checked += 1
        above = self._invalidated.get(fact.pid)
        inside = [window for window in self.world.task.ending if window.closing]
        if inside and Kind.KVM_END_RET in self.world.seen:
            self.depart(
                fact, "the return of KVM's end() first", f"{fact.function}()", inside[0].closing
            )
        if above is None or (above.start, above.end) != (fact.start, fact.end):
            happened = f"{fact.function}() for {hex_range(fact.start, fact.end)}"
            self.depart(fact, "mm's call for this range around it", happened, above)


class CallsReturn(Rule):
    """A function returns in the task that called it, the one called last first, and leaves no
    window open that it opened."""

    name = "calls_return"
    evidence = (
        evidence("probes on the entry of functions", *PAIRS),
        evidence("probes on their return", *PAIRS.values()),
    )

    def handlers(self) -> Iterable[tuple[int, Handler]]:
        self._frames: dict[int, list[Frame]] = {}
        self._entered: set[tuple[int, Name]] = set()  # by task
        self._calls: Counter[Name] = Counter()
        # Rows of the first entry and return: probes may be set while others fire already.
        self._entries: dict[Name, int] = {}
        self._returns: dict[Name, int] = {}
        for entry, returned in PAIRS.items():
            yield entry, self._call
            yield returned, self._return
        yield Kind.HOST_FAULT, self._in_user_space
        yield Kind.SYSCALL_ENTER, self._in_user_space

    def _must_return(self, frame: Frame) -> bool:
        return self._returns.get(frame.name, frame.fact.row) < frame.fact.row

    def _in_user_space(self, fact: Fact) -> None:
        for frame in self._frames.pop(fact.pid, []):
            if self._must_return(frame):
                self._skipped(frame, fact)
                break

    def _call(self, fact: Fact) -> None:
        name = fact.kind, fact.function
        self._calls[name] += 1
        self._entries.setdefault(name, fact.row)
        self._entered.add((fact.pid, name))
        above = self._frames.get(fact.pid)
        calling = above and fact.kind in OF_MM and above[-1].name[0] in NOTIFIERS
        if above and calling and self._must_return(above[-1]):
            self._skipped(above.pop(), fact)  # a notifier must not invalidate in its turn
        if name in self._returns or self._calls[name] <= UNPAIRED_CALLS_MAX:
            frame = Frame(name, fact, list(self.world.task.windows))
            self._frames.setdefault(fact.pid, []).append(frame)

    def _return(self, fact: Fact) -> None:
        name = ENTRY_OF[fact.kind], fact.function
        self._returns.setdefault(name, fact.row)
        frames = self._frames.get(fact.pid, [])
        if all(frame.name != name for frame in frames):
            self._returns_alone(fact, name, frames)
            return
        self.checked += 1
        while (frame := frames.pop()).name != name:
            if self._must_return(frame):
                self._skipped(frame, fact)
        opened = [
            window
            for window in self.world.task.windows
            if window not in frame.windows and self.world.since(window.fact.row, Kind.MN_END)
        ]
        if opened and name[0] == Kind.CALL:
            self.depart(
                fact,
                f"the end of {hex_range(opened[0].start, opened[0].end)} first",
                f"{self._show(fact)} returned with the window open that it had opened",
                opened[0].fact,
            )

    def _returns_alone(self, fact: Fact, name: Name, frames: list[Frame]) -> None:
        """Its entry was before the recording began, or has no probe: a return probe alone."""
        inside = [frame for frame in frames if self._must_return(frame)]
        first = self._entries.get(name)
        if name[0] in HANDLERS and first is None:
            self._handler_returns(fact, inside, frames)
        elif first is not None and (
            (fact.pid, name) in self._entered
            or any(frame.fact.row > first for frame in inside)
            or self.world.task.came_in > first
        ):
            self.checked += 1
            self.depart(
                fact,
                f"the entry of {self._show(fact)} first",
                "its return alone",
                frames[-1].fact if frames else None,
            )

    def _handler_returns(self, fact: Fact, inside: list[Frame], frames: list[Frame]) -> None:
        """Of KVM's fault handlers, mm's functions are called; none of them calls a handler."""
        fault = self.world.task.fault
        for frame in reversed(inside):
            if fault and frame.fact.row > fault.fact.row and frame.name[0] not in HANDLERS:
                self.checked += 1
                self._skipped(frame, fact)
                frames.remove(frame)
                break

    def _skipped(self, frame: Frame, fact: Fact) -> None:
        self.depart(
            fact, f"the return of {self._show(frame.fact)} first", self._show(fact), frame.fact
        )

    @staticmethod
    def _show(fact: Fact) -> str:
        return f"{fact.function}()"
