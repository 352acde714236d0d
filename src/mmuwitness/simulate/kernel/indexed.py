"""What the model looks up by going through all pages, for many: the same functions with an index.

Each stands in the place of the model's function of that name.  The model's go through the few pages
of a scenario; a property test holds both equal.  TLBs are not kept here: kernels in which a stale
entry matters are for `check`.
"""

from __future__ import annotations

from types import FunctionType
from typing import Any

from mmuwitness.model.arch.x86 import may_prefetch
from mmuwitness.model.arch.x86_spte import make_spte
from mmuwitness.model.kvm.kvm_host import VALID, KvmPageFault
from mmuwitness.model.kvm.memslots import gfn_to_hva, gfn_to_memslot, kvm_memslots
from mmuwitness.model.kvm.vcpu import (
    NO_EXIT,
    PERMISSION_FAULT,
    TRANSLATION_FAULT,
    handle_exit,
)
from mmuwitness.model.mm.gup import get_user_page_fast_only
from mmuwitness.model.primitives import atomic, feature
from mmuwitness.model.state import Bounded, Field, Ref, Struct

PTE_PREFETCH_NUM = 8


ANY_WORD = (1 << 62) - 1


class Zone(Struct):
    """Free pages, on a stack.  Wired: ksm (of `simulate.kernel.ksm`), high_wmark."""

    free = Field(Ref("Page"), array="Page")
    nr_free = Field(Bounded(0, "Page"))


class Kicks(Struct):
    """count: how often the vCPUs of a VM were asked to flush their TLBs."""

    count = Field(Bounded(0, ANY_WORD))


def free_page(mm, first):
    """The page that was freed last; None if there is none."""
    zone = mm.zone
    if zone.nr_free == 0:
        return None
    zone.nr_free -= 1
    return zone.free[zone.nr_free]


def put_page(page):
    """As the model's; a freed page goes onto the stack, and a KSM page out of the stable tree."""
    with atomic("page_ref_dec_and_test: whoever drops the last reference frees the page alone"):
        page.refcount -= 1
        if page.refcount == 0:
            zone = page.zone
            if page.ksm and page.content < zone.ksm.classes:
                # others were written to between ksmd's look at them and their write protection
                if zone.ksm.stable[page.content] is page:
                    zone.ksm.stable[page.content] = None
            page.content = 0
            page.ksm = False
            page.lru = False
            zone.free[zone.nr_free] = page
            zone.nr_free += 1


def first_page(mm):
    """Only a search of all pages begins somewhere."""
    return None


def page_add_new_anon_rmap(page, addr):
    with atomic("mapcount is an atomic_t"):
        page.mapcount += 1


def page_remove_rmap(page, addr):
    with atomic("mapcount is an atomic_t"):
        page.mapcount -= 1


def set_page_stable_node(page, addr):
    with atomic("the page is locked"):
        page.ksm = True


def guest_access(vcpu, gfn, write):
    """As the model's, for a guest whose TLBs hold what its SPTEs say."""
    kvm = vcpu.kvm
    with atomic("the walker reads an SPTE whole"):
        spte = kvm.spte[gfn]
        if not spte.present or (kvm.access_tracking and spte.aged):
            return TRANSLATION_FAULT
        if write and not spte.write:
            return PERMISSION_FAULT
        if kvm.ages_pages and spte.aged:
            kvm.spte[gfn] = spte.replace(aged=False)
    return NO_EXIT


def guest_touch(vcpu, gfn, write):
    """An access that the vCPU's SPTEs do not let: the exit, and what it leads to."""
    exit_reason = guest_access(vcpu, gfn, write)
    if exit_reason != NO_EXIT:
        permission = exit_reason == PERMISSION_FAULT
        fault = KvmPageFault(vcpu=vcpu, gfn=gfn, write=write, permission=permission)
        handle_exit(vcpu, fault)


def free_empty_table(self, kvm, table):
    first = table << kvm.table_shift
    used = False
    with atomic("mmu_lock is held for writing: nobody maps anything"):
        for gfn in kvm.gfns:
            if first <= gfn and gfn < first + (1 << kvm.table_shift):
                if kvm.spte[gfn].present:
                    used = True
                    break
    if not used:
        kvm.table[table] = False


def direct_pte_prefetch(self, kvm, fault):
    """Up to PTE_PREFETCH_NUM - 1 neighbours: the model's tables are not larger than that."""
    if feature.prefetch_guard and kvm.mmu_invalidate_in_progress != 0:
        return
    if not may_prefetch(kvm, fault):
        return
    first = fault.gfn - (fault.gfn & (PTE_PREFETCH_NUM - 1))
    for gfn in kvm.gfns:
        if first <= gfn and gfn < first + PTE_PREFETCH_NUM:
            in_slot = gfn_to_memslot(kvm, kvm_memslots(kvm), gfn) == VALID
            if gfn != fault.gfn and in_slot and not kvm.spte[gfn].present:
                page = get_user_page_fast_only(kvm.mm, gfn_to_hva(kvm, gfn), True)
                if page is not None:
                    kvm.spte[gfn] = make_spte(kvm, gfn, page, True, False)
                    put_page(page)


def flush_remote_tlbs(self, kvm):
    """Paid for by whoever waits; and by vCPUs in the guest, who are interrupted for it (a broadcast
    does not)."""
    kvm.kicks.count += 1


def flush_gfn(self, kvm, gfn):
    """Counted, and paid for by whoever waits."""


INDEXED: dict[str, Any] = {
    "mm.mm_types.free_page": free_page,
    "mm.mm_types.put_page": put_page,
    "mm.mm_types.first_page": first_page,
    "mm.rmap.page_add_new_anon_rmap": page_add_new_anon_rmap,
    "mm.rmap.page_remove_rmap": page_remove_rmap,
    "mm.ksm.set_page_stable_node": set_page_stable_node,
    "kvm.vcpu.guest_access": guest_access,
    "arch.arm64.Arm64.free_empty_table": free_empty_table,
    "arch.x86.X86Shadow.direct_pte_prefetch": direct_pte_prefetch,
    "arch.arch.Arch.flush_remote_tlbs": flush_remote_tlbs,
    "arch.arch.Arch.flush_gfn": flush_gfn,
}
"""By the qualified name of what each stands for."""

assert all(isinstance(made, FunctionType) for made in INDEXED.values())
