"""Rules of what KVM counts: mmu_invalidate_seq, mmu_invalidate_in_progress, their range.

A probe reads them at a function's entry, without mmu_lock: what other tasks are just doing may be
in the reading or not. So each reading has bounds, from what is certainly done and what is begun.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from mmuwitness.trace.facts import Fact
from mmuwitness.trace.rules.rule import ANY_END, UNMAP_GFN, Handler, Rule, evidence, hex_range
from mmuwitness.trace.rules.state import Vm, Window
from mmuwitness.trace.tracepoints import Kind

READINGS = (Kind.KVM_START, Kind.KVM_END, Kind.KVM_CHANGE_PTE, Kind.SET_SPTE_GFN)
IN_PROGRESS = evidence("in_progress= with the probes on KVM's start and end", *READINGS)
SEQ = evidence("seq= with the probes on KVM's start and end", *READINGS, Kind.MAP)


# An error, or no memslot: nothing that a memslot's window could hold back.
PFN_ERROR = 1 << 52


class CountMoves(Rule):
    """mmu_invalidate_in_progress is the number of windows that are open over a memslot of its VM,
    and mn_active_invalidate_count that of all that are open."""

    name = "count_moves"
    evidence = (IN_PROGRESS, ANY_END)

    def handlers(self) -> Iterable[tuple[int, Handler]]:
        self._synced: set[tuple[Vm, str]] = set()
        for kind in READINGS:
            yield kind, self._read

    def _read(self, fact: Fact) -> None:
        vm = self.world.vm_of_task()
        if vm is None or not self.world.seen & ANY_END.kinds:
            return
        own = self.world.window if fact.kind == Kind.KVM_START else None
        open_or_closing = [w for w in vm.windows if w is not own]
        whole = [w for w in open_or_closing if w.closing in (None, fact)]
        if fact.in_progress is not None:
            known = [w for w in whole if w.armed and w.hit]
            possible = [w for w in open_or_closing if w.hit is not False]
            self._compare(fact, vm, "mmu_invalidate_in_progress", fact.in_progress, known, possible)
        if fact.active is not None:
            known = [w for w in whole if w.armed or not w.entered]
            name = "mn_active_invalidate_count"
            self._compare(fact, vm, name, fact.active, known, open_or_closing)

    def _compare(
        self, fact: Fact, vm: Vm, name: str, value: int, known: list[Window], all_: list[Window]
    ) -> None:
        if value <= len(known):
            self._synced.add((vm, name))
        if value > len(all_) and (vm, name) not in self._synced:
            return  # windows that were open before the recording began
        self.checked += 1
        if len(known) <= value <= len(all_):
            return
        least, most = len(known), len(all_)
        wanted = f"{least}" if least == most else f"{least} to {most}"
        since = min((w.fact for w in all_), key=lambda f: f.row, default=None)
        self.depart(fact, f"{name} = {wanted}, the windows that are open", f"{value}", since)


@dataclass(slots=True)
class Count:
    """What mmu_invalidate_seq may have been before the first window that is counted here."""

    ended: int = 0
    changing: set[int] = field(default_factory=set)  # tasks in a change_pte that raises it, too
    low: int = 0
    high: int | None = None  # None: no reading yet
    fact: Fact | None = None  # the last reading
    doubt: tuple[Fact, int, int] | None = None  # a reading that rose too far, and its bounds


class SeqMoves(Rule):
    """mmu_invalidate_seq is raised by one at the end of each window over a memslot of its VM (until
    v5.12 by change_pte, too) and never goes back; a fault maps only with the value of then."""

    name = "seq_moves"
    evidence = (SEQ, ANY_END)

    def handlers(self) -> Iterable[tuple[int, Handler]]:
        self._counts: dict[Vm, Count] = {}
        self.unexplained = 0
        for kind in (*READINGS, Kind.MAP):
            yield kind, self._read
        self.world.on_close(self._closed)
        if self.world.change_pte_bumps:
            yield Kind.KVM_CHANGE_PTE, self._change_pte
            yield Kind.KVM_CHANGE_PTE_RET, self._changed

    def _change_pte(self, fact: Fact) -> None:
        """Until v5.12 it raises the count, too: some time before it returns."""
        if vm := self.world.vm_of_task():
            self._counts.setdefault(vm, Count()).changing.add(fact.pid)

    def _changed(self, fact: Fact) -> None:
        for count in self._counts.values():
            if fact.pid in count.changing:
                count.changing.remove(fact.pid)
                count.ended += 1

    def _closed(self, window: Window) -> None:
        if window.hit and window.vm:
            self._counts.setdefault(window.vm, Count()).ended += 1

    def _read(self, fact: Fact) -> None:
        vm = self.world.vm_of_task()
        if fact.seq is None or vm is None or (fact.pfn or 0) >= PFN_ERROR:
            return
        if not self.world.seen & ANY_END.kinds and fact.kind != Kind.KVM_START:
            return
        self.checked += 1
        count = self._counts.setdefault(vm, Count())
        ending = sum(w.closing not in (None, fact) and w.hit is not False for w in vm.windows)
        ending += len(count.changing)
        low, high = fact.seq - count.ended - ending, fact.seq - count.ended
        self._compare(fact, count, low, high)
        count.fact = fact

    def _compare(self, fact: Fact, count: Count, low: int, high: int) -> None:
        if count.doubt:
            before, doubt_low, doubt_high = count.doubt
            count.doubt = None
            if low <= doubt_high and doubt_low <= high:
                # It stays so high: KVM's own zap, or an event that the trace does not have.
                self.unexplained += 1
                count.low, count.high = max(low, doubt_low), min(high, doubt_high)
                return
            if count.high is not None and low <= count.high:
                self._too_far(before, count)
        if count.high is None:
            count.low, count.high = low, high
        elif low > count.high:
            count.doubt = fact, low, high
        elif high < count.low:
            wanted = count.low + count.ended
            self.depart(
                fact,
                f"mmu_invalidate_seq = {wanted} or more: each window that ended has raised it",
                f"{fact.seq}",
                count.fact,
            )
        else:
            count.low, count.high = max(low, count.low), min(high, count.high)

    def _too_far(self, fact: Fact, count: Count) -> None:
        self.depart(
            fact,
            "a mmu_invalidate_seq that the next reading does not fall behind",
            f"{fact.seq}",
            count.fact,
        )


Range = tuple[int, int]


def hull(one: Range, other: Range) -> Range:
    return min(one[0], other[0]), max(one[1], other[1])


class RangeCovers(Rule):
    """mmu_invalidate_range_start and _end are the hull of the windows over memslots since there
    was none (hva, from v6.8 on gfn)."""

    name = "range_covers"
    evidence = (
        evidence("rs= and re= with the probe on KVM's end", Kind.KVM_END, Kind.KVM_CHANGE_PTE),
        UNMAP_GFN,
    )

    def handlers(self) -> Iterable[tuple[int, Handler]]:
        self._hulls: dict[Vm, set[tuple[Range, Range]]] = {}  # what it may be: of hvas, of gfns
        yield Kind.UNMAP_GFN, self._unmap
        yield Kind.KVM_END, self._read
        yield Kind.KVM_CHANGE_PTE, self._read

    def _unmap(self, fact: Fact) -> None:
        own = self.world.window
        if own is None or own.vm is None or own.start is None or own.end is None:
            return
        mine = (own.start, own.end), own.gfns[-1]
        before = self._hulls.get(own.vm, set())
        others = [w for w in own.vm.windows if w.hit and w is not own]
        grown = {(hull(hvas, mine[0]), hull(gfns, mine[1])) for hvas, gfns in before}
        if not others and len(own.gfns) == 1:
            # It begins anew, if none is open from before the recording.
            self._hulls[own.vm] = {mine} if own.vm.all_known else set()
        else:
            # Where the others are just ending, it may have begun anew.
            alone = before and len(own.gfns) == 1 and all(w.closing for w in others)
            self._hulls[own.vm] = grown | {mine} if alone else grown

    def _read(self, fact: Fact) -> None:
        task = self.world.task
        own = self.world.window or (task.notified[-1] if task.notified else None)
        if own is None or own.vm is None or not own.gfns or not own.vm.all_known:
            return
        if fact.range_start is None or fact.range_end is None:
            return
        # Who has begun but not yet come to unmap may be in it, too.
        may = self._hulls.get(own.vm, set())
        begun = [w for w in own.vm.windows if w.entered and not w.hit]
        self.checked += 1
        read = fact.range_start, fact.range_end
        if any(read in each for each in may) or not may:
            return
        for window in begun:
            each = window.start or 0, window.end or 0
            if any(read == hull(hvas, each) for hvas, _ in may):
                return
        hvas, gfns = next(iter(may))
        self.depart(
            fact,
            f"the range {hex_range(*hvas)} or gfns {hex_range(*gfns)}",
            hex_range(*read),
            own.fact,
        )
