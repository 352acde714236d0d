"""Hands each fact to who follows it: windows, SPTEs and faults, change_pte().

span = Follower(reader, listener).follow(trace)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import polars as pl

from mmuwitness.trace.audit.change_pte import Changes
from mmuwitness.trace.audit.faults import Faults, Listener
from mmuwitness.trace.audit.span import TICKS, Gaps, Span
from mmuwitness.trace.causes import MADVICES, Frame, Source
from mmuwitness.trace.events import Loss, Trace
from mmuwitness.trace.facts import Fact, FactReader, Facts
from mmuwitness.trace.kernel import Dialect
from mmuwitness.trace.tracepoints import Kind
from mmuwitness.trace.windows import Task, Windows

CALLS_MAX = 64
INNER_HANDLER, OUTER_HANDLER = "direct_page_fault", "kvm_tdp_page_fault"
# fmt: off
COLUMNS = (
    "function", "caller", "start", "end", "address", "gfn", "gfn_end", "pfn", "old", "new",
    "level", "ret", "vcpu", "vm", "mn", "mm", "in_progress", "event_type", "flags", "size",
    "error_code", "fixed", "reason", "text",
)
# fmt: on
"""What of a fact's payload is looked at."""


class Follower:
    """Follows all tasks through the facts of a trace, in order."""

    def __init__(self, reader: FactReader, listener: Listener) -> None:
        self.reader, self.listener = reader, listener
        self.dialect = Dialect()
        self.windows = Windows(reader, listener.window)
        self.faults = Faults(reader, self.dialect, self.windows, listener)
        self.changes = Changes(reader, self.dialect, self.windows, listener.change_pte)
        faults, changes, windows = self.faults, self.changes, self.windows
        self.handlers: dict[int, Callable[[Fact], None]] = {
            Kind.MN_START: self._start,
            Kind.KVM_START: self._start,
            Kind.UNMAP_HVA: self._start,
            Kind.MN_END: self._window_end,
            Kind.KVM_END: self._window_end,
            Kind.MN_START_RET: windows.returned,
            Kind.MN_END_RET: windows.returned,
            Kind.MN_CHANGE_PTE: changes.begin,
            Kind.KVM_CHANGE_PTE: changes.begin,
            Kind.SET_SPTE_HVA: changes.begin,
            Kind.MN_CHANGE_PTE_RET: self._change_ret,
            Kind.KVM_CHANGE_PTE_RET: changes.end,
            Kind.SET_SPTE_GFN: changes.handler,
            Kind.SET_SPTE_GFN_RET: changes.handler_ret,
            Kind.SPTE_STORE: changes.store,
            Kind.UNMAP_GFN: faults.unmap_gfn,
            Kind.UNMAP_GFN_RET: faults.unmap_gfn_ret,
            Kind.STAGE2_UNMAP: faults.unmap_gfn,
            Kind.SPTE_CHANGED: faults.spte_changed,
            Kind.SET_SPTE: faults.set_spte,
            Kind.SPTE_REQUESTED: faults.requested,
            Kind.PAGE_FAULT: self._page_fault,
            Kind.FAULT_RET: faults.returned,
            Kind.FAST_FAULT: faults.fast,
            Kind.HVA_TO_PFN: faults.looked_up,
            Kind.STAGE2_MAP: faults.stage2,
            Kind.STAGE2_MAP_RET: faults.stage2_ret,
            Kind.RELAX: faults.stage2,
            Kind.RELAX_RET: faults.stage2_ret,
            Kind.ENTRY: self._entry,
            Kind.CALL: self._call,
            Kind.RETURN: self._return,
            Kind.SYSCALL_ENTER: self._syscall,
            Kind.SYSCALL_EXIT: self._syscall,
            Kind.MIGRATE_START: self._migrate,
            Kind.MIGRATE_END: self._migrate,
            Kind.HOST_FAULT: self._user,
            Kind.MARK: self._user,
            Kind.USER_EXIT: self._user,
        }

    def kinds(self, counts: Counter[Kind]) -> set[int]:
        """The kinds of facts that it needs, given which ones this trace has."""
        needed = set(self.handlers)
        if counts[Kind.FAULT_RET]:
            needed.discard(Kind.ENTRY)  # they only tell that a fault is over
        if counts[Kind.UNMAP_GFN] or counts[Kind.STAGE2_UNMAP]:
            needed.discard(Kind.HVA_TO_PFN)  # windows tell their gfns
        return needed

    def feed(self, facts: Facts) -> None:
        """Follow these facts."""
        self.dialect.learn(self.reader)
        handlers, table = self.handlers, facts.table
        if self.reader.returns[INNER_HANDLER]:  # then a fault is over before the outer one returns
            table = table.filter(pl.col("function") != OUTER_HANDLER)
        for fact in Facts(table).rows():
            handlers[fact.kind](fact)

    def follow(self, trace: Trace) -> Span:
        """The whole trace, and its end. TraceError if it cannot be read at all."""
        gaps = Gaps()
        start: int | None = None
        end = losses = 0
        for batch in trace.batches():
            rows, times = batch.events["row"], batch.events["time"]
            start = times[0] if start is None else start
            end = times[-1]
            gaps.see(batch)
            facts = self.reader.read(batch)
            for loss in sorted(trace.losses[losses:], key=lambda each: each.row):
                self.feed(Facts(facts.table.filter(pl.col("row") < loss.row)))
                self.lost(loss, times[min(loss.row - rows[0], len(times) - 1)])
                facts = Facts(facts.table.filter(pl.col("row") >= loss.row))
            losses = len(trace.losses)
            self.feed(facts)
        self.finish()
        return Span(start or 0, end, None if trace.clock in TICKS else gaps.emulated)

    def lost(self, loss: Loss, time: int) -> None:
        """Events are missing here: nothing that was going on is taken to go on."""
        for task in self.windows.tasks.values():
            self.changes.finish(task)
        self.faults.give_up()
        self.windows.lost()

    def finish(self) -> None:
        """The trace is over: what is not known by now will not be."""
        for task in self.windows.tasks.values():
            self.changes.finish(task)
        self.faults.give_up()
        self.windows.finish()

    def _idle(self, pid: int) -> Task:
        task = self.windows.task(pid)
        self.changes.finish(task)
        self.windows.idle(task)
        return task

    def _start(self, fact: Fact) -> None:
        task = self.windows.task(fact.pid)
        self.changes.finish(task)
        window = self.windows.start(fact)
        if window.row == fact.row:
            self.faults.opened(task, window)

    def _window_end(self, fact: Fact) -> None:
        self.changes.finish(self.windows.task(fact.pid))
        self.windows.end(fact)

    def _change_ret(self, fact: Fact) -> None:
        self.windows.returned(fact)
        self.changes.end(fact)

    def _page_fault(self, fact: Fact) -> None:
        self.faults.begin(self._idle(fact.pid), fact)

    def _entry(self, fact: Fact) -> None:
        self.faults.entry(fact)
        self._idle(fact.pid)

    def _user(self, fact: Fact) -> None:
        self.faults.left(self._idle(fact.pid), fact.time)

    def _call(self, fact: Fact) -> None:
        task, function = self.windows.task(fact.pid), fact.function or ""
        if not self.reader.returns[function]:
            task.before = function
        elif len(task.calls) < CALLS_MAX:
            task.calls.append(function)

    def _return(self, fact: Fact) -> None:
        calls = self.windows.task(fact.pid).calls
        if fact.function in calls:
            while calls.pop() != fact.function:
                pass

    def _syscall(self, fact: Fact) -> None:
        task = self._idle(fact.pid)
        self.faults.left(task, fact.time)
        task.syscall = ()
        if fact.kind == Kind.SYSCALL_ENTER:
            task.syscall = (Frame(f"sys_{fact.function}", Source.SYSCALL),)
            if fact.function in ("madvise", "process_madvise") and fact.flags in MADVICES:
                advice = Frame(f"madvise {MADVICES[fact.flags]}", Source.SYSCALL)
                task.syscall = (*task.syscall, advice)

    def _migrate(self, fact: Fact) -> None:
        task = self.windows.task(fact.pid)
        task.migrate = fact.reason if fact.kind == Kind.MIGRATE_START else None
