"""mm/memory.c: page faults of the primary MMU, copy-on-write, zapping."""

from __future__ import annotations

from mmuwitness.model.mm.huge_memory import split_huge_pmd
from mmuwitness.model.mm.hugetlb import hugetlb_fault, hugetlb_fault_shared
from mmuwitness.model.mm.migrate import migration_entry_wait
from mmuwitness.model.mm.mm_types import (
    UNKNOWN,
    Pte,
    alloc_page,
    copy_page,
    get_page,
    load,
    pte_none,
    put_page,
    store,
)
from mmuwitness.model.mm.mmu_notifier import (
    mmu_notifier_invalidate_range_end,
    mmu_notifier_invalidate_range_start,
    ptep_clear_flush,
    set_pte_at_notify,
)
from mmuwitness.model.mm.rmap import lru_cache_add, page_add_new_anon_rmap, page_remove_rmap
from mmuwitness.model.mm.shmem import shmem_fault
from mmuwitness.model.primitives import (
    atomic,
    choose,
    feature,
    lock,
    read_lock,
    spin_lock,
    trylock,
    unlock,
    wait_until,
)


def handle_mm_fault(mm, addr, write, unshare=False):
    """mmap_lock is held.  The PTE is read without ptl and compared again under it."""
    if mm.huge_pages and mm.vma_huge:
        hugetlb_fault(mm, addr)
        return
    if mm.shares_pmds:
        hugetlb_fault_shared(mm, addr)
        return
    if mm.shmem:
        shmem_fault(mm, addr)
        return
    pte = mm.pte[addr]
    if pte_none(pte):
        do_anonymous_page(mm, addr)
    elif pte.migration:
        migration_entry_wait(mm, addr)
    elif pte.swap:
        do_swap_page(mm, addr, pte)
    elif write or unshare:
        lock(mm.ptl)
        if mm.pte[addr] == pte and not pte.write:
            do_wp_page(mm, addr, pte, unshare)
        else:
            unlock(mm.ptl)


def install_page(mm, addr, page, expected):
    """Map a new page where the PTE still is what the fault saw.  No notifier: none to present."""
    with spin_lock(mm.ptl):
        if mm.pte[addr] == expected:
            page_add_new_anon_rmap(page, addr)
            lru_cache_add(page)
            mm.pte[addr] = Pte(present=True, write=True, dirty=True, page=page)
            return
    put_page(page)


def do_anonymous_page(mm, addr):
    """A page of zeros.  The zero page is not modelled: a read fault gets a page, too."""
    page = alloc_page(mm)
    if page is not None:
        if mm.written[addr] == UNKNOWN:
            mm.written[addr] = 0
        install_page(mm, addr, page, Pte())


def do_swap_page(mm, addr, pte):
    """A page in the swap cache is locked by whoever reclaims it: wait until that is over."""
    if pte.page is not None:
        wait_until(mm.pte[addr] != pte)
        return
    page = alloc_page(mm)
    if page is not None:
        page.content = mm.swap[addr]
        install_page(mm, addr, page, pte)


def do_wp_page(mm, addr, pte, unshare):
    """ptl is held, and dropped here.  A page that nobody else refers to is reused."""
    page = pte.page
    reuse = False
    if not unshare and trylock(page.lock):
        # ksmd holds the page lock while it turns the page into a KSM page
        reuse = not page.ksm and page.refcount == 1
        unlock(page.lock)
    if reuse:
        wp_page_reuse(mm, addr, pte)
        unlock(mm.ptl)
    else:
        get_page(page)
        unlock(mm.ptl)
        wp_page_copy(mm, addr, pte, unshare)


def wp_page_reuse(mm, addr, pte):
    """Read-only to writable, same page: no notifier."""
    mm.pte[addr] = pte.replace(write=True, dirty=True)


def wp_page_copy(mm, addr, orig_pte, unshare):
    """Break COW.  The caller took a reference to the old page, dropped last: it cannot be freed
    before the window is closed."""
    old = orig_pte.page
    new = copy_page(old, mm)
    if new is None:
        put_page(old)
        return
    copied = False
    if feature.change_pte_bracketed:
        mmu_notifier_invalidate_range_start(mm, addr, addr + 1)
    with spin_lock(mm.ptl):
        if mm.pte[addr] == orig_pte:
            entry = Pte(present=True, write=not unshare, dirty=not unshare, page=new)
            ptep_clear_flush(mm, addr)
            page_add_new_anon_rmap(new, addr)
            lru_cache_add(new)
            set_pte_at_notify(mm, addr, entry)
            page_remove_rmap(old, addr)
            put_page(old)
            copied = True
    if feature.change_pte_bracketed:
        mmu_notifier_invalidate_range_end(mm, addr, addr + 1)
    if not copied:
        put_page(new)
    put_page(old)


def zap_page_range_single(mm, addr):
    """MADV_DONTNEED of one page.  The page is freed after the window, by tlb_finish_mmu()."""
    with read_lock(mm.mmap_lock):
        mmu_notifier_invalidate_range_start(mm, addr, addr + 1)
        split_huge_pmd(mm, addr)
        page = zap_pte_range(mm, addr)
        mmu_notifier_invalidate_range_end(mm, addr, addr + 1)
        if page is not None:
            if mm.host_thread:
                mm.tlb[addr] = Pte()
            put_page(page)


def zap_page_range(mm, start, end):
    """MADV_DONTNEED of several pages in one window; a full batch is freed inside it."""
    with read_lock(mm.mmap_lock):
        mmu_notifier_invalidate_range_start(mm, start, end)
        for addr in mm.addresses:
            if start <= addr and addr < end:
                page = zap_pte_range(mm, addr)
                if page is not None:
                    put_page(page)
        mmu_notifier_invalidate_range_end(mm, start, end)


def zap_pte_range(mm, addr):
    with spin_lock(mm.ptl):
        pte = mm.pte[addr]
        if pte.present:
            mm.pte[addr] = Pte()
            mm.written[addr] = UNKNOWN
            page_remove_rmap(pte.page, addr)
            return pte.page
    return None


def madvise_dontneed(mm):
    """The VMM drops guest pages, any number of times (a balloon)."""
    while True:
        zap_page_range_single(mm, choose(mm.nr_addresses))


def madvise_dontneed_first(mm):
    """The VMM drops the first guest page, any number of times."""
    while True:
        zap_page_range_single(mm, 0)


def madvise_dontneed_range(mm, start):
    """All guest pages from one on, in one window; any number of times."""
    while True:
        zap_page_range(mm, start, mm.nr_addresses)


def host_access(mm, addr, write):
    """One instruction of a VMM thread: a TLB hit, or a walk that fills the TLB; else a fault."""
    with atomic("a TLB hit is one access, and the walker reads a PTE whole"):
        entry = mm.tlb[addr]
        if entry.present and (entry.write or not write):
            if write:
                store(mm, entry.page, addr)
            else:
                load(mm, entry.page, addr)
            return True
        pte = mm.pte[addr]
        if pte.present and (pte.write or not write):
            mm.tlb[addr] = pte
            return True
    return False


def host_thread(mm):
    """A thread of the VMM that reads and writes guest memory."""
    while True:
        access = choose(2 * mm.nr_addresses)
        if not host_access(mm, access >> 1, (access & 1) == 1):
            with read_lock(mm.mmap_lock):
                handle_mm_fault(mm, access >> 1, (access & 1) == 1)
