"""What real kernels were seen to do in .change_pte(): counted in traces, kept in observed.toml.

On x86, kvm_set_spte_gfn() returns nonzero exactly if it changed a present leaf, and kvmmmu events
show SPTEs. On arm64 it always returns 0; probes on the stores in stage2_map_walk_leaf() and the
return of kvm_pgtable_stage2_map() tell. Where nothing tells, a call is undecided, never idle.
"""

import tomllib
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from errno import ENOMEM
from pathlib import Path
from typing import Any, NamedTuple

from mmuwitness.trace.events import Batch, Trace

OBSERVED_TOML = Path(__file__).with_name("observed.toml")
CHANGE_PTE = "kvm_mmu_notifier_change_pte"
SET_SPTE_GFN = "kvm_set_spte_gfn"
IN_PROGRESS = ("mmu_invalidate_in_progress", "in_progress", "inprog")  # as probes' authors wrote
ACTIVE = ("mn_active_invalidate_count", "mn_active", "active")
X86_EVENTS = {"kvm_tdp_mmu_spte_changed", "kvm_mmu_set_spte", "kvm_mmu_spte_requested"}
# A kprobe on a function's entry may stand behind the landing pad (x86 ENDBR64, arm64 BTI): +0x4.
ENTRY_OFFSET_MAX = 4
X86_PRESENT, X86_WRITABLE = 1 << 11, 1 << 1  # SPTE_MMU_PRESENT_MASK, PT_WRITABLE_MASK
ARM64_VALID, ARM64_WRITABLE = 1 << 0, 1 << 7  # KVM_PTE_VALID, KVM_PTE_LEAF_ATTR_LO_S2_S2AP_W


@dataclass(frozen=True, kw_only=True)
class ChangePteCounts:
    """How often each thing was seen, in one trace or in several together."""

    mm_calls: int = 0  # __mmu_notifier_change_pte()
    kvm_calls: int = 0  # kvm_mmu_notifier_change_pte(), or its tracepoint kvm:kvm_set_spte_hva
    early_returns: int | None = None  # found mmu_invalidate_in_progress == 0; None: not recorded
    without_handler: int = 0  # returned and never called the arch, early returns included
    handler_calls: int = 0  # kvm_set_spte_gfn(), each with one of the next five effects
    changed_present: int = 0
    installed_read_only: int = 0
    installed_writable: int = 0
    did_nothing: int = 0
    undecided: int = 0  # the trace does not tell; also of calls whose handler was not followed
    no_memory: int = 0  # kvm_pgtable_stage2_map() returned -ENOMEM: there was no leaf table
    flushed: int = 0  # kvm_set_spte_gfn() returned nonzero
    in_progress_min: int | None = None  # open windows at a handler call
    active_min: int | None = None  # mn_active_invalidate_count at a call
    warnings: int = 0  # calls with that count 0 (WARN_ON_ONCE), WARNINGs of the console event
    windows_started: int = 0  # __mmu_notifier_invalidate_range_start()
    windows_ended: int = 0
    kvm_windows: int = 0  # kvm:kvm_unmap_hva_range, one per start() of KVM, with or without probes
    lost_events: int = 0

    def __add__(self, other: "ChangePteCounts") -> "ChangePteCounts":
        sums = {}
        for name in (each.name for each in fields(self)):
            both = [n for n in (getattr(self, name), getattr(other, name)) if n is not None]
            if both:
                sums[name] = min(both) if name.endswith("_min") else sum(both)
        return ChangePteCounts(**sums)


class _Event(NamedTuple):
    """An event that shows an SPTE, or of a probe: those have a function."""

    row: int
    pid: int
    name: str
    fields: Mapping[str, Any]

    @property
    def function(self) -> str | None:
        return self.fields.get("function")

    @property
    def returns(self) -> bool:
        return "caller" in self.fields

    @property
    def enters(self) -> bool:
        return not self.returns and (self.fields.get("offset") or 0) <= ENTRY_OFFSET_MAX

    def number(self, *keys: str) -> int | None:
        """The first of these fields that is there and is a number."""
        values = (self.fields.get(key) for key in keys)
        return next((value for value in values if isinstance(value, int)), None)


def _events(batch: Batch) -> Iterator[_Event]:
    pids, first = batch.events["pid"], batch.events["row"][0]
    found = [
        _Event(fields["row"], pids[fields["row"] - first], name, fields)
        for name, table in batch.tables.items()
        if "function" in table.columns or name in X86_EVENTS
        for fields in table.iter_rows(named=True)
    ]
    return iter(sorted(found, key=lambda event: event.row))


def _warnings(batch: Batch) -> int:
    """WARNINGs of the kernel's log, as the console event repeats it."""
    console = batch.tables.get("console")
    return sum("WARNING: " in line for line in console["text"]) if console is not None else 0


@dataclass
class _Call:
    """One call of change_pte() or of its handler, from entry to return in the same task."""

    lost_before: int  # losses
    in_progress: int | None
    handlers: int = 0
    present: bool = False
    stores_writable: list[bool] = field(default_factory=list)
    mapped: int | None = None  # what kvm_pgtable_stage2_map() returned
    returned: int | None = None
    whole: bool = False  # its return was seen and nothing lost: what was seen belongs to it

    def see(self, event: _Event) -> None:
        if event.name in X86_EVENTS:
            old, new = event.number("old_spte") or 0, event.number("new_spte", "spte") or 0
            self.present |= bool(old & X86_PRESENT)
            if (old | new) & X86_PRESENT:
                self.stores_writable.append(bool(new & X86_WRITABLE))
        elif not event.returns and "stage2_map_" in (event.function or ""):
            # A store's own `old` is read after break-before-make; the walker's, before.
            self.present |= bool((event.number("old") or 0) & ARM64_VALID)
            if (pte := event.number("new") or 0) & ARM64_VALID:
                self.stores_writable.append(bool(pte & ARM64_WRITABLE))
        elif event.returns and event.function == "kvm_pgtable_stage2_map":
            self.mapped = event.number("ret")

    def effect(self, x86: bool) -> str:
        if self.stores_writable and not self.present:
            return "installed_writable" if any(self.stores_writable) else "installed_read_only"
        if self.stores_writable or (x86 and self.returned):
            return "changed_present"
        nothing = self.mapped < 0 if self.mapped is not None else x86 and self.returned == 0
        return "did_nothing" if nothing else "undecided"


def _lost_before(trace: Trace) -> Callable[[int], int]:
    """How many losses were noted before a row."""
    rows = [loss.row for loss in trace.losses]
    return lambda row: bisect_right(rows, row)


def count_change_pte(trace: Trace) -> ChangePteCounts:
    """Follow each task into change_pte() and its handler, and count what happened inside."""
    names, entries, probe_names = Counter[str](), Counter[str](), dict[tuple[str, bool], str]()
    inside, active, warnings = dict[tuple[str, int], _Call](), list[int](), 0
    calls: dict[str, list[_Call]] = {CHANGE_PTE: [], SET_SPTE_GFN: []}
    for batch in trace.batches():
        names.update(dict(batch.events["event"].value_counts().iter_rows()))
        warnings += _warnings(batch)
        lost_before = _lost_before(trace)
        for event in _events(batch):
            if handler := inside.get((SET_SPTE_GFN, event.pid)):
                handler.see(event)
            function = event.function
            if function is None or not (event.enters or event.returns):
                continue
            # A function may carry two probes (a kprobe and an fprobe): only the first one counts.
            key = (function, event.returns)
            if probe_names.setdefault(key, event.name) != event.name:
                continue
            lost = lost_before(event.row)
            if event.returns:
                if call := inside.pop((function, event.pid), None):
                    call.returned, call.whole = event.number("ret"), call.lost_before == lost
                continue
            entries[function] += 1
            if function in calls:
                call = _Call(lost, event.number(*IN_PROGRESS))
                if function == SET_SPTE_GFN and (caller := inside.get((CHANGE_PTE, event.pid))):
                    caller.handlers += 1
                    if call.in_progress is None:
                        call.in_progress = caller.in_progress
                active += [n for n in [event.number(*ACTIVE)] if n is not None]
                inside[function, event.pid] = call
                calls[function].append(call)

    callers, handlers = calls[CHANGE_PTE], calls[SET_SPTE_GFN]
    x86 = not X86_EVENTS.isdisjoint(names)
    effects = Counter(call.effect(x86) if call.whole else "undecided" for call in handlers)
    kvm_calls = max(len(callers), names["kvm_set_spte_hva"])
    idle = [call for call in callers if call.whole and not call.handlers]
    early = sum(call.in_progress == 0 for call in idle)
    # No handler in the whole trace: it may have had no probe, so its silence shows nothing.
    without_handler = len(idle) if handlers else early
    followed = sum(call.handlers > 0 for call in callers) if callers else len(handlers)
    effects["undecided"] += max(0, kvm_calls - without_handler - followed)
    open_windows = [call.in_progress for call in handlers if call.in_progress is not None]
    return ChangePteCounts(
        mm_calls=entries["__mmu_notifier_change_pte"],
        kvm_calls=kvm_calls,
        early_returns=early if any(call.in_progress is not None for call in callers) else None,
        without_handler=without_handler,
        handler_calls=len(handlers),
        **effects,
        no_memory=sum(call.mapped == -ENOMEM for call in handlers),
        flushed=sum(bool(call.returned) for call in handlers),
        in_progress_min=min(open_windows, default=None),
        active_min=min(active, default=None),
        warnings=warnings + active.count(0),
        windows_started=entries["__mmu_notifier_invalidate_range_start"],
        windows_ended=entries["__mmu_notifier_invalidate_range_end"],
        kvm_windows=names["kvm_unmap_hva_range"],
        lost_events=trace.lost,
    )


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What the traces of one kernel, arch and MMU mode show, all together."""

    arch: str
    mmu: str
    kernel: str
    emulated: bool
    note: str
    files: tuple[str, ...]
    counts: ChangePteCounts

    @property
    def sentence(self) -> str:
        c, who = self.counts, f"{self.kernel} {self.arch} {self.mmu}"
        who += f" ({c.lost_events} events lost)" if c.lost_events else ""
        if not (calls := c.handler_calls or c.kvm_calls):
            return f"{who}: no call in {c.kvm_windows} invalidations that reached KVM"
        if c.did_nothing == calls and not c.no_memory:
            return f"{who}: not one of {calls} calls changed an SPTE"
        where = " inside the window" if c.in_progress_min else ""
        seen = (
            (c.changed_present, f"changed a present SPTE{where}"),
            (c.installed_writable, f"stored a new writable leaf{where}"),
            (c.installed_read_only, f"stored a new read-only leaf{where}"),
            (c.did_nothing, "did nothing" + " (-ENOMEM)" * (c.did_nothing == c.no_memory)),
            (c.undecided, "left no evidence in the trace"),
            (c.without_handler * (not c.handler_calls), "did not reach the arch"),
        )
        first, rest = ", ".join(f"{count} {what}" for count, what in seen if count).split(" ", 1)
        return f"{who}: {first} of {calls} calls {rest}"


def load_observed() -> list[Observed]:
    rows = tomllib.loads(OBSERVED_TOML.read_text(encoding="utf-8"))["observed"]
    for row in rows:
        row |= {"files": tuple(row["files"]), "counts": ChangePteCounts(**row["counts"])}
    return [Observed(**row) for row in rows]


def observed_for(arch: str, era: str) -> list[Observed]:
    """The rows of a kernel ("v6.1.192") or of all seen of its series ("v6.1"); often none."""
    wanted = era.removeprefix("v") + "."
    return [r for r in load_observed() if r.arch == arch and f"{r.kernel}.".startswith(wanted)]
