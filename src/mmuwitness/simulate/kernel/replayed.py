"""What a trace tells: a touch of a guest, or an invalidation with its cause, done again."""

from __future__ import annotations

from mmuwitness.model.kvm.kvm_host import KvmPageFault
from mmuwitness.model.kvm.vcpu import NO_EXIT, PERMISSION_FAULT, guest_access, handle_exit
from mmuwitness.model.mm.ksm import replace_page, try_to_merge_with_ksm_page
from mmuwitness.model.mm.memory import zap_page_range
from mmuwitness.model.mm.mm_types import copy_page, get_page, put_page
from mmuwitness.model.mm.mmu_notifier import (
    mmu_notifier_invalidate_range_end,
    mmu_notifier_invalidate_range_start,
)
from mmuwitness.model.mm.mprotect import change_protection
from mmuwitness.model.primitives import atomic, lock, read_lock, spin_lock, unlock, write_lock
from mmuwitness.simulate.kernel.numa import unmap_and_move
from mmuwitness.simulate.kernel.vmscan import shrink_folio

WINDOW, DROP, MERGE, REPLACE, NUMA, PROTECT, MOVE, SWAP = range(8)
"""What is done to a range.  WINDOW: of a cause that changes no page here, or is not known."""

ACTION_BITS = 3


def replay_touch(vcpu, gfn, write):
    """An access that faulted in the trace: it is made, with as many exits as it takes here."""
    exit_reason = guest_access(vcpu, gfn, write)
    while exit_reason != NO_EXIT:
        permission = exit_reason == PERMISSION_FAULT
        fault = KvmPageFault(vcpu=vcpu, gfn=gfn, write=write, permission=permission)
        handle_exit(vcpu, fault)
        exit_reason = guest_access(vcpu, gfn, write)


def replay_window(mm, addr, what):
    """what: an action, and above its bits the pages of the range."""
    action = what & ((1 << ACTION_BITS) - 1)
    end = addr + (what >> ACTION_BITS)
    if action == DROP:
        zap_page_range(mm, addr, end)
    elif action == NUMA:
        with read_lock(mm.mmap_lock):
            change_protection(mm, addr, end, True)
    elif action == PROTECT:
        with write_lock(mm.mmap_lock):
            change_protection(mm, addr, end, False)
    elif action == WINDOW:
        mmu_notifier_invalidate_range_start(mm, addr, end)
        mmu_notifier_invalidate_range_end(mm, addr, end)
    else:
        replay_at_page(mm, addr, action)


def replay_at_page(mm, addr, action):
    """Of one page that is mapped."""
    page = mapped_page(mm, addr)
    if page is not None:
        if action == MERGE:
            try_to_merge_with_ksm_page(mm, addr, page, None)
        elif action == REPLACE:
            replace_by_equal(mm, addr, page)
        else:
            lock(page.lock)
            if action == SWAP:
                shrink_folio(mm, addr, page)
            elif page.refcount == 2 and page.mapcount == 1:
                unmap_and_move(mm, addr, page)
            unlock(page.lock)
        put_page(page)


def mapped_page(mm, addr):
    with spin_lock(mm.ptl):
        pte = mm.pte[addr]
        if pte.present:
            get_page(pte.page)
            return pte.page
    return None


def replace_by_equal(mm, addr, page):
    """A KSM page of the same content: which other page it was merged with a trace does not tell."""
    kpage = copy_page(page, mm)
    if kpage is not None:
        with atomic("nobody else knows the page"):
            kpage.ksm = True
        with spin_lock(mm.ptl):
            pte = mm.pte[addr]
        if pte.present and not pte.write and pte.page is page:
            replace_page(mm, addr, page, kpage, pte)
        put_page(kpage)
