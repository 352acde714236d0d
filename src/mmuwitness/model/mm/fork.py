"""kernel/fork.c: a child whose pages are its parent's, until one of them writes.

The child is a second mm with page tables of its own, and one thread; KVM is subscribed to the
parent alone.
"""

from __future__ import annotations

from mmuwitness.model.mm.gup import get_user_pages_unlocked
from mmuwitness.model.mm.memory import copy_page_range, handle_mm_fault, host_access
from mmuwitness.model.mm.mm_types import UNKNOWN, put_page
from mmuwitness.model.mm.mmap import exit_mmap
from mmuwitness.model.mm.tlb import flush_tlb_range
from mmuwitness.model.primitives import choose, read_lock, write_lock


def dup_mmap(child, mm):
    """TLBs of the parent are flushed last, after every window: until then one of its threads may
    write to what the child will share, but the child does not run yet."""
    with write_lock(mm.mmap_lock):
        with write_lock(child.mmap_lock):
            copy_page_range(child, mm)
            flush_tlb_range(mm, 0, mm.nr_addresses)
            for addr in child.addresses:
                pte = child.pte[addr]
                child.written[addr] = pte.page.content if pte.present else UNKNOWN


def child_thread(child):
    """Reads and writes, then exits."""
    access = choose(2 * child.nr_addresses + 1)
    while access != 2 * child.nr_addresses:
        if not host_access(child, access >> 1, (access & 1) == 1):
            with read_lock(child.mmap_lock):
                handle_mm_fault(child, access >> 1, (access & 1) == 1)
        access = choose(2 * child.nr_addresses + 1)


def kernel_clone(child, mm):
    """Any number of children, one after another."""
    while True:
        dup_mmap(child, mm)
        child_thread(child)
        exit_mmap(child)


def fork_and_exit(child, mm):
    """As kernel_clone, with children that do nothing."""
    while True:
        dup_mmap(child, mm)
        exit_mmap(child)


def vmsplice_and_exit(child, mm):
    """fs/splice.c: a child puts a page into a pipe and unmaps it, and somebody reads the pipe
    later."""
    while True:
        dup_mmap(child, mm)
        page = get_user_pages_unlocked(child, 0, False)
        if page is not None:
            child.spliced_content = page.content
            child.spliced = page
        exit_mmap(child)
        if page is not None:
            child.spliced = None
            put_page(page)
