"""mm/vmscan.c, mm/page_idle.c: pages are asked for, whether guests have used them.  Also designs:
what KVM does to say so.
"""

from __future__ import annotations

from typing import Any

from mmuwitness.model.kvm.aging import kvm_age_hva_range
from mmuwitness.model.kvm.kvm_main import kvm_flush_remote_tlbs
from mmuwitness.model.mm.mm_types import put_page
from mmuwitness.model.mm.page_idle import page_idle_clear_pte_refs_one
from mmuwitness.model.mm.rmap import folio_referenced_one
from mmuwitness.model.primitives import atomic, cover, trace

RECLAIM, PAGE_IDLE = 0, 1

YOUNG = "a guest has used a page since reclaim last asked"


def look_at_page(mm, addr, asks):
    """kswapd's clear_flush_young, or clear_young of the idle bitmap.  What is found old stays here;
    swap-pressure is where it goes."""
    if asks == PAGE_IDLE:
        page_idle_clear_pte_refs_one(mm, addr)
    else:
        page = isolated_page(mm, addr)
        if page is not None:
            if folio_referenced_one(mm, addr, page):
                cover(YOUNG)
            put_page(page)


def isolated_page(mm, addr):
    """The page that is mapped at an address, referenced: the LRU is by address here."""
    with atomic("lru_lock, and a reference only if the page is not being freed"):
        pte = mm.pte[addr]
        if pte.present and pte.page.lru:
            pte.page.refcount += 1
            return pte.page
    return None


def kvm_age_gfn_zaps(self, kvm, range):
    """As on EPT without A bits before access tracking (from memory: v3.18 to v4.10): the leaf goes,
    and the fault that brings it back says that it was used."""
    young = kvm.spte[range.start].present
    if kvm.arch.kvm_unmap_gfn_range(kvm, range):
        kvm_flush_remote_tlbs(kvm)
    return young


def kvm_clear_flush_young_ranged(kvm, start, end):
    """The flush is of the range, not of the VM."""
    trace("kvm_age_hva", start, end)
    young = kvm_age_hva_range(kvm, start, end, False)
    if young:
        for gfn in kvm.gfns:
            if start <= gfn and gfn < end:
                kvm.arch.flush_gfn(kvm, gfn)
    return young


ZAPS: dict[str, Any] = {"arch.arch.Arch.kvm_age_gfn": kvm_age_gfn_zaps}
RANGED: dict[str, Any] = {
    "kvm.aging.kvm_mmu_notifier_clear_flush_young": kvm_clear_flush_young_ranged
}
"""In the place of the model's."""
