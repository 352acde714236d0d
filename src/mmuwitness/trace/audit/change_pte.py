"""change_pte() (until v6.9): each call, and what it did to the secondary MMU.

x86: kvm_set_spte_gfn() returns nonzero exactly if it changed a present leaf, and kvmmmu events show
SPTEs. arm64: it always returns 0; probes on the stores of leaves and the return of
kvm_pgtable_stage2_map() tell. Where nothing tells, a call is undecided, never idle.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from errno import ENOMEM
from typing import TYPE_CHECKING

from mmuwitness.trace.facts import Fact, FactReader
from mmuwitness.trace.kernel import Dialect
from mmuwitness.trace.tracepoints import Kind

if TYPE_CHECKING:
    from mmuwitness.trace.windows import Task, Window, Windows


class Effect(StrEnum):
    """What one call did."""

    FOUND = "changed a present SPTE"
    READ_ONLY = "installed a read-only leaf"
    WRITABLE = "installed a writable leaf"
    NO_TABLE = "found no table to install in"
    NOTHING = "found no SPTE"
    OUTSIDE = "reached no memslot"
    UNDECIDED = "not recorded"


@dataclass(slots=True, eq=False)
class Change:
    """One call of KVM's change_pte, from its entry to its return in the same task."""

    row: int
    time: int
    pid: int
    address: int | None
    window: Window | None  # the one that it was called in
    in_progress: int | None
    handlers: int = 0  # kvm_set_spte_gfn(), one per memslot
    found: bool = False
    stores_writable: list[bool] = field(default_factory=list)
    mapped: int | None = None  # what kvm_pgtable_stage2_map() returned
    ret: int | None = None  # what kvm_set_spte_gfn() returned
    returned: bool = False
    effect: Effect = Effect.UNDECIDED

    def spte(self, was: bool, now: bool, writable: bool) -> None:
        """An SPTE changed inside the call: whether it was and is a leaf."""
        self.found |= was
        if now:
            self.stores_writable.append(writable)


class Changes:
    """Follows change_pte() of all tasks; calls `ended` with each."""

    def __init__(
        self,
        reader: FactReader,
        dialect: Dialect,
        windows: Windows,
        ended: Callable[[Change], None],
    ) -> None:
        self.reader, self.dialect, self.windows, self.ended = reader, dialect, windows, ended

    @property
    def top(self) -> Kind:
        """The event that stands for a call."""
        counts = self.reader.counts
        for kind in (Kind.KVM_CHANGE_PTE, Kind.SET_SPTE_HVA):
            if counts[kind]:
                return kind
        return Kind.MN_CHANGE_PTE

    def begin(self, fact: Fact) -> None:
        """A call begins, if this is the event that stands for it."""
        task = self.windows.task(fact.pid)
        if fact.kind != self.top:
            return
        self.finish(task)
        window = task.window
        task.change = Change(fact.row, fact.time, fact.pid, fact.address, window, fact.in_progress)

    def handler(self, fact: Fact) -> None:
        """kvm_set_spte_gfn() is entered."""
        if (change := self.windows.task(fact.pid).change) is not None:
            change.handlers += 1
            if change.in_progress is None:
                change.in_progress = fact.in_progress

    def handler_ret(self, fact: Fact) -> None:
        """kvm_set_spte_gfn() returns: on x86, whether it changed a present leaf."""
        if (change := self.windows.task(fact.pid).change) is not None and fact.ret is not None:
            change.ret = max(change.ret or 0, fact.ret)

    def store(self, fact: Fact) -> None:
        """A leaf is stored, by a probe on the instruction."""
        change = self.windows.task(fact.pid).change
        if change is not None and fact.new is not None:
            was, now = self.dialect.present(fact.old or 0), self.dialect.present(fact.new)
            change.spte(was, now, self.dialect.writable(fact.new))

    def end(self, fact: Fact) -> None:
        """It returns."""
        task = self.windows.task(fact.pid)
        if task.change is not None:
            task.change.returned = True
            self.finish(task)

    def finish(self, task: Task) -> None:
        """It is over, also where its return is not recorded: the task does something else."""
        if (change := task.change) is not None:
            task.change = None
            change.effect = self._effect(change)
            if change.window is not None and change.window.verdict is None:
                change.window.effects.append(change.effect)
            self.ended(change)

    def _effect(self, change: Change) -> Effect:
        if change.found or (self.dialect.arch == "x86" and change.ret):
            return Effect.FOUND
        if change.stores_writable:
            return Effect.WRITABLE if any(change.stores_writable) else Effect.READ_ONLY
        if change.mapped is not None:
            return Effect.NO_TABLE if change.mapped == -ENOMEM else Effect.UNDECIDED
        followed = change.returned and self.reader.counts[Kind.SET_SPTE_GFN] > 0
        if change.handlers == 0 and (change.in_progress == 0 or followed):
            return Effect.OUTSIDE
        if self.dialect.arch == "x86" and change.ret == 0:
            return Effect.NOTHING
        if self.dialect.mmu == "tdp" and self.reader.counts[Kind.SPTE_CHANGED]:
            return Effect.NOTHING  # a change would have been traced
        return Effect.UNDECIDED
