"""`--costs-from`: what a real trace tells of costs, for the machine that it was recorded on.

    found = costs_from(open_trace("trace.dat"), table)
    table.with_costs(found.costs, "trace.dat")

The times of a trace hold the tracer's own work, so they are upper bounds. Those of an emulated CPU
are no times at all and are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from mmuwitness.simulate.cost import Cost, CostTable, Spread
from mmuwitness.simulate.meters import START
from mmuwitness.trace.audit.span import TICKS, Gaps
from mmuwitness.trace.events import Trace
from mmuwitness.trace.facts import Fact, FactReader
from mmuwitness.trace.tracepoints import Kind

SPANS_MIN = 30  # of fewer, no quantile says anything
QUANTILES = (10, 50, 90)
FAULT = "kvm.vcpu.handle_guest_fault"
END = "kvm.kvm_main.kvm_mmu_notifier_invalidate_range_end"
CHANGE_PTE = "kvm.kvm_main.kvm_mmu_notifier_change_pte"
FLUSH = "kvm.kvm_main.kvm_flush_remote_tlbs"
LOCK, GUP = "lock KVM.mmu_lock", "mm.gup.get_user_page_fast_only"
NOT_TOLD = "what the hardware takes for an exit, waits for mmu_lock, and all else: no event tells"

OPENS = {
    Kind.KVM_START: Kind.KVM_START_RET,
    Kind.KVM_END: Kind.KVM_END_RET,
    Kind.KVM_CHANGE_PTE: Kind.KVM_CHANGE_PTE_RET,
}
"""A function that is entered, and its return."""

ZAPS = (Kind.SPTE_CHANGED, Kind.UNMAP_GFN_RET)
KINDS = {Kind.EXIT, Kind.ENTRY, Kind.PAGE_FAULT, Kind.USER_EXIT, Kind.HOST_FAULT, *ZAPS}
KINDS |= {*OPENS, *OPENS.values()}


class TraceTimesError(ValueError):
    """The times of this trace are not those of a machine; says why."""


@dataclass(frozen=True)
class TraceCosts:
    """What was taken, and what one has to know of it."""

    costs: dict[str, Cost]
    counts: dict[str, int]  # spans that each cost is from
    exits: dict[str, tuple[int, float]]  # by reason: how many, and the median ns to the next entry
    notes: list[str]


@dataclass
class _Task:
    """What a task has begun."""

    exit: Fact | None = None
    fault: bool = False
    left: bool = False  # to user space, or into a fault of the host
    opened: dict[Kind, Fact] = field(default_factory=dict)  # by the kind that ends it
    zapped: bool = False


class _Spans:
    """Times from where something begins to where it ends."""

    def __init__(self) -> None:
        self.tasks: dict[int, _Task] = {}
        self.exits: dict[str, list[int]] = {}
        self.faults: list[int] = []
        self.calls: dict[Kind, list[int]] = {each: [] for each in OPENS}
        self.zapping: list[int] = []  # calls of start that zapped something

    def see(self, fact: Fact) -> None:
        """The next fact."""
        task = self.tasks.setdefault(fact.pid, _Task())
        kind = Kind(fact.kind)
        if kind is Kind.EXIT:
            task.exit, task.fault, task.left = fact, False, False
        elif kind is Kind.ENTRY:
            self._entry(task, fact)
        elif kind is Kind.PAGE_FAULT:
            task.fault = True
        elif kind in (Kind.USER_EXIT, Kind.HOST_FAULT):
            task.left = True
        elif kind in OPENS:
            task.opened[OPENS[kind]] = fact
            task.zapped = False
        elif kind in ZAPS:
            task.zapped |= kind is Kind.SPTE_CHANGED or bool(fact.ret)
        elif (begin := task.opened.pop(kind, None)) is not None:
            self._returned(task, Kind(begin.kind), fact.time - begin.time)

    def _entry(self, task: _Task, fact: Fact) -> None:
        begin, task.exit = task.exit, None
        if begin is not None and not task.left:
            self.exits.setdefault(begin.reason or "unknown", []).append(fact.time - begin.time)
            if task.fault:
                self.faults.append(fact.time - begin.time)

    def _returned(self, task: _Task, kind: Kind, ns: int) -> None:
        spans = self.zapping if kind is Kind.KVM_START and task.zapped else self.calls[kind]
        spans.append(ns)


def costs_from(trace: Trace, table: CostTable) -> TraceCosts:
    """Read the whole trace. TraceTimesError if its times are worth nothing."""
    reader = FactReader(lambda counts: KINDS, columns=("ret", "reason"))
    spans, gaps = _Spans(), Gaps()
    losses = 0
    for batch in trace.batches():
        gaps.see(batch)
        facts = reader.read(batch)
        rows = sorted(each.row for each in trace.losses[losses:])
        losses = len(trace.losses)
        for fact in facts.rows():
            while rows and fact.row >= rows[0]:
                rows.pop(0)
                spans.tasks.clear()  # what was going on may have ended in what is lost
            spans.see(fact)
        if rows:
            spans.tasks.clear()
    check_times(trace, gaps)
    return _priced(spans, reader, table)


def check_times(trace: Trace, gaps: Gaps) -> None:
    """TraceTimesError if the time stamps are not ns of a real CPU."""
    where = f"--costs-from {trace.path}"
    if trace.clock in TICKS:
        raise TraceTimesError(f"{where}: the clock {trace.clock} counts ticks, not ns")
    if gaps.emulated is None:
        raise TraceTimesError(f"{where}: too few events to tell whether the CPU was emulated")
    if gaps.emulated:
        raise TraceTimesError(
            f"{where}: the time stamps look emulated: order and counts are real, times are not "
            "performance, and no cost is taken from them"
        )


def _priced(spans: _Spans, reader: FactReader, table: CostTable) -> TraceCosts:
    found = TraceCosts({}, {}, {}, [])
    for reason, values in sorted(spans.exits.items(), key=lambda each: -len(each[1])):
        found.exits[reason] = (len(values), float(np.median(values)))
    lock = table.typical(LOCK)
    called = spans.calls[Kind.KVM_START]
    told = any(reader.counts[kind] for kind in ZAPS)
    which = "that zapped nothing" if told else "with flushes"
    for name, values, less, what in (
        (FAULT, spans.faults, lock + table.typical(GUP), "guests' faults, kvm_exit to kvm_entry"),
        (START, called, lock, f"calls of start() {which}"),
        (END, spans.calls[Kind.KVM_END], lock, "calls of end()"),
        (CHANGE_PTE, spans.calls[Kind.KVM_CHANGE_PTE], lock, "calls of change_pte()"),
    ):
        _take(found, table, name, values, less, f"{what}, less {less:,.0f} ns of its other entries")
    if told and len(called) >= SPANS_MIN:
        usual = float(np.median(called))
        what = f"calls of start() that zapped, less {usual:,.0f} ns, the median of the others"
        _take(found, table, FLUSH, spans.zapping, usual, what)
    found.notes.append(f"not taken: {NOT_TOLD}")
    return found


def _take(
    found: TraceCosts, table: CostTable, name: str, values: Sequence[int], less: float, what: str
) -> None:
    """A cost from these spans in place of the table's, if there are enough of them."""
    if len(values) < SPANS_MIN:
        if values:
            found.notes.append(
                f"{name}: only {len(values)} {what.partition(',')[0]}, the table's cost stays"
            )
        return
    ns = Spread(*(max(0.0, float(each) - less) for each in np.percentile(values, QUANTILES)))
    source = f"the trace: p10, p50 and p90 of {len(values):,} {what}; the tracer's work is in it"
    found.costs[name] = replace(table[name], ns=ns, source=source)
    found.counts[name] = len(values)
