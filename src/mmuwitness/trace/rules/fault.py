"""Rules of guest faults: when they may install, what, and when they must go back and retry."""

from __future__ import annotations

from collections.abc import Iterable

from mmuwitness.trace.facts import Fact
from mmuwitness.trace.rules.count import IN_PROGRESS
from mmuwitness.trace.rules.rule import (
    ANY_END,
    ANY_START,
    INSTALL,
    X86,
    Handler,
    Rule,
    evidence,
    hex_range,
    show_hex,
)
from mmuwitness.trace.rules.state import PAGE_SHIFT, Fault, Lookup, Vm, Window
from mmuwitness.trace.tracepoints import Kind

PFN_ERROR = 1 << 52
WINDOWS_KEPT = 256  # that ended; more do not end within one fault
Pair = tuple[int | None, int | None]
PAGES = {1: 1, 2: 1 << 9, 3: 1 << 18}  # that a leaf maps, by its level on x86
LOOKUP = evidence("a probe on hva_to_pfn, entry and return", Kind.HVA_TO_PFN)
FAULT_RET = evidence("a return probe on the fault handler", Kind.FAULT_RET)


class InstallOutsideWindows(Rule):
    """No fault installs an SPTE for a page in an open window: from the time that start() has zapped
    its range to the call of end()."""

    name = "no_install_in_window"
    evidence = (ANY_START, ANY_END, INSTALL)

    def handlers(self) -> Iterable[tuple[int, Handler]]:
        yield Kind.MAP, self._install
        yield Kind.SET_SPTE, self._install
        yield Kind.SPTE_STORE, self._install
        yield Kind.STAGE2_MAP, self._install
        yield Kind.SPTE_CHANGED, self._changed

    def _changed(self, fact: Fact) -> None:
        if self.world.leaf(fact.new, fact.level) and not self.world.present(fact.old):
            self._install(fact)

    def _install(self, fact: Fact) -> None:
        task = self.world.task
        if task.set_spte_gfn or task.kvm_change_pte or fact.gfn is None:
            return
        if fact.kind in (Kind.SET_SPTE, Kind.SPTE_STORE) and not self.world.present(fact.new):
            return
        vm = self.world.vm_of_task()
        if vm is None:
            return
        self.checked += 1
        for window in self.world.open_windows(vm):
            if self._covers(window, vm, fact):
                self.depart(
                    fact,
                    f"no SPTE for gfn {show_hex(fact.gfn)}: "
                    f"{hex_range(window.start, window.end)} is being invalidated; a retry",
                    f"an SPTE {show_hex(fact.new)}" if fact.new is not None else "a map",
                    window.fact,
                )
                return

    def _covers(self, window: Window, vm: Vm, fact: Fact) -> bool:
        assert fact.gfn is not None
        if window.gfns:
            pages = PAGES.get(fact.level or 1, 1) if fact.kind != Kind.MAP else 1
            first = fact.gfn & -pages
            return window.covers_gfn(first, pages)
        if window.hit is False:
            return False
        fault = self.world.task.fault
        hva = vm.hva_of(fact.gfn)
        if hva is None and fault and len(fault.lookups) == 1:
            hva = fault.lookups[0].fact.address
        return hva is not None and window.covers_hva(hva)


class FreshLookup(Rule):
    """A fault maps only what it looked up after the last window over that page was over: a page
    that the primary MMU has dropped since is not mapped again."""

    name = "maps_after_window"
    evidence = (ANY_START, ANY_END, LOOKUP, INSTALL)

    def handlers(self) -> Iterable[tuple[int, Handler]]:
        self._ended: dict[Vm, list[tuple[int, Window]]] = {}
        self._dropped: dict[int, Fact] = {}  # hva -> ptep_clear_flush() of it
        self.world.on_close(self._closed)
        yield Kind.MAP, self._map
        yield Kind.SPTE_REQUESTED, self._map
        yield Kind.CALL, self._cleared

    def _closed(self, window: Window) -> None:
        if window.vm and window.hit is not False and window.closing:
            ended = self._ended.setdefault(window.vm, [])
            ended.append((window.closing.row, window))
            if len(ended) > WINDOWS_KEPT:
                del ended[: WINDOWS_KEPT // 2]

    def _cleared(self, fact: Fact) -> None:
        if fact.function in ("ptep_clear_flush", "ptep_clear_flush_notify") and fact.address:
            self._dropped[fact.address >> PAGE_SHIFT] = fact

    def _map(self, fact: Fact) -> None:
        fault, vm = self.world.task.fault, self.world.vm_of_task()
        lookup = last_lookup(fault, fact)
        if lookup is None or vm is None:
            return
        self.checked += 1
        for closing_row, window in reversed(self._ended.get(vm, [])):
            if closing_row < lookup.fact.row:
                break
            self.depart(
                fact,
                "a retry: a window ended since the fault looked its page up",
                f"gfn {show_hex(fact.gfn)} is mapped to {show_hex(fact.pfn)}",
                window.closing,
            )
            return
        address = lookup.fact.address
        drop = self._dropped.get(address >> PAGE_SHIFT) if address is not None else None
        if drop and lookup.returned and lookup.returned.row < drop.row:
            self.depart(
                fact,
                "a new lookup: the primary MMU has dropped the page",
                f"gfn {show_hex(fact.gfn)} is mapped to what was looked up before",
                drop,
            )


class PfnLookedUp(Rule):
    """The page that a fault installs is the one that it looked up and asked for: gfn, pfn, level
    and hva agree from the lookup to the SPTE."""

    name = "pfn_looked_up"
    evidence = (
        evidence("kvmmmu:kvm_mmu_spte_requested", Kind.SPTE_REQUESTED, Kind.MAP, Kind.STAGE2_MAP),
        INSTALL,
    )

    def handlers(self) -> Iterable[tuple[int, Handler]]:
        yield Kind.MAP, self._map
        yield Kind.SPTE_REQUESTED, self._requested
        yield Kind.SPTE_CHANGED, self._changed
        yield Kind.SET_SPTE, self._set_spte
        yield Kind.STAGE2_MAP, self._stage2_map
        yield Kind.SPTE_STORE, self._store

    def _agree(self, fact: Fact, since: Fact, gfns: Pair, pfns: Pair = (None, None)) -> None:
        """gfns, pfns: what came before, and what this fact says."""
        self.checked += 1
        for name, (before, now) in (("gfn", gfns), ("pfn", pfns)):
            if before is not None and now is not None and before != now:
                self.depart(fact, f"{name} {before:#x}, as before", f"{name} {now:#x}", since)
                return

    def _map(self, fact: Fact) -> None:
        fault = self.world.task.fault
        if fault is None:
            return
        if fault.fact.kind == Kind.PAGE_FAULT:
            self._agree(fact, fault.fact, (fault.fact.gfn, fact.gfn))
        self._looked_up(fact, fault)

    def _looked_up(self, fact: Fact, fault: Fault) -> None:
        """Huge pages begin before the page that was looked up."""
        returned = [each for each in fault.lookups if each.returned]
        if not returned or fact.pfn is None or fact.pfn >= PFN_ERROR:
            return
        self.checked += 1
        pages = PAGES.get(fact.level or 1, 1)
        pfns = [
            each.returned.pfn & -pages
            for each in returned
            if each.returned and each.returned.pfn is not None
        ]
        if pfns and fact.pfn & -pages not in pfns:
            self.depart(
                fact,
                f"pfn {pfns[-1]:#x}, as looked up",
                f"pfn {fact.pfn:#x}",
                returned[-1].returned,
            )
        vm = self.world.vm_of_task()
        hva = vm.slot_hva(fact.gfn) if vm and fact.gfn is not None else None
        if hva is not None and len(fault.lookups) == 1 and pages == 1:
            address = fault.lookups[0].fact.address
            if address is not None and address >> PAGE_SHIFT != hva >> PAGE_SHIFT:
                self.depart(
                    fact,
                    f"hva {hva:#x}, where the memslot has this gfn",
                    f"hva {address:#x}",
                    fault.lookups[0].fact,
                )

    def _requested(self, fact: Fact) -> None:
        fault = self.world.task.fault
        if fault is None or fact.gfn is None or fact.pfn is None:
            return
        if fault.map and fault.map.gfn is not None and fault.map.pfn is not None:
            mask = -PAGES.get(fact.level or 1, 1)
            self._agree(
                fact,
                fault.map,
                (fault.map.gfn & mask, fact.gfn & mask),
                (fault.map.pfn & mask, fact.pfn & mask),
            )
        else:
            self._looked_up(fact, fault)

    def _changed(self, fact: Fact) -> None:
        if self.world.present(fact.old) or not self.world.leaf(fact.new, fact.level):
            return
        fault = self.world.task.fault
        if not self.world.task.set_spte_gfn and fault and fault.requested:
            self._as_requested(fact, fault.requested)

    def _set_spte(self, fact: Fact) -> None:
        fault = self.world.task.fault
        last = self.world.task.spte_changed
        if last and fault and fault.fact.row < last.row:
            # The guest may have set Accessed and Dirty in between.
            before, now = (self.world.pfn(each.new or 0) for each in (last, fact))
            self._agree(fact, last, (last.gfn, fact.gfn), (before, now))
        elif fault and fault.requested and fact.gfn == fault.requested.gfn:
            self._as_requested(fact, fault.requested)  # others are neighbours, prefetched

    def _as_requested(self, fact: Fact, asked: Fact) -> None:
        if fact.gfn is None or asked.gfn is None or asked.pfn is None or fact.new is None:
            return
        if fact.level == asked.level:
            mask = -PAGES.get(fact.level or 1, 1)
            self._agree(
                fact,
                asked,
                (asked.gfn & mask, fact.gfn),
                (asked.pfn & mask, self.world.pfn(fact.new)),
            )

    def _stage2_map(self, fact: Fact) -> None:
        fault = self.world.task.fault
        if self.world.task.set_spte_gfn or fault is None or fault.fact.kind != Kind.PAGE_FAULT:
            return
        if fact.size == 1 << PAGE_SHIFT:
            self._agree(fact, fault.fact, (fault.fact.gfn, fact.gfn))

    def _store(self, fact: Fact) -> None:
        call = self.world.task.stage2_map
        if call is None or fact.new is None or call.gfn is None or call.pfn is None:
            return
        if call.size == 1 << PAGE_SHIFT and self.world.present(fact.new):
            self._agree(fact, call, (call.gfn, fact.gfn), (call.pfn, self.world.pfn(fact.new)))


class InstallIsAsked(Rule):
    """An SPTE is installed only by a fault that asked for it, or by change_pte; a fault that says
    it fixed an SPTE has installed one."""

    name = "install_is_asked"
    mmus = X86
    evidence = (
        evidence("kvmmmu:kvm_mmu_spte_requested", Kind.SPTE_REQUESTED),
        evidence("kvmmmu:kvm_mmu_set_spte", Kind.SET_SPTE),
    )

    def handlers(self) -> Iterable[tuple[int, Handler]]:
        yield Kind.SET_SPTE, self._set_spte
        yield Kind.SPTE_CHANGED, self._changed
        yield Kind.MAP, self._map
        yield Kind.MAP_RET, self._map_ret
        yield Kind.FAULT_RET, self._fault_ret

    def _changed(self, fact: Fact) -> None:
        if not self.world.present(fact.old) and self.world.leaf(fact.new, fact.level):
            self._set_spte(fact)

    def _set_spte(self, fact: Fact) -> None:
        task = self.world.task
        if task.set_spte_gfn or not self.world.since(task.settled, Kind.SPTE_REQUESTED):
            return
        self.checked += 1
        if task.fault is None or task.fault.requested is None:
            self.depart(
                fact,
                "kvm_mmu_spte_requested first",
                f"an SPTE for gfn {show_hex(fact.gfn)} that no fault asked for",
                task.fault.fact if task.fault else None,
            )
        elif task.fault.map and task.fault.mapped:
            self.depart(
                fact,
                "no SPTE any more: kvm_tdp_mmu_map() has returned",
                f"an SPTE for gfn {show_hex(fact.gfn)}",
                task.fault.map,
            )

    def _map(self, fact: Fact) -> None:
        fault = self.world.task.fault
        asked = fault.requested if fault and fault.lookups else None
        if fault and asked and fault.lookups[-1].fact.row < asked.row:
            self.depart(fact, "kvm_mmu_spte_requested inside of it", "it came before", asked)

    def _map_ret(self, fact: Fact) -> None:
        """What kvm_tdp_mmu_map() returns for an SPTE that it stored depends on the kernel."""
        fault = self.world.task.fault
        if fault is None or fault.map is None or fact.ret is None:
            return
        if fault.requested is None and Kind.SPTE_REQUESTED in self.world.seen:
            self.depart(fact, "kvm_mmu_spte_requested in it", "none", fault.map)

    def _fault_ret(self, fact: Fact) -> None:
        fault = self.world.task.fault
        if fault is None or fault.fact.kind != Kind.PAGE_FAULT or fact.ret is None:
            return
        if self.world.dialect.arch != "x86":
            return
        if fault.installed and fact.ret == self.world.dialect.retry:
            self.checked += 1
            self.depart(
                fact, "another return: the SPTE is installed", "RET_PF_RETRY", fault.installed
            )
        elif fault.installed:
            self.world.dialect.installed(fact.ret)
        if fact.ret == self.world.dialect.fixed:
            self.checked += 1
            if not fault.installed and not fault.fixed_fast:
                self.depart(fact, "an SPTE installed by this fault", "none", fault.fact)


class RetryHasReason(Rule):
    """A fault that looked a page up goes back to retry only if a window was open, or ended, since
    the fault began, or if its page table was dropped or changed by another task."""

    name = "retry_has_reason"
    mmus = X86
    evidence = (ANY_START, ANY_END, IN_PROGRESS, FAULT_RET, LOOKUP)

    def handlers(self) -> Iterable[tuple[int, Handler]]:
        self._dropped = -1
        yield Kind.ZAP_PAGE_TABLE, self._drop
        yield Kind.ZAP_ALL, self._drop
        yield Kind.FAULT_RET, self._fault_ret
        yield Kind.FAULTIN_RET, self._fault_ret

    def _drop(self, fact: Fact) -> None:
        self._dropped = fact.row

    def _fault_ret(self, fact: Fact) -> None:
        fault, vm = self.world.task.fault, self.world.vm_of_task()
        if fact.ret != self.world.dialect.retry or fault is None or vm is None or fault.contended:
            return
        if not vm.all_known:
            return
        if fact.function == "kvm_handle_guest_abort" or not fault.lookups:
            return
        found = fault.lookups[-1].returned
        # A page that has to be read in is faulted in by a worker, and the fault is retried.
        if found is None or found.pfn is None or found.pfn >= PFN_ERROR:
            return
        self.checked += 1
        began = fault.fact.row
        if not vm.windows and vm.moved < began and self._dropped < began:
            self.depart(
                fact,
                "an SPTE: no window was open or ended since the fault began",
                "RET_PF_RETRY",
                fault.fact,
            )


def last_lookup(fault: Fault | None, fact: Fact) -> Lookup | None:
    """The lookup that a map belongs to; None where that is not known."""
    if fault is None or not fault.lookups or fact.pfn is None or fact.pfn >= PFN_ERROR:
        return None
    mask = -PAGES.get(fact.level or 1, 1)
    for lookup in reversed(fault.lookups):
        found = lookup.returned.pfn if lookup.returned else None
        if found is not None and found & mask == fact.pfn & mask:
            return lookup
    return None
