"""Rules of SPTEs: what start() zaps is gone, and comes back only by an install."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mmuwitness.trace.facts import Fact
from mmuwitness.trace.rules.rule import (
    UNMAP_GFN_RET,
    X86,
    Handler,
    Rule,
    evidence,
    hex_range,
    show_hex,
)
from mmuwitness.trace.rules.state import Vm
from mmuwitness.trace.tracepoints import Kind

SPTE_CHANGED = evidence("kvmmmu:kvm_tdp_mmu_spte_changed", Kind.SPTE_CHANGED)
RANGE_PAGES_MAX = 4096
FACTS_MAX = 100_000
Key = tuple[int, int, int]  # address space, level, gfn


class SpteChain(Rule):
    """An SPTE's old value is the one that was last put there: a zapped SPTE stays zapped until a
    fault or change_pte installs one, and maps that page until it is zapped."""

    name = "zapped_stays_zapped"
    mmus = ("tdp",)
    evidence = (SPTE_CHANGED,)

    def handlers(self) -> Iterable[tuple[int, Handler]]:
        self._sptes: dict[Vm, dict[Key, Fact]] = {}
        self._generation = 0
        yield Kind.SPTE_CHANGED, self._changed
        yield Kind.ZAP_ALL, self._zap_all
        yield Kind.UNMAP_GFN_RET, self._unmapped
        yield Kind.SET_SPTE, self._set_spte

    def _changed(self, fact: Fact) -> None:
        vm, world = self.world.vm_of_task(), self.world
        if self._generation != world.generation:
            self._generation = world.generation
            self._sptes.clear()
        if fact.gfn is None or fact.level is None:
            return
        key = fact.slot or 0, fact.level, fact.gfn  # of this event, `slot` is its as_id (SMM)
        if vm is None:
            for each in self._sptes.values():
                each.pop(key, None)
            return
        sptes = self._sptes.setdefault(vm, {})
        if last := sptes.get(key):
            self.checked += 1
            was, now = world.present(last.new), world.present(fact.old)
            moved = was and now and world.pfn(last.new or 0) != world.pfn(fact.old or 0)
            if was != now or moved:
                self.depart(
                    fact,
                    f"old value {show_hex(last.new)}, as it was left",
                    f"old value {show_hex(fact.old)}",
                    last,
                )
        if fact.level > 1 and world.leaf(fact.old, fact.level) != world.leaf(fact.new, fact.level):
            # A huge page is split or put together: tables come and go whole.
            pages = 1 << (9 * (fact.level - 1))
            for below in [k for k in sptes if k[1] < fact.level and 0 <= k[2] - fact.gfn < pages]:
                del sptes[below]
        keep(sptes, key, fact)

    def _set_spte(self, fact: Fact) -> None:
        """The TDP MMU tells what it installed twice."""
        vm, fault = self.world.vm_of_task(), self.world.task.fault
        if vm is None or fault is None or fault.map is None or fact.new is None:
            return
        last = self._sptes.get(vm, {}).get((0, fact.level or 1, fact.gfn or 0))
        if last is None or fault.map.gfn != fact.gfn or not self.world.present(fact.new):
            return
        self.checked += 1
        if self.world.pfn(last.new or 0) != self.world.pfn(fact.new):
            self.depart(
                fact,
                f"kvm_tdp_mmu_spte_changed to {show_hex(fact.new)} first",
                f"it was left at {show_hex(last.new)}",
                last,
            )

    def _zap_all(self, fact: Fact) -> None:
        """A new root: the old one's SPTEs are zapped while faults fill the new one."""
        self._sptes.clear()

    def _unmapped(self, fact: Fact) -> None:
        window, vm = self.world.window, self.world.vm_of_task()
        if window is None or vm is None or not window.gfns:
            return
        sptes = self._sptes.get(vm, {})
        first, last = window.gfns[-1]
        if last - first > RANGE_PAGES_MAX:
            return
        self.checked += 1
        for gfn in range(first, last):
            for level in (1, 2, 3):
                last_change = sptes.get((0, level, gfn & -(1 << (9 * (level - 1)))))
                if last_change and self.world.leaf(last_change.new, level):
                    self.depart(
                        fact,
                        f"no SPTE left for gfns {hex_range(first, last)}",
                        f"{show_hex(last_change.new)} for gfn {gfn:#x} was not zapped",
                        last_change,
                    )
                    return


class UnmapTells(Rule):
    """Unmapping a range zaps SPTEs of that range and no other, and returns true only if there was
    one to zap."""

    name = "unmap_tells"
    mmus = X86
    evidence = (UNMAP_GFN_RET,)

    def handlers(self) -> Iterable[tuple[int, Handler]]:
        self._zapped: dict[int, int] = {}  # by task, leaves inside the present call
        self._absent: dict[Vm, dict[int, Fact]] = {}  # gfn -> the unmap after which none came
        self._installed: dict[Vm, dict[int, Fact]] = {}  # gfn -> the install since
        self._dropped = -1
        self._told: dict[int, Fact] = {}  # by task, what the TDP MMU returned
        self._rmaps = False  # a nested guest's SPTEs are not the TDP MMU's
        yield Kind.UNMAP_GFN, self._unmap
        yield Kind.UNMAP_GFN_RET, self._unmap_ret
        yield Kind.TDP_UNMAP_GFN_RET, self._tdp_unmap_ret
        yield Kind.SPTE_CHANGED, self._changed
        yield Kind.SET_SPTE, self._set_spte
        yield Kind.ZAP_PAGE_TABLE, self._drop
        yield Kind.ZAP_ALL, self._drop

    def _drop(self, fact: Fact) -> None:
        self._dropped = fact.row

    def _unmap(self, fact: Fact) -> None:
        self._zapped[fact.pid] = 0
        self._told.pop(fact.pid, None)

    def _changed(self, fact: Fact) -> None:
        call, world = self.world.task.unmapping, self.world
        if call is None or call.gfn is None or call.gfn_end is None or fact.gfn is None:
            return
        if world.leaf(fact.old, fact.level) and not world.present(fact.new):
            self._zapped[fact.pid] = self._zapped.get(fact.pid, 0) + 1
            self.checked += 1
            pages = 1 << (9 * ((fact.level or 1) - 1))
            if fact.gfn + pages <= call.gfn or call.gfn_end <= fact.gfn:
                self.depart(
                    fact,
                    f"a zap in gfns {hex_range(call.gfn, call.gfn_end)}",
                    f"a zap of gfn {fact.gfn:#x}",
                    call,
                )

    def _tdp_unmap_ret(self, fact: Fact) -> None:
        call = self.world.task.unmapping
        if call is None or fact.ret is None or Kind.SPTE_CHANGED not in self.world.seen:
            return
        self.checked += 1
        self._told[fact.pid] = fact
        zapped = self._zapped.get(fact.pid, 0)
        if fact.ret and not zapped:
            self.depart(fact, "false: nothing was zapped", f"{fact.ret}", call)
        # A longer walk may flush on its way, and then has nothing left to tell.
        elif zapped and not fact.ret and (call.gfn_end or 0) - (call.gfn or 0) == 1:
            self.depart(fact, "true: an SPTE was zapped", "0", call)

    def _set_spte(self, fact: Fact) -> None:
        vm = self.world.vm_of_task()
        if fact.gfn is None or not self.world.present(fact.new):
            return
        if vm is None:  # of some VM: nothing is known to be absent any more
            self._absent.clear()
            return
        last = self.world.task.spte_changed
        self._rmaps |= last is None or last.gfn != fact.gfn
        absent, installed = self._absent.setdefault(vm, {}), self._installed.setdefault(vm, {})
        for gfn in range(fact.gfn, fact.gfn + (1 << (9 * min((fact.level or 1) - 1, 2)))):
            absent.pop(gfn, None)
        if fact.level == 1:
            keep(installed, fact.gfn, fact)

    def _unmap_ret(self, fact: Fact) -> None:
        window, vm = self.world.window, self.world.vm_of_task()
        if window is None or vm is None or not window.gfns or fact.ret is None:
            return
        first, last = window.gfns[-1]
        if last - first > RANGE_PAGES_MAX:
            return
        self.checked += 1
        told = self._told.get(fact.pid)
        if told and (told.ret != fact.ret if not self._rmaps else (told.ret or 0) > fact.ret):
            self.depart(fact, f"{told.ret}, as the TDP MMU returned", f"{fact.ret}", told)
        absent, installed = self._absent.setdefault(vm, {}), self._installed.setdefault(vm, {})
        gfns = range(first, last)
        if fact.ret and all(gfn in absent for gfn in gfns):
            self.depart(
                fact, "false: nothing was mapped since the last unmap", f"{fact.ret}", absent[first]
            )
        mapped = [installed.pop(gfn) for gfn in gfns if gfn in installed]
        mapped = [each for each in mapped if each.row > self._dropped]
        if mapped and not fact.ret and self.world.dialect.mmu == "rmap":
            self.depart(fact, "true: an SPTE was there to zap", "0", mapped[0])
        for gfn in gfns:
            keep(absent, gfn, fact)


def keep(facts: dict[Any, Fact], key: Any, fact: Fact) -> None:
    """The last fact of each key, as many as memory allows: what is forgotten is not checked."""
    facts.pop(key, None)
    facts[key] = fact
    if len(facts) > FACTS_MAX:
        del facts[next(iter(facts))]
