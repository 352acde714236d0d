"""Rules of .change_pte(), which kernels have up to v6.9."""

from __future__ import annotations

from collections.abc import Iterable

from mmuwitness.trace.facts import Fact
from mmuwitness.trace.rules.rule import ANY_END, Handler, Rule, evidence, hex_range, show_hex
from mmuwitness.trace.rules.state import PAGE_SHIFT, Window
from mmuwitness.trace.tracepoints import Kind

CHANGE_PTE = evidence(
    "a probe on __mmu_notifier_change_pte (until v6.9), and a call of it",
    Kind.MN_CHANGE_PTE,
    Kind.KVM_CHANGE_PTE,
    Kind.SET_SPTE_HVA,
)
SET_SPTE_GFN = evidence(
    "a probe on kvm_set_spte_gfn (until v6.9), and a call of it", Kind.SET_SPTE_GFN
)
START = evidence(
    "a probe on __mmu_notifier_invalidate_range_start",
    Kind.MN_START,
    Kind.KVM_START,
    Kind.UNMAP_HVA,
)


class ChangePteInside(Rule):
    """change_pte is called inside a window of its own task that covers its address (since v3.7)."""

    name = "change_pte_in_window"
    evidence = (CHANGE_PTE, START)

    def handlers(self) -> Iterable[tuple[int, Handler]]:
        yield Kind.MN_CHANGE_PTE, self._mm
        yield Kind.KVM_CHANGE_PTE, self._kvm
        yield Kind.SET_SPTE_HVA, self._kvm

    def _mm(self, fact: Fact) -> None:
        if self.world.seen & {Kind.MN_START} and self.world.seen & {Kind.MN_END}:
            self._inside(fact, self.world.task.windows)

    def _kvm(self, fact: Fact) -> None:
        task, seen = self.world.task, self.world.seen
        if seen & ANY_END.kinds:
            if task.notified or seen & {Kind.KVM_START, Kind.MN_START}:
                self._inside(fact, task.notified)
            return
        # Ends are not recorded: at least the task's last start was for this page.
        start = task.last_start
        if start is None or start.start is None or start.end is None or fact.address is None:
            return
        self.checked += 1
        if not start.start <= fact.address < start.end:
            self.depart(
                fact,
                f"an address in {hex_range(start.start, start.end)}",
                show_hex(fact.address),
                start,
            )

    def _inside(self, fact: Fact, windows: list[Window]) -> None:
        opens = Kind.MN_START if Kind.MN_START in self.world.seen else Kind.KVM_START
        recorded = self.world.since(self.world.task.settled, opens)
        if fact.address is None or not (recorded and self.world.bracketed):
            return
        self.checked += 1
        mine = [window for window in windows if window.covers_hva(fact.address)]
        if mine and mine[-1].entered and Kind.MN_START_RET in self.world.seen:
            self.depart(fact, "the return of start() first", "change_pte", mine[-1].fact)
        if not mine:
            opened = windows[-1] if windows else None
            happened = (
                "no window is open"
                if opened is None
                else (f"{hex_range(opened.start, opened.end)} is")
            )
            self.depart(
                fact,
                f"a window open around {show_hex(fact.address)}",
                happened,
                opened.fact if opened else self.world.task.last_start,
            )


class ChangePteCounted(Rule):
    """change_pte reaches the arch only with mmu_invalidate_in_progress raised, and finds
    mn_active_invalidate_count raised in any case."""

    name = "change_pte_counted"
    evidence = (
        evidence(
            "in_progress= with the probe on change_pte or kvm_set_spte_gfn",
            Kind.KVM_CHANGE_PTE,
            Kind.SET_SPTE_GFN,
        ),
        CHANGE_PTE,
    )

    def handlers(self) -> Iterable[tuple[int, Handler]]:
        yield Kind.KVM_CHANGE_PTE, self._active
        yield Kind.SET_SPTE_GFN, self._active
        yield Kind.SET_SPTE_GFN, self._in_progress

    def _active(self, fact: Fact) -> None:
        if fact.active is not None:
            self.checked += 1
            if fact.active < 1:
                self.depart(fact, "mn_active_invalidate_count = 1 or more", f"{fact.active}")

    def _in_progress(self, fact: Fact) -> None:
        call = self.world.task.kvm_change_pte
        reading = fact if fact.in_progress is not None else call
        if reading is None or reading.in_progress is None:
            return
        self.checked += 1
        if reading.in_progress < 1:
            self.depart(
                fact,
                f"an early return: mmu_invalidate_in_progress is {reading.in_progress}",
                "the arch's handler is called",
                call,
            )


class ChangePteHandsDown(Rule):
    """mm, KVM and the arch are told of the same address and the same PTE, in this order."""

    name = "change_pte_hands_down"
    evidence = (CHANGE_PTE, SET_SPTE_GFN)

    def handlers(self) -> Iterable[tuple[int, Handler]]:
        yield Kind.KVM_CHANGE_PTE, self._kvm
        yield Kind.SET_SPTE_HVA, self._hva
        yield Kind.SET_SPTE_GFN, self._arch
        yield Kind.TDP_SET_SPTE_GFN, self._tdp
        yield Kind.STAGE2_MAP, self._stage2
        yield Kind.SPTE_STORE, self._store

    def _same(self, fact: Fact, above: Fact, before: int | None, now: int | None) -> None:
        self.checked += 1
        if before is not None and now is not None and before != now:
            self.depart(fact, f"{show_hex(before)}, as above", show_hex(now), above)

    def _missing(self, fact: Fact, kind: Kind, what: str) -> None:
        """Nothing of the layer above is around this call; it may not have been recorded yet."""
        if self.world.since(self.world.task.settled, kind):
            self.checked += 1
            self.depart(fact, f"a call of {what} around it", "none")

    def _kvm(self, fact: Fact) -> None:
        if above := self.world.task.mm_change_pte:
            self._same(fact, above, above.address, fact.address)
            self._same(fact, above, above.new, fact.new)
        else:
            self._missing(fact, Kind.MN_CHANGE_PTE, "__mmu_notifier_change_pte")

    def _hva(self, fact: Fact) -> None:
        if handler := self.world.task.set_spte_gfn:
            self.depart(fact, "it before the arch's handler is called", "it inside", handler)
        if above := self.world.task.kvm_change_pte:
            self._same(fact, above, above.address, fact.address)
        else:
            self._missing(fact, Kind.KVM_CHANGE_PTE, "kvm_mmu_notifier_change_pte")

    def _arch(self, fact: Fact) -> None:
        above = self.world.task.kvm_change_pte
        if above is None:
            self._missing(fact, Kind.KVM_CHANGE_PTE, "kvm_mmu_notifier_change_pte")
            return
        self._same(fact, above, above.new, fact.new)
        own = self.world.task.notified[-1] if self.world.task.notified else None
        if own and above.address is not None and len(own.gfns) == 1 and own.start is not None:
            first, last = own.gfns[0]
            # Cut off by its slot's ends, a range does not say where it begins.
            if own.end == own.start + ((last - first) << PAGE_SHIFT):
                gfn = first + ((above.address - own.start) >> PAGE_SHIFT)
                self._same(fact, above, gfn, fact.gfn)

    def _tdp(self, fact: Fact) -> None:
        if above := self.world.task.set_spte_gfn:
            self._same(fact, above, above.gfn, fact.gfn)

    def _stage2(self, fact: Fact) -> None:
        above = self.world.task.set_spte_gfn
        if above and above.new is not None:
            self._same(fact, above, above.gfn, fact.gfn)
            self._same(fact, above, self.world.pfn(above.new), fact.pfn)

    def _store(self, fact: Fact) -> None:
        above = self.world.task.set_spte_gfn
        if above and above.new is not None and fact.new and self.world.present(fact.new):
            self._same(fact, above, above.gfn, fact.gfn)
            self._same(fact, above, self.world.pfn(above.new), self.world.pfn(fact.new))


class ChangePteAlone(Rule):
    """change_pte makes a leaf where none was only while its own window is the only one that is
    open; else it may map a page that another window is dropping."""

    name = "change_pte_alone"
    evidence = (
        SET_SPTE_GFN,
        evidence(
            "what stores SPTEs: kvmmmu:*, or a probe on the store in stage2_map_walk_leaf",
            Kind.SPTE_STORE,
            Kind.SPTE_CHANGED,
            Kind.STAGE2_MAP,
        ),
    )

    def handlers(self) -> Iterable[tuple[int, Handler]]:
        yield Kind.SPTE_STORE, self._store
        yield Kind.SPTE_CHANGED, self._store
        yield Kind.SET_SPTE_GFN, self._called

    def _called(self, fact: Fact) -> None:
        self.checked += 1

    def _store(self, fact: Fact) -> None:
        call, vm = self.world.task.set_spte_gfn, self.world.vm_of_task()
        if call is None or vm is None or not self.world.present(fact.new):
            return
        if self.world.present(fact.old):
            return
        others = [w for w in self.world.open_windows(vm) if w not in self.world.task.notified]
        others = [w for w in others if w.hit]
        if others or (call.in_progress or 1) > 1:
            self.depart(
                fact,
                f"no leaf for gfn {show_hex(fact.gfn)}: another window is open",
                show_hex(fact.new),
                others[0].fact if others else call,
            )
