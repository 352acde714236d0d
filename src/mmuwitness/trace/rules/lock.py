"""The rule of mmu_lock: what runs under it for writing runs alone."""

from __future__ import annotations

from collections.abc import Iterable

from mmuwitness.trace.facts import Fact
from mmuwitness.trace.rules.rule import Handler, Rule, evidence
from mmuwitness.trace.rules.state import PAGE_SHIFT, Vm
from mmuwitness.trace.tracepoints import Kind

# By entry: return. Longer walks may drop the lock on their way.
EXCLUSIVE = {
    Kind.UNMAP_GFN: Kind.UNMAP_GFN_RET,
    Kind.SET_SPTE_GFN: Kind.SET_SPTE_GFN_RET,
    Kind.STAGE2_UNMAP: Kind.STAGE2_UNMAP_RET,
}
SHARED = {
    Kind.MAP: Kind.MAP_RET,
    Kind.STAGE2_MAP: Kind.STAGE2_MAP_RET,
    Kind.RELAX: Kind.RELAX_RET,
}
INSIDE = (
    Kind.SPTE_CHANGED,
    Kind.SET_SPTE,
    Kind.SPTE_REQUESTED,
    Kind.SPTE_STORE,
    *(Kind.TDP_UNMAP_GFN, Kind.TDP_UNMAP_GFN_RET, Kind.TDP_SET_SPTE_GFN, Kind.TDP_SET_SPTE_GFN_RET),
)


class MmuLock(Rule):
    """What unmaps or changes a page under mmu_lock runs alone: no other task touches SPTEs of that
    VM between the call and the return."""

    name = "mmu_lock"
    evidence = (
        evidence("entry and return probes on kvm_unmap_gfn_range", *EXCLUSIVE),
        evidence("entry and return probes on kvm_tdp_mmu_map", *SHARED, *INSIDE),
    )

    def handlers(self) -> Iterable[tuple[int, Handler]]:
        self._held: dict[Vm, dict[int, Fact]] = {}  # by task, the call that holds it
        for entry, returned in EXCLUSIVE.items():
            yield entry, self._enter
            yield returned, self._leave
        for entry, returned in SHARED.items():
            yield entry, self._enter
            yield returned, self._leave
        for kind in INSIDE:
            yield kind, self._touch

    def _enter(self, fact: Fact) -> None:
        if vm := self._touch(fact):
            self._held.setdefault(vm, {}).setdefault(fact.pid, fact)

    def _leave(self, fact: Fact) -> None:
        for held in self._held.values():
            call = held.get(fact.pid)
            if call and fact.kind in (EXCLUSIVE.get(Kind(call.kind)), SHARED.get(Kind(call.kind))):
                del held[fact.pid]

    def _touch(self, fact: Fact) -> Vm | None:
        vm = self.world.vm_of_task()
        if vm is None:
            return None
        self.checked += 1
        alone = fact.kind in EXCLUSIVE and is_short(fact)
        for pid, call in self._held.get(vm, {}).items():
            if pid != fact.pid and (alone or (call.kind in EXCLUSIVE and is_short(call))):
                self.depart(
                    fact,
                    f"nothing of this VM until {call.function}() has returned",
                    f"{fact.function}()",
                    call,
                )
                del self._held[vm][pid]
                break
        return vm


def is_short(call: Fact) -> bool:
    """A walk of one page, which never drops the lock."""
    if call.size is not None:
        return call.size == 1 << PAGE_SHIFT
    return call.gfn is not None and call.gfn_end == call.gfn + 1
