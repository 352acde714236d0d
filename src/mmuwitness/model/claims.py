"""What is claimed of a host: one function for each claim, whose docstring is the claim.

`always` claims are predicates of a state, read when the locks they need are free; `sometimes`
claims ask whether a `cover` mark is ever reached; `never`, that it is not.  `eventually` claims
are in liveness.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from mmuwitness.model.era import UnknownName
from mmuwitness.model.kvm import kvm_main
from mmuwitness.model.kvm.kvm_host import GONE
from mmuwitness.model.kvm.memslots import gfn_to_hva, gfn_to_memslot, kvm_memslots
from mmuwitness.model.mm.mm_types import PMD_HUGE, UNKNOWN, pmd_of, walk_page_tables
from mmuwitness.model.primitives import feature
from mmuwitness.model.state import Bounded


@dataclass(frozen=True)
class Claim:
    """kind: "always" (function is a predicate of the host), "eventually" (function says that
    nothing is pending), "sometimes" or "never" (mark is the text of a `cover`).  number: as in the
    invariants' list (I1 ...), or ""."""

    name: str
    kind: str
    text: str
    number: str = ""
    function: Callable[..., Any] | None = None
    locks: tuple[str, ...] = ()
    mark: str = ""

    def needs(self, host: Any) -> list[tuple[Any, str]]:
        """The locks that must be free for the claim to be read, as (object, field)."""
        owner = {"ptl": host.mm, "mmu_lock": host.kvm, "mn_invalidate_lock": host.kvm}
        return [(owner[lock], lock) for lock in self.locks]


CLAIMS: dict[str, Claim] = {}

EVENTUALLY: dict[str, Claim] = {}
"""Claims that are asked for apart: see liveness.py, which fills this."""


def always(number: str, *locks: str) -> Callable[[Any], Any]:
    def register(function: Any) -> Any:
        text = " ".join((function.__doc__ or "").split())
        CLAIMS[function.__name__] = Claim(
            function.__name__, "always", text, number, function, locks
        )
        return function

    return register


def reach(kind: str, name: str, mark: str, text: str) -> None:
    CLAIMS[name] = Claim(name, kind, text, mark=mark)


def always_claims() -> list[Claim]:
    return [claim for claim in CLAIMS.values() if claim.kind == "always"]


def find_claims(names: Iterable[str]) -> list[Claim]:
    """Claims by name or by number; UnknownName lists what exists."""
    claims = CLAIMS | EVENTUALLY
    numbers = {c.number: c.name for c in claims.values() if c.number}
    found = []
    for name in names:
        known = numbers.get(name, name)
        if known not in claims:
            raise UnknownName("claim", name, [*claims, *numbers])
        found.append(claims[known])
    return found


@always("I1", "ptl", "mmu_lock")
def coherent(host: Any) -> Any:
    """Where no window is open, a present SPTE maps the page that the PTE maps, and is writable
    only if the PTE is."""
    kvm = host.kvm
    mm = host.mm
    for gfn in kvm.gfns:
        addr = gfn_to_hva(kvm, gfn)
        spte = kvm.spte[gfn]
        if mm.open_windows[addr] == 0 and spte.present:
            pte = walk_page_tables(mm, addr)
            if not pte.present or pte.page is not spte.page or (spte.write and not pte.write):
                return False
    return True


@always("I2", "ptl", "mmu_lock")
def absent_in_window(host: Any) -> Any:
    """While a window is open the SPTEs under it are absent; a kernel with change_pte may have put
    there what the PTE maps, and a fault beside the window a huge leaf, while the PMD is huge."""
    kvm = host.kvm
    mm = host.mm
    for gfn in kvm.gfns:
        addr = gfn_to_hva(kvm, gfn)
        spte = kvm.spte[gfn]
        if mm.open_windows[addr] != 0 and spte.present:
            pte = walk_page_tables(mm, addr)
            # whoever splits the PMD opens a window over all of it
            beside = kvm.arch.is_huge(kvm, gfn) and mm.pmd[pmd_of(addr)] == PMD_HUGE
            if not feature.change_pte_op and not beside:
                return False
            if not pte.present or pte.page is not spte.page:
                return False
    return True


@always("I3", "ptl", "mmu_lock")
def no_stale_tlb_entry(host: Any) -> Any:
    """Under an open window, or where none is open and ptl is free, no vCPU's TLB maps anything
    but the page that the PTE maps, and none is writable where the PTE is not."""
    kvm = host.kvm
    mm = host.mm
    for vcpu in kvm.vcpus:
        for gfn in kvm.gfns:
            entry = vcpu.tlb[gfn]
            if entry.present:
                pte = walk_page_tables(mm, gfn_to_hva(kvm, gfn))
                if not pte.present or pte.page is not entry.page or (entry.write and not pte.write):
                    return False
    return True


@always("I4")
def freed_page_unmapped(host: Any) -> Any:
    """A page that is free is mapped by no SPTE and by no vCPU's TLB."""
    kvm = host.kvm
    for gfn in kvm.gfns:
        spte = kvm.spte[gfn]
        if spte.present and spte.page.refcount == 0:
            return False
        spte = kvm.invalid_spte[gfn]
        if spte.present and spte.page.refcount == 0:
            return False
        for vcpu in kvm.vcpus:
            entry = vcpu.tlb[gfn]
            if entry.present and entry.page.refcount == 0:
                return False
    return True


@always("I5")
def shared_page_read_only(host: Any) -> Any:
    """No SPTE and no vCPU's TLB lets a guest write to a KSM page, or to a page mapped twice."""
    kvm = host.kvm
    for gfn in kvm.gfns:
        spte = kvm.spte[gfn]
        if spte.present and spte.write and (spte.page.ksm or spte.page.mapcount > 1):
            return False
        for vcpu in kvm.vcpus:
            entry = vcpu.tlb[gfn]
            if entry.present and entry.write and (entry.page.ksm or entry.page.mapcount > 1):
                return False
    return True


@always("I6", "ptl")
def no_lost_write(host: Any) -> Any:
    """The page that a PTE maps holds what was last stored to its address, by a guest or by the
    host, and every load returned that."""
    mm = host.mm
    if mm.stale_load:
        return False
    for addr in mm.addresses:
        pte = mm.pte[addr]
        if pte.present and mm.written[addr] != UNKNOWN and pte.page.content != mm.written[addr]:
            return False
    return True


@always("I8", "mmu_lock", "mn_invalidate_lock")
def windows_balanced(host: Any) -> Any:
    """mmu_invalidate_in_progress and mn_active_invalidate_count are never negative, and are 0
    when nobody is between start() and end()."""
    kvm = host.kvm
    count = kvm.mmu_invalidate_in_progress
    active = kvm.mn_active_invalidate_count
    if host.mm.invalidating == 0:
        return count == 0 and active == 0
    return count >= 0 and active >= 0


@always("I9", "mmu_lock")
def seq_before_count(host: Any) -> Any:
    """Whoever finds mmu_lock free and mmu_invalidate_in_progress lowered finds
    mmu_invalidate_seq bumped, too."""
    return host.kvm.mmu_invalidate_in_progress >= host.kvm.unbumped


@always("I11")
def deleted_slot_unmapped(host: Any) -> Any:
    """Once a memslot is gone, no SPTE and no vCPU's TLB maps anything at its gfns: what the guest
    does there is MMIO."""
    kvm = host.kvm
    slots = kvm_memslots(kvm)
    for gfn in kvm.gfns:
        if gfn_to_memslot(kvm, slots, gfn) == GONE:
            if kvm.spte[gfn].present:
                return False
            for vcpu in kvm.vcpus:
                if vcpu.tlb[gfn].present:
                    return False
    return True


@always("", "mmu_lock")
def obsolete_root_unmapped(host: Any) -> Any:
    """A root that a memslot update made invalid and zapped maps nothing from then on: nobody looks
    there again."""
    kvm = host.kvm
    held: Bounded(0, 2) = 0  # type: ignore[valid-type]
    for vcpu in kvm.vcpus:
        if vcpu.root_invalid:
            held += 1
    if kvm.tdp_mmu_root_count == held:
        for gfn in kvm.gfns:
            if kvm.invalid_spte[gfn].present:
                return False
    return True


@always("I13")
def change_pte_alone(host: Any) -> Any:
    """A change_pte that makes or changes a leaf sees exactly one open window, its own."""
    return not host.kvm.crowded


reach("sometimes", "changes", kvm_main.CHANGES, "change_pte changes a present SPTE.")
reach("sometimes", "installs_read_only", kvm_main.INSTALLS_READ_ONLY,
      "change_pte installs a read-only SPTE where none was.")  # fmt: skip
reach("sometimes", "installs_writable", kvm_main.INSTALLS_WRITABLE,
      "change_pte installs a writable SPTE where none was.")  # fmt: skip
reach("sometimes", "zaps", kvm_main.ZAPS, "change_pte zaps a present SPTE.")
reach("sometimes", "flushes", kvm_main.FLUSHES, "change_pte makes KVM flush remote TLBs.")
reach("sometimes", "in_invalid_slot", kvm_main.IN_INVALID_SLOT,
      "change_pte gets to a memslot that is being deleted.")  # fmt: skip
reach("never", "warns", kvm_main.NOT_BRACKETED,
      "The WARN_ON of change_pte is never reached: every call is inside a window.")  # fmt: skip
