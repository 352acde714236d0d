"""mm/ksm.c: merging pages of equal content, in two windows with a comparison between them."""

from __future__ import annotations

from mmuwitness.model.mm.gup import follow_page
from mmuwitness.model.mm.memory import handle_mm_fault
from mmuwitness.model.mm.mm_types import Pte, first_page, get_page, put_page
from mmuwitness.model.mm.mmu_notifier import (
    mmu_notifier_invalidate_range_end,
    mmu_notifier_invalidate_range_start,
    ptep_clear_flush,
    set_pte_at_notify,
)
from mmuwitness.model.mm.rmap import page_add_anon_rmap, page_remove_rmap
from mmuwitness.model.primitives import (
    atomic,
    choose,
    feature,
    read_lock,
    spin_lock,
    trylock,
    unlock,
    write_lock,
)


def write_protect_page(mm, addr, page):
    """First window: after it nobody can write to the page, unless the PTE changes again.

    Returns whether that was done, and the PTE as it was left."""
    done = False
    orig_pte = Pte()
    if feature.change_pte_bracketed:
        mmu_notifier_invalidate_range_start(mm, addr, addr + 1)
    with spin_lock(mm.ptl):
        pte = mm.pte[addr]
        if pte.present and pte.page is page:
            if pte.write or pte.dirty or tlb_may_be_writable(mm):
                entry = ptep_clear_flush(mm, addr)
                if page.mapcount + 1 != page.refcount:
                    # somebody else holds a reference (GUP): it may be written to
                    mm.pte[addr] = entry
                else:
                    orig_pte = entry.replace(write=False, dirty=False)
                    set_pte_at_notify(mm, addr, orig_pte)
                    done = True
            else:
                orig_pte = pte
                done = True
    if feature.change_pte_bracketed:
        mmu_notifier_invalidate_range_end(mm, addr, addr + 1)
    return done, orig_pte


def tlb_may_be_writable(mm):
    """Until commit b3a81d0841a9 ("mm: fix KSM data corruption") in v4.13 a PTE that was read-only
    and clean was enough, whatever TLBs held."""
    if mm.defers_flushes and feature.ksm_checks_tlb_flush_pending:
        return mm.tlb_flush_pending != 0
    return False


def replace_page(mm, addr, page, kpage, orig_pte):
    """Second window: the PTE maps the KSM page, if it is still as the first window left it."""
    replaced = False
    if feature.change_pte_bracketed:
        mmu_notifier_invalidate_range_start(mm, addr, addr + 1)
    with spin_lock(mm.ptl):
        if mm.pte[addr] == orig_pte:
            get_page(kpage)
            page_add_anon_rmap(kpage)
            ptep_clear_flush(mm, addr)
            set_pte_at_notify(mm, addr, Pte(present=True, page=kpage))
            page_remove_rmap(page, addr)
            put_page(page)
            replaced = True
    if feature.change_pte_bracketed:
        mmu_notifier_invalidate_range_end(mm, addr, addr + 1)
    return replaced


def pages_identical(page, kpage):
    """memcmp, with both pages write-protected and `page` locked."""
    return page.content == kpage.content


def try_to_merge_one_page(mm, addr, page, kpage):
    """kpage None: the page becomes a KSM page in place."""
    if not trylock(page.lock):
        return False
    merged = False
    done, orig_pte = write_protect_page(mm, addr, page)
    if done:
        if kpage is None:
            set_page_stable_node(page, addr)
            merged = True
        elif pages_identical(page, kpage):
            merged = replace_page(mm, addr, page, kpage, orig_pte)
    unlock(page.lock)
    return merged


def set_page_stable_node(page, addr):
    """The page is a KSM page.  `stable_tree_append` puts it back on the reverse mapping."""
    with atomic("the page is locked: rmap walkers, who look at both, wait"):
        page.ksm = True
        page.rmap[addr] = False


def try_to_merge_with_ksm_page(mm, addr, page, kpage):
    with read_lock(mm.mmap_lock):
        return try_to_merge_one_page(mm, addr, page, kpage)


def stable_tree_append(kpage, addr):
    """The address is on the KSM page's reverse mapping from here on, not before."""
    with spin_lock(kpage.lock):
        kpage.rmap[addr] = True


def stable_tree_search(mm, page):
    """A KSM page of equal content, referenced; None if there is none."""
    first = first_page(mm)
    with atomic("KSM pages do not change: the walk compares with what each of them holds"):
        if mm.nr_first_pages > 1 and is_merge_target(first, page):
            get_page(first)
            return first
        for kpage in mm.pages:
            if is_merge_target(kpage, page):
                get_page(kpage)
                return kpage
    return None


def is_merge_target(kpage, page):
    return kpage.ksm and page is not kpage and kpage.content == page.content


def cmp_and_merge_page(mm, addr, page):
    """Merge with a KSM page of equal content; else become one."""
    kpage = stable_tree_search(mm, page)
    if kpage is None:
        if try_to_merge_with_ksm_page(mm, addr, page, None):
            stable_tree_append(page, addr)
    else:
        if try_to_merge_with_ksm_page(mm, addr, page, kpage):
            stable_tree_append(kpage, addr)
        put_page(kpage)


def scan_get_next_rmap_item(mm, addr):
    """The page at an address, referenced, if it is not a KSM page already."""
    with read_lock(mm.mmap_lock):
        return follow_page(mm, addr, False)


def ksm_do_scan(mm, addr):
    page = scan_get_next_rmap_item(mm, addr)
    if page is not None:
        if not page.ksm:
            cmp_and_merge_page(mm, addr, page)
        put_page(page)


def ksmd(mm):
    """ksm_scan_thread(): any number of merges."""
    while True:
        ksm_do_scan(mm, choose(mm.nr_mergeable))


def break_ksm(mm, addr):
    """Until commit 6cce3314b928 ("mm/ksm: fix KSM COW breaking with userfaultfd-wp via
    FAULT_FLAG_UNSHARE") in v6.2 a write fault; since then the new PTE is read-only."""
    page = follow_page(mm, addr, False)
    if page is not None:
        if page.ksm:
            handle_mm_fault(mm, addr, not feature.break_ksm_unshare, feature.break_ksm_unshare)
        put_page(page)


def unmerge_ksm_pages(mm):
    """madvise(MADV_UNMERGEABLE) over the whole range, any number of times."""
    while True:
        with write_lock(mm.mmap_lock):
            for addr in mm.addresses:
                break_ksm(mm, addr)
