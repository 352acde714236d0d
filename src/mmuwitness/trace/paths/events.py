"""The events of a trace that the model may have, as `Seen`; and what its recorder could see."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import merge
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import polars as pl

from mmuwitness.trace.paths.match import SPTE_ACCESS, Seen
from mmuwitness.trace.paths.observe import (
    ABORT,
    CALLERS_ONLY,
    CALLS,
    FUNCTIONS,
    GUEST_FAULT,
    MODELLED,
)
from mmuwitness.trace.tracepoints import NAMES

if TYPE_CHECKING:
    from mmuwitness.trace.events import Batch, Trace

ENTRY_OFFSET_MAX = 4
"""A probe on a function's entry may stand behind its landing pad (ENDBR64, BTI)."""

USER_EVENTS = ("kvm_entry", "kvm_exit", "page_fault_user", "tracing_mark_write")
"""The task was in the guest or in user mode just before, or will be at once: no path is open."""

UNMODELLED: dict[str, str] = {
    "zap_page_range": "madvise, zapping",
    "collapse_pte_mapped_thp": "THP collapse",
    "retract_page_tables": "THP collapse",
    "do_huge_pmd_wp_page": "COW of a huge page",
    "hugetlb_wp": "hugetlb",
    "hugetlb_change_protection": "hugetlb",
    "__unmap_hugepage_range": "hugetlb",
    "__replace_page": "uprobes",
    "break_ksm": "unmerge",
    "unmerge_ksm_pages": "unmerge",
    "clear_refs_write": "clear_refs",
    "__oom_reap_task_mm": "OOM reaper",
    "migrate_vma_collect": "device migration",
    "make_device_exclusive_range": "device migration",
    "kvm_arch_flush_shadow_memslot": "memslot change",
    "kvm_mmu_zap_all_fast": "memslot change",
}
"""What the model's processes do not have yet, by the functions that do it."""

FAULT_HANDLERS = frozenset(CALLS["page_fault"].kernel)

HVA_MIN = 1 << 32
"""No gfn is as large; the memory of a VMM lies above, if its program is not loaded low."""

WINDOW_STARTS = (
    "__mmu_notifier_invalidate_range_start",
    "kvm_mmu_notifier_invalidate_range_start",
)

PROBE_HITS_MIN = 3

ALSO_READ = frozenset({"fast_page_fault"})
FUNCTIONS_READ = (FUNCTIONS | UNMODELLED.keys()) - CALLERS_ONLY


@dataclass
class Recorded:
    """What a trace's recorder could see, found in one pass over it."""

    entered: set[str] = field(default_factory=set)
    left: set[str] = field(default_factory=set)
    tracepoints: set[str] = field(default_factory=set)
    on_stacks: set[str] = field(default_factory=set)
    windows_over: Counter[str] = field(default_factory=Counter)  # "hva", "gfn": KVM's ranges
    zapped: Counter[int] = field(default_factory=Counter)  # values of zapped SPTEs
    returns: Counter[int] = field(default_factory=Counter)  # of the fault handlers of x86
    subscribers: dict[int, set[int]] = field(default_factory=dict)  # mm: KVM's notifiers of it
    elsewhere: Counter[str] = field(default_factory=Counter)  # events that no process has
    tasks: set[int] = field(default_factory=set)
    guest_faults: int = 0  # events of arm64's tracepoint
    probes: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)
    """("enter" or "leave", function) -> the events that say so, with how often."""

    @property
    def window_begins(self) -> tuple[str, str]:
        """The outermost place where this trace shows that a window opens."""
        for name in WINDOW_STARTS:
            if name in self.entered:
                return "enter", name
        return "trace", "kvm_unmap_hva_range"

    @property
    def hides_emulated(self) -> bool:
        """More aborts return than begin, by more than those that the trace begins in: its recorder
        has filtered guest faults by their address."""
        returns = max(self.probes.get(("leave", ABORT), Counter()).values(), default=0)
        return returns > self.guest_faults + len(self.tasks)

    def repeats(self, what: str, function: str, event: str) -> bool:
        """Whether it is the event of a second probe on the function, that fires with the first.

        One that fires less than half as often is something else, and read as what it says."""
        counts = self.probes[what, function]
        (first, most), *_ = counts.most_common(1)
        return event != first and 2 * counts[event] >= most

    def sum_up(self) -> None:
        """After the last event: which functions have probes, which have two, which nobody models.

        A function that an event names once or twice, among many others, has no probe."""
        most: Counter[str] = Counter()
        for counts in self.probes.values():
            most |= counts
        for (what, function), counts in self.probes.items():
            if any(count >= min(most[event], PROBE_HITS_MIN) for event, count in counts.items()):
                (self.entered if what == "enter" else self.left).add(function)
            for event, count in counts.items():
                if function not in FUNCTIONS_READ:
                    self.elsewhere[f"{function}()"] += count
                elif self.repeats(what, function, event):
                    self.elsewhere[f"{function}(), once more"] += count

    def shows(self, what: str, name: str) -> bool:
        where = {"enter": self.entered, "leave": self.left, "trace": self.tracepoints}
        return name in where[what]


def scan(trace: Trace) -> Recorded:
    """One pass over the trace."""
    recorded = Recorded()
    for batch in trace.batches():
        for event, count in batch.events["event"].cast(str).value_counts().rows():
            if is_tracepoint(batch.tables.get(event), event):
                recorded.tracepoints.add(event)
                recorded.guest_faults += count if event == GUEST_FAULT else 0
                if event not in MODELLED | ALSO_READ and not in_user_mode(event):
                    recorded.elsewhere[event] += count
        recorded.tasks |= set(batch.events["pid"].unique())
        stacks = batch.events["stack"].drop_nulls()
        if len(stacks):
            recorded.on_stacks |= set(stacks.explode().drop_nulls().unique().to_list())
        for name, table in batch.tables.items():
            scan_table(recorded, name, table)
    recorded.sum_up()
    return recorded


def is_tracepoint(table: pl.DataFrame | None, event: str) -> bool:
    """Not a probe, and not a line of the function tracer."""
    return table is None or "function" not in table.columns or event == "function"


def in_user_mode(event: str) -> bool:
    return event in USER_EVENTS or event.startswith("sys_")


def scan_table(recorded: Recorded, event: str, table: pl.DataFrame) -> None:
    if not is_tracepoint(table, event):
        scan_probe(recorded, event, table)
    elif event == "kvm_tdp_mmu_spte_changed":
        for spte, count in numbers(table, "new").items():
            if not spte & SPTE_ACCESS:
                recorded.zapped[spte] += count


def scan_probe(recorded: Recorded, event: str, table: pl.DataFrame) -> None:
    what = "enter" if "offset" in table.columns else "leave"
    if what == "enter":
        inside = table.height
        table = table.filter(table["offset"] <= ENTRY_OFFSET_MAX)
        if inside > table.height:
            recorded.elsewhere[f"{event}, inside a function"] += inside - table.height
    for function, count in table["function"].value_counts().rows():
        recorded.probes.setdefault((what, function), Counter())[event] += count
        if what == "leave" and function in FAULT_HANDLERS:
            recorded.returns.update(numbers(table, "ret"))
        if what == "enter" and function in WINDOW_STARTS:
            scan_window_starts(recorded, table)


def scan_window_starts(recorded: Recorded, table: pl.DataFrame) -> None:
    mm, mn = column(table, "mm"), column(table, "mn")
    if mm and mn:
        for space, notifier in table.select(mm, mn).unique().rows():
            recorded.subscribers.setdefault(space, set()).add(notifier)
    for number, count in numbers(table, "range_start").items():
        if number:
            recorded.windows_over["hva" if number >= HVA_MIN else "gfn"] += count


def column(table: pl.DataFrame, meaning: str) -> str:
    """The column of numbers that means this, whatever its author called it; "" if there is none."""
    names = (name for name in NAMES[meaning] if name in table.columns)
    return next((name for name in names if table.schema[name].is_integer()), "")


def numbers(table: pl.DataFrame, meaning: str) -> dict[int, int]:
    """How often each value is in the column that means this."""
    name = column(table, meaning)
    return dict(table[name].drop_nulls().value_counts().rows()) if name else {}


def events_of(batch: Batch, recorded: Recorded) -> Iterator[Seen]:
    """The events of a batch that are modelled, or that say where a task is, in their order."""
    streams = [rows_of(event, table, recorded) for event, table in batch.tables.items()]
    merged = merge(*streams, key=itemgetter(0))
    known = next(merged, None)
    columns = ("row", "place", "time", "pid", "task", "event", "stack")
    for row, place, time_ns, pid, task, event, stack in batch.events.select(columns).iter_rows():
        frames = tuple(stack) if stack else ()
        if known is not None and known[0] == row:
            _, what, name, fields, caller = known
            yield Seen(row, place, time_ns, pid, task, what, name, fields, caller, frames)
            known = next(merged, None)
        elif in_user_mode(event):
            yield Seen(row, place, time_ns, pid, task, "user", event, {}, "", frames)


def rows_of(
    event: str, table: pl.DataFrame, recorded: Recorded
) -> Iterator[tuple[int, str, str, dict[str, Any], str]]:
    """Of the events of one name those that are read: row, what, name, fields, caller."""
    if is_tracepoint(table, event):
        if event in MODELLED | ALSO_READ:
            for fields in table.iter_rows(named=True):
                yield fields["row"], "trace", event, fields, ""
        return
    what = "enter" if "offset" in table.columns else "leave"
    if what == "enter":
        table = table.filter(table["offset"] <= ENTRY_OFFSET_MAX)
    read = [
        function
        for function in table["function"].unique().to_list()
        if function in FUNCTIONS_READ and not recorded.repeats(what, function, event)
    ]
    table = table.filter(table["function"].is_in(read))
    for fields in table.iter_rows(named=True):
        yield fields["row"], what, fields["function"], fields, symbol(fields.get("caller"))


def symbol(caller: str | None) -> str:
    """The function of `f+0x8/0x20 [kvm]`; "" where another kretprobe hides it."""
    if not caller or caller.startswith("["):
        return ""
    return caller.split("+")[0].split(".")[0]
