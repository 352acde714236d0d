"""What tasks do over and over that a trace shows as activities of their own: one round is one.

Written in the process language, of the model's functions only. An address is 0, in the memslot, or
1, beside it; where it stands for a run of pages (`Spec.runs`), a window over both is one that the
memslot covers in part. A huge PMD is two addresses.
"""

from __future__ import annotations

from mmuwitness.model.kvm.kvm_main import kvm_mmu_notifier_release
from mmuwitness.model.mm.huge_memory import __split_huge_pmd
from mmuwitness.model.mm.khugepaged import collapse_huge_page
from mmuwitness.model.mm.madvise import madvise_free_single_vma
from mmuwitness.model.mm.memory import copy_page_range, zap_page_range, zap_page_range_single
from mmuwitness.model.mm.mm_types import Pte
from mmuwitness.model.mm.mprotect import change_protection
from mmuwitness.model.mm.mremap import move_page_tables
from mmuwitness.model.mm.rmap import page_vma_mkclean_one, try_to_unmap_one
from mmuwitness.model.primitives import choose


def zaps(mm):
    """madvise(MADV_DONTNEED), munmap(), exit: of any range."""
    while True:
        part = choose(3)
        zap_page_range(mm, 1 if part == 2 else 0, 1 if part == 0 else 2)


def zaps_of_huge(mm):
    """madvise(MADV_DONTNEED) of a part of a huge page."""
    while True:
        zap_page_range_single(mm, choose(4))


def frees_lazily(mm):
    """madvise(MADV_FREE) of any range."""
    while True:
        part = choose(3)
        madvise_free_single_vma(mm, 1 if part == 2 else 0, 1 if part == 0 else 2)


def collapses(mm):
    """A table of small pages becomes a huge PMD."""
    while True:
        collapse_huge_page(mm, 2 * choose(2))


def protects(mm):
    """mprotect(), and passes of NUMA balancing."""
    while True:
        part = choose(3)
        prot_numa = choose(2) == 1
        change_protection(mm, 1 if part == 2 else 0, 1 if part == 0 else 2, prot_numa)


def moves(mm):
    """mremap() into the memslot or out of it."""
    while True:
        addr = choose(2)
        move_page_tables(mm, addr, 1 - addr)


def migrates(mm):
    """A page is unmapped at one of its addresses, to be moved."""
    while True:
        page = mm.pages[0]
        try_to_unmap_one(mm, choose(2), page, True, Pte(migration=True, page=page))


def reclaims(mm):
    """A page is unmapped at one of its addresses, to be swapped out."""
    while True:
        page = mm.pages[0]
        try_to_unmap_one(mm, choose(2), page, True, Pte(swap=True, page=page))


def cleans(mm):
    """A page of a file is made clean at one of its addresses, to be written back."""
    while True:
        page_vma_mkclean_one(mm, choose(2), mm.pages[0])


def splits(mm):
    """A huge PMD becomes a table of the same pages."""
    while True:
        __split_huge_pmd(mm, choose(4))


def forks(child, mm):
    while True:
        copy_page_range(child, mm)


def releases(kvm):
    """The VM ends, or a memslot goes, and all page tables with it."""
    while True:
        kvm_mmu_notifier_release(kvm)
