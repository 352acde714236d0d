"""The audit: who invalidated guest memory, whether it hit anything, what the guests then paid.

    audit = audit_trace(open_trace("trace.dat"))
    print(audit.totals.causes, audit.storms)

One pass over the trace, in bounded memory. Lost events and a cut end do not stop it: `complete`
says so.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import polars as pl

from mmuwitness.trace.audit.follow import COLUMNS, Follower
from mmuwitness.trace.audit.series import Storm, storms
from mmuwitness.trace.audit.totals import Totals
from mmuwitness.trace.events import Trace
from mmuwitness.trace.facts import Fact, FactReader, Facts
from mmuwitness.trace.kernel import Dialect
from mmuwitness.trace.tracepoints import Kind


@dataclass
class Audit:
    """What one trace says."""

    path: str
    format: str
    release: str | None
    clock: str | None
    complete: bool
    lost: int
    notes: list[str]
    dialect: Dialect
    events: Counter[str]  # by name
    functions: Counter[str]  # entries of probed functions
    counts: Counter[Kind]  # facts
    start: int  # ns
    end: int
    emulated: bool | None  # None: too few events to tell
    unmatched_starts: int
    unmatched_ends: int
    vms: dict[int, int]  # number of each VM: its struct mmu_notifier or struct kvm
    totals: Totals
    storms: list[Storm]

    @property
    def duration(self) -> int:
        """Ns from the first event to the last."""
        return self.end - self.start

    @property
    def windows(self) -> int:
        """Invalidations that reached a VM."""
        return sum(cause.windows for cause in self.totals.causes.values())


class _Auditor(Follower):
    """A follower that also counts exits, steps and migrated pages."""

    def __init__(self, reader: FactReader, totals: Totals) -> None:
        super().__init__(reader, totals)
        self.totals = totals
        self.handlers[Kind.MIGRATE_END] = self._migrated
        self.handlers[Kind.MARK] = self._mark

    def kinds(self, counts: Counter[Kind]) -> set[int]:
        """Exits too, which are only counted."""
        return super().kinds(counts) | {Kind.EXIT}

    def feed(self, facts: Facts) -> None:
        """Follow these facts."""
        exits = pl.col("kind") == Kind.EXIT
        super().feed(Facts(facts.table.filter(~exits)))
        self.totals.exit(facts.table.filter(exits))

    def _migrated(self, fact: Fact) -> None:
        self.totals.migrate(fact)
        self._migrate(fact)

    def _mark(self, fact: Fact) -> None:
        self.totals.mark(fact)
        self._user(fact)


def audit_trace(trace: Trace) -> Audit:
    """Read the whole trace. TraceError if it cannot be read at all."""
    reader = FactReader(columns=COLUMNS)
    totals = Totals(reader)
    auditor = _Auditor(reader, totals)
    reader.kinds = auditor.kinds
    span = auditor.follow(trace)
    totals.finish()
    windows, faults = auditor.windows, auditor.faults
    notes = list(trace.notes)
    if faults.forgotten:
        notes.append(
            f"{faults.forgotten:,} zapped pages were not watched until they were mapped again"
        )
    return Audit(
        path=trace.path,
        format=trace.format,
        release=trace.release,
        clock=trace.clock,
        complete=trace.complete and not trace.lost,
        lost=trace.lost,
        notes=notes,
        dialect=auditor.dialect,
        events=reader.events,
        functions=reader.functions,
        counts=reader.counts,
        start=span.start,
        end=span.end,
        emulated=span.emulated,
        unmatched_starts=windows.cut,
        unmatched_ends=windows.orphans,
        vms={number: pointer for pointer, number in windows.vms.items()},
        totals=totals,
        storms=storms(totals.timeline, span.start, span.end),
    )
