"""Mutants of the primary MMU's own operations, and what they break."""

from __future__ import annotations

from mmuwitness.model.mm.madvise import madvise_free_pte_range
from mmuwitness.model.mm.memory import copy_page_range
from mmuwitness.model.mm.mmu_notifier import ptep_clear_flush
from mmuwitness.model.mm.mprotect import change_pmd_range, change_pte_range
from mmuwitness.model.mm.mremap import move_ptes
from mmuwitness.model.mm.rmap import page_remove_rmap
from mmuwitness.model.primitives import spin_lock, write_lock
from tests.model.mutants import mutant


@mutant("mprotect does not flush", "mm.mprotect.change_protection")
def change_and_flush_nothing(mm, start, end, prot_numa):
    change_pmd_range(mm, start, end, prot_numa)


@mutant("mprotect opens no window", "mm.mprotect.change_pmd_range")
def change_without_window(mm, start, end, prot_numa):
    pages = False
    for addr in mm.addresses:
        pages = change_pte_range(mm, addr, prot_numa) or pages
    return pages


@mutant("fork does not flush", "mm.fork.dup_mmap")
def duplicate_and_flush_nothing(child, mm):
    with write_lock(mm.mmap_lock):
        with write_lock(child.mmap_lock):
            copy_page_range(child, mm)
            for addr in child.addresses:
                child.written[addr] = child.pte[addr].page.content


@mutant("mremap opens no window", "mm.mremap.move_page_tables")
def move_without_window(mm, old_addr, new_addr):
    move_ptes(mm, old_addr, new_addr)


@mutant("reclaim does not flush", "mm.tlb.try_to_unmap_flush")
def unmap_and_flush_nothing(mm):
    return


@mutant("KVM tells no page that it is dirty", "kvm.kvm_main.kvm_set_pfn_dirty")
def set_nothing_dirty(kvm, page):
    return


@mutant("MADV_FREE opens no window", "mm.madvise.madvise_free_single_vma")
def free_without_window(mm, start, end):
    madvise_free_pte_range(mm, start)


@mutant("reclaim drops pages that were written to", "mm.rmap.discard_lazyfree")
def discard_dirty(mm, addr, page, pte):
    page_remove_rmap(page, addr)
    return True


@mutant("a page is made clean without a window", "mm.rmap.page_vma_mkclean_one")
def clean_without_window(mm, addr, page):
    cleaned = False
    with spin_lock(mm.ptl):
        pte = mm.pte[addr]
        if pte.present and (pte.dirty or pte.write):
            ptep_clear_flush(mm, addr)
            mm.pte[addr] = pte.replace(write=False, dirty=False)
            cleaned = True
    return cleaned


HARMLESS_MM = [
    # as in HARMLESS of test_claims.py
    # the leaf stays, and hands its dirty bit on when reclaim's own window zaps it
    ("MADV_FREE opens no window", "madv_free", "v6.1", "x86-tdp"),
]

BREAKS_MM = [
    # as in BREAKS of test_claims.py, the claims by their numbers
    ("mprotect does not flush", "mprotect_thread", "v6.1", "x86-tdp", "I3h"),
    ("mprotect opens no window", "mprotect", "v6.1", "x86-tdp", "I1 I3"),
    ("mprotect opens no window", "numa", "v6.12", "arm64", "I1 I3"),
    ("fork does not flush", "fork_thread", "v6.1", "x86-tdp", "I6c"),
    ("mremap opens no window", "mremap", "v6.1", "x86-tdp", "I1 I3 I6"),
    ("reclaim does not flush", "reclaim_thread", "v7.3", "x86-tdp", "I4h I6"),
    ("faults map all writable", "zero_page", "v6.1", "x86-tdp", "I1 I3 I5z I6"),
    ("-zero_page_is_put", "zero_page", "v6.1", "x86-tdp", "I4r"),
    ("-uncounted_pfn_refused", "pfnmap", "v6.1", "arm64", "I4"),
    ("-fork_copies_pinned", "fork_dma", "v6.1", "x86-tdp", "I6 I6c"),
    ("-fork_write_protect_seq", "fork_dma", "v6.1", "x86-tdp", "I6 I6c"),
    ("-mremap_flushes_under_ptl", "mremap_truncate", "v6.1", "arm64", "I4h"),
    ("-batched_flush_seen", "reclaim_mprotect", "v7.3", "x86-tdp", "I3h"),
    ("-swapin_exclusive", "swapin", "v7.3", "arm64", "I6"),
    ("KVM tells no page that it is dirty", "madv_free", "v6.1", "x86-tdp", "I6 I6f"),
    ("KVM tells no page that it is dirty", "madv_free", "v7.3", "x86-shadow", "I6 I6f"),
    ("KVM tells no page that it is dirty", "madv_free", "v6.1", "arm64", "I6 I6f"),
    ("MADV_FREE opens no window", "madv_free", "v6.1", "arm64", "I6 I6f"),
    ("MADV_FREE opens no window", "madv_free", "v7.3", "x86-tdp", "I6 I6f"),
    ("reclaim drops pages that were written to", "madv_free", "v6.1", "x86-tdp", "I6 I6f"),
    ("a page is made clean without a window", "writeback", "v6.1", "x86-tdp", "I1 I3 I7d"),
    ("a page is made clean without a window", "writeback", "v6.12", "arm64", "I1 I3 I7d"),
    ("-lazyfree_counts_references", "madv_free_dio", "v6.1", "x86-tdp", "I6 I6f"),
]
