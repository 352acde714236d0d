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
    is_zero_page,
    load,
    pte_none,
    pte_present,
    put_page,
    store,
    vma_allows,
)
from mmuwitness.model.mm.mmu_notifier import (
    mmu_notifier_invalidate_range_end,
    mmu_notifier_invalidate_range_start,
    ptep_clear_flush,
    set_pte_at_notify,
)
from mmuwitness.model.mm.rmap import (
    lru_cache_add,
    page_add_anon_rmap,
    page_add_new_anon_rmap,
    page_remove_rmap,
)
from mmuwitness.model.mm.shmem import shmem_fault
from mmuwitness.model.mm.tlb import (
    dec_tlb_flush_pending,
    flush_tlb_batched_pending,
    flush_tlb_range,
    inc_tlb_flush_pending,
)
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
    if not vma_allows(mm, addr, write):
        # VM_FAULT_SIGSEGV: -EFAULT for the VMM, whose guest tries again
        return
    pte = mm.pte[addr]
    if pte_none(pte):
        do_anonymous_page(mm, addr, write)
    elif pte.migration:
        migration_entry_wait(mm, addr)
    elif pte.swap:
        do_swap_page(mm, addr, pte)
    elif pte.protnone:
        do_numa_page(mm, addr, pte)
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
            if mm.frees_lazily and mm.written[addr] == UNKNOWN:
                # not before: what is mapped meanwhile may be written to, and freed lazily again
                mm.written[addr] = page.content
            write = vma_allows(mm, addr, True)
            mm.pte[addr] = Pte(present=True, write=write, dirty=write, page=page)
            return
    put_page(page)


def do_anonymous_page(mm, addr, write):
    """A page of zeros.  A read fault gets the zero page in scenarios that have one."""
    if mm.zero_page is not None and not write:
        map_zero_page(mm, addr)
        return
    page = alloc_page(mm)
    if page is not None:
        if not mm.frees_lazily and mm.written[addr] == UNKNOWN:
            mm.written[addr] = 0
        install_page(mm, addr, page, Pte())


def map_zero_page(mm, addr):
    """Not counted, and not on the reverse mapping."""
    with spin_lock(mm.ptl):
        if pte_none(mm.pte[addr]):
            if mm.written[addr] == UNKNOWN:
                mm.written[addr] = 0
            mm.pte[addr] = Pte(present=True, page=mm.zero_page)


def do_swap_page(mm, addr, pte):
    """A page in the swap cache is locked by whoever reclaims it: wait until that is over.

    Of several who fault, one reads the slot, and nobody swaps out to it meanwhile.  Not from v4.15
    to v6.7, where the device is synchronous (zram): what was read may be old when it is mapped,
    and the PTE as it was."""
    if pte.page is not None:
        wait_until(mm.pte[addr] != pte)
        return
    exclusive = mm.swap_cache and feature.swapin_exclusive
    if exclusive and not trylock(mm.swapcache):
        # the caller faults again
        return
    page = alloc_page(mm)
    if page is not None:
        page.content = mm.swap[addr]
        install_page(mm, addr, page, pte)
    if exclusive:
        unlock(mm.swapcache)


def do_numa_page(mm, addr, pte):
    """A NUMA hinting fault: the page is accessible again.  No notifier: nothing could be mapped.
    (That the page may be moved to another node first is migration, in scenarios of its own.)"""
    with spin_lock(mm.ptl):
        if mm.pte[addr] == pte:
            mm.pte[addr] = pte.replace(present=True, protnone=False)


def do_wp_page(mm, addr, pte, unshare):
    """ptl is held, and dropped here.  A page that nobody else refers to is reused.

    Until commit 09854ba94c6a ("mm: do_wp_page() simplification") in v5.9 PTEs were counted, not
    references.  That is asked where there is a child; elsewhere references count on every kernel:
    older ones copied less."""
    counts_ptes = mm.forks and not feature.wp_counts_references
    page = pte.page
    if mm.writes_back:
        wp_page_shared(mm, addr, pte)
        return
    reuse = False
    if is_zero_page(mm, page):
        unlock(mm.ptl)
        wp_page_copy(mm, addr, pte, unshare)
        return
    if not unshare and trylock(page.lock):
        # ksmd holds the page lock while it turns the page into a KSM page
        reuse = not page.ksm and (page.mapcount if counts_ptes else page.refcount) == 1
        unlock(page.lock)
    if reuse:
        wp_page_reuse(mm, addr, pte)
        unlock(mm.ptl)
    else:
        get_page(page)
        unlock(mm.ptl)
        wp_page_copy(mm, addr, pte, unshare)


def wp_page_shared(mm, addr, pte):
    """A page of a file, mapped shared: nobody copies it.  ptl is held, and dropped here.
    do_page_mkwrite() locks the page, so that it is not being written back."""
    page = pte.page
    get_page(page)
    unlock(mm.ptl)
    lock(page.lock)
    with spin_lock(mm.ptl):
        if mm.pte[addr] == pte:
            wp_page_reuse(mm, addr, pte)
    unlock(page.lock)
    put_page(page)


def wp_page_reuse(mm, addr, pte):
    """Read-only to writable, same page: no notifier."""
    mm.pte[addr] = pte.replace(write=True, dirty=True)


def wp_page_copy(mm, addr, orig_pte, unshare):
    """Break COW.  The caller took a reference to the old page, dropped last: it cannot be freed
    before the window is closed.  (None to the zero page, which is never freed.)"""
    old = orig_pte.page
    counted = not is_zero_page(mm, old)
    new = copy_page(old, mm)
    if new is None:
        if counted:
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
            if counted:
                page_remove_rmap(old, addr)
                put_page(old)
            copied = True
    if feature.change_pte_bracketed:
        mmu_notifier_invalidate_range_end(mm, addr, addr + 1)
    if not copied:
        put_page(new)
    if counted:
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
                flush_tlb_range(mm, addr, addr + 1)
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
    """The page that was mapped, for the caller to put; None if there is none to put."""
    with spin_lock(mm.ptl):
        flush_tlb_batched_pending(mm)
        pte = mm.pte[addr]
        if pte_present(pte):
            mm.pte[addr] = Pte()
            mm.written[addr] = UNKNOWN
            if not is_zero_page(mm, pte.page):
                page_remove_rmap(pte.page, addr)
                return pte.page
    return None


def copy_page_range(child, mm):
    """Both mmap_locks are held for writing.  One window over the VMA; since commit 57efa1fe5957
    ("mm/gup: prevent gup_fast from racing with COW during fork") in v5.11 it is a write section of
    write_protect_seq, too (pairs with pin_user_pages_fast)."""
    mmu_notifier_invalidate_range_start(mm, 0, mm.nr_addresses)
    if feature.fork_write_protect_seq:
        with atomic("raw_write_seqcount_begin: one word"):
            mm.write_protect_seq.odd = True
            mm.write_protect_seq.sequence.bump()
    for addr in mm.addresses:
        copy_present_pte(child, mm, addr)
    if feature.fork_write_protect_seq:
        with atomic("raw_write_seqcount_end: one word"):
            mm.write_protect_seq.odd = False
            mm.write_protect_seq.sequence.bump()
    mmu_notifier_invalidate_range_end(mm, 0, mm.nr_addresses)


def copy_present_pte(child, mm, addr):
    """Both map the page read-only.  Since commit 70e806e4e645 ("mm: Do early cow for pinned pages
    during fork() for ptes") in v5.9 a pinned one is copied for the child.  (Where there is a child
    nobody swaps or migrates.)"""
    with spin_lock(mm.ptl):
        pte = mm.pte[addr]
        if pte.present:
            with spin_lock(child.ptl):
                if feature.fork_copies_pinned and pte.page.pincount != 0:
                    copy_present_page(child, pte, addr)
                else:
                    get_page(pte.page)
                    page_add_anon_rmap(pte.page)
                    mm.pte[addr] = pte.replace(write=False)
                    child.pte[addr] = pte.replace(write=False)


def copy_present_page(child, pte, addr):
    """Without memory the kernel tries again; here the child goes without the page."""
    new = copy_page(pte.page, child)
    if new is not None:
        page_add_anon_rmap(new)
        child.pte[addr] = pte.replace(page=new)


def unmap_mapping_pages(mm):
    """A file is truncated: its mappings are found without mmap_lock.  (Pages are anonymous here; a
    fault after it finds a new page, as after the file has grown again.)"""
    for addr in mm.addresses:
        inc_tlb_flush_pending(mm)
        mmu_notifier_invalidate_range_start(mm, addr, addr + 1)
        page = zap_pte_range(mm, addr)
        mmu_notifier_invalidate_range_end(mm, addr, addr + 1)
        if page is not None:
            flush_tlb_range(mm, addr, addr + 1)
            put_page(page)
        dec_tlb_flush_pending(mm)


def unmap_mapping_range(mm):
    """Any number of times."""
    while True:
        unmap_mapping_pages(mm)


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


def host_reader(mm):
    """A thread of the VMM that reads guest memory; its TLB may let it write."""
    while True:
        addr = choose(mm.nr_addresses)
        if not host_access(mm, addr, False):
            with read_lock(mm.mmap_lock):
                handle_mm_fault(mm, addr, False)


def host_thread(mm):
    """A thread of the VMM that reads and writes guest memory."""
    while True:
        access = choose(2 * mm.nr_addresses)
        if not host_access(mm, access >> 1, (access & 1) == 1):
            with read_lock(mm.mmap_lock):
                handle_mm_fault(mm, access >> 1, (access & 1) == 1)
