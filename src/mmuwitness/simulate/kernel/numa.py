"""kernel/sched/fair.c, mm/memory.c, mm/mempolicy.c: the NUMA scanner, and pages that follow a fault
to another node.  Also a design: windows for it that zap only what becomes PROT_NONE.
"""

from __future__ import annotations

from typing import Any

from mmuwitness.model.kvm.aging import kvm_null_fn
from mmuwitness.model.kvm.kvm_host import KvmHvaRange
from mmuwitness.model.kvm.kvm_main import (
    __kvm_handle_hva_range,
    kvm_mmu_invalidate_begin,
    kvm_mmu_notifier_invalidate_range_end,
    kvm_mmu_unmap_gfn_range,
)
from mmuwitness.model.mm.mm_types import Pte, copy_page, get_page, pte_present, put_page
from mmuwitness.model.mm.mprotect import change_prot_numa, numa_skips, populated
from mmuwitness.model.mm.rmap import lru_cache_add, page_add_new_anon_rmap, try_to_unmap_one
from mmuwitness.model.mm.tlb import flush_tlb_batched_pending
from mmuwitness.model.primitives import choose, feature, read_lock, spin_lock, trylock, unlock

PERCENT = 100


def task_numa_work(mm, addr, pages):
    """One scan: the next scan_size of the address space."""
    with read_lock(mm.mmap_lock):
        change_prot_numa(mm, addr, min(addr + pages, mm.nr_addresses))


def do_numa_page(mm, addr, pte):
    """As the model's; but the page may be wanted on another node, and is moved there first.  Which
    it is is a matter of chance here: numa_migrates percent of all hinting faults."""
    if choose(PERCENT) < mm.numa_migrates:
        migrate_misplaced_folio(mm, addr, pte.page)
    with spin_lock(mm.ptl):
        now = mm.pte[addr]
        if now.protnone:
            mm.pte[addr] = now.replace(present=True, protnone=False)


def migrate_misplaced_folio(mm, addr, page):
    """Isolated, unmapped in a window of its own, copied, mapped again.  (The fault holds mmap_lock:
    nobody unmaps the page meanwhile.)"""
    if trylock(page.lock):
        if page.refcount == 1 and page.mapcount == 1:
            get_page(page)
            unmap_and_move(mm, addr, page)
            unlock(page.lock)
            put_page(page)
        else:
            unlock(page.lock)


def unmap_and_move(mm, addr, page):
    """mm/migrate.c, of a page that is mapped at one address."""
    try_to_unmap_one(mm, addr, page, True, Pte(migration=True, page=page))
    new = page
    if page.mapcount == 0 and page.refcount == 1:
        copied = copy_page(page, mm)
        if copied is not None:
            new = copied
            lru_cache_add(new)
    if page.mapcount == 0:
        if new is page:
            get_page(new)
        with spin_lock(mm.ptl):
            write = mm.pte[addr].write
            page_add_new_anon_rmap(new, addr)
            mm.pte[addr] = Pte(present=True, write=write, dirty=write, page=new)


def change_pte_range_told(mm, addr):
    """change_pte_range(), with the callback: subscribers zap what is PROT_NONE from here on."""
    changed = False
    with spin_lock(mm.ptl):
        flush_tlb_batched_pending(mm)
        pte = mm.pte[addr]
        if pte_present(pte) and not numa_skips(pte.page):
            mm.pte[addr] = pte.replace(present=False, protnone=True)
            for subscription in mm.notifier_subscriptions:
                kvm_mmu_notifier_numa_protect(subscription.owner, addr, addr + 1)
            changed = True
    return changed


def change_pmd_range(mm, start, end, prot_numa):
    """In the place of the model's: start() counts the window and zaps nothing.  (NUMA balancing is
    the only one here that changes protections.)"""
    pages = False
    opened = end if feature.protection_window_lazy else start
    if not feature.protection_window_lazy:
        begin_numa_window(mm, start, end)
    for addr in mm.addresses:
        if start <= addr and addr < end and populated(mm, addr):
            if opened == end:
                opened = addr
                begin_numa_window(mm, opened, end)
            pages = change_pte_range_told(mm, addr) or pages
    if opened < end:
        for subscription in mm.notifier_subscriptions:
            kvm_mmu_notifier_invalidate_range_end(subscription.owner, opened, end)
    return pages


def begin_numa_window(mm, start, end):
    for subscription in mm.notifier_subscriptions:
        kvm_mmu_notifier_begin_numa(subscription.owner, start, end)


def kvm_mmu_notifier_begin_numa(kvm, start, end):
    """kvm_mmu_notifier_invalidate_range_start() with MMU_NOTIFIER_RANGE_NUMA."""
    if feature.mn_active_invalidate_count:
        with spin_lock(kvm.mn_invalidate_lock):
            kvm.mn_active_invalidate_count += 1
    range = KvmHvaRange(
        start=start,
        end=end,
        pte=Pte(),
        on_lock=kvm_mmu_invalidate_begin,
        handler=None,
        flush_on_ret=False,
        elides_lock=feature.invalidate_elides_lock,
        may_block=True,
    )
    __kvm_handle_hva_range(kvm, range)


def kvm_mmu_notifier_numa_protect(kvm, start, end):
    """ptl is held.  The window is open: faults retry until it is closed."""
    range = KvmHvaRange(
        start=start,
        end=end,
        pte=Pte(),
        on_lock=kvm_null_fn,
        handler=kvm_mmu_unmap_gfn_range,
        flush_on_ret=True,
        elides_lock=feature.invalidate_elides_lock,
        may_block=False,
    )
    __kvm_handle_hva_range(kvm, range)


MIGRATES: dict[str, Any] = {"mm.memory.do_numa_page": do_numa_page}
"""In the place of the model's, where a page may follow its fault."""

TOLD: dict[str, Any] = {"mm.mprotect.change_pmd_range": change_pmd_range}
"""The design."""
