"""KSM calls change_pte alone where every subscriber has it; else it opens its windows as before.

A guest that reads a merged page then never exits for it.  change_pte comes without a window, so it
bumps mmu_invalidate_seq itself, as until v5.13, and neither warns nor returns early.  In a memslot
that is being deleted it zaps: skipping, as since v6.4, would leave what nobody else invalidates.
COW and uprobes do not call it any more.
"""

from mmuwitness.model.kvm.kvm_main import CHANGES, FLUSHES, INSTALLS_READ_ONLY
from mmuwitness.model.mm.mm_types import Pte, get_page, put_page
from mmuwitness.model.mm.mmu_notifier import (
    mmu_notifier_change_pte,
    mmu_notifier_invalidate_range_end,
    mmu_notifier_invalidate_range_start,
    ptep_clear_flush,
)
from mmuwitness.model.mm.rmap import page_add_anon_rmap, page_remove_rmap
from mmuwitness.model.primitives import cover, spin_lock

FEATURES = ("+change_pte_bumps_seq", "-change_pte_returns_early", "-change_pte_warns_unbracketed")


def all_handle_change_pte(mm):
    handled = True
    for subscription in mm.notifier_subscriptions:
        if subscription.change_pte is None:
            handled = False
    return handled


def invalidate_start_unless_handled(mm, addr):
    if not all_handle_change_pte(mm):
        mmu_notifier_invalidate_range_start(mm, addr, addr + 1)


def invalidate_end_unless_handled(mm, addr):
    if not all_handle_change_pte(mm):
        mmu_notifier_invalidate_range_end(mm, addr, addr + 1)


def set_pte_at_ksm(mm, addr, pte):
    mmu_notifier_change_pte(mm, addr, pte)
    mm.pte[addr] = pte


def set_pte_at_notify(mm, addr, pte):
    """COW and uprobes: the window around it is enough."""
    mm.pte[addr] = pte


def write_protect_page(mm, addr, page):
    done = False
    orig_pte = Pte()
    invalidate_start_unless_handled(mm, addr)
    with spin_lock(mm.ptl):
        pte = mm.pte[addr]
        if pte.present and pte.page is page:
            if pte.write or pte.dirty:
                entry = ptep_clear_flush(mm, addr)
                if page.mapcount + 1 != page.refcount:
                    mm.pte[addr] = entry
                else:
                    orig_pte = entry.replace(write=False, dirty=False)
                    set_pte_at_ksm(mm, addr, orig_pte)
                    done = True
            else:
                orig_pte = pte
                done = True
    invalidate_end_unless_handled(mm, addr)
    return done, orig_pte


def replace_page(mm, addr, page, kpage, orig_pte):
    replaced = False
    invalidate_start_unless_handled(mm, addr)
    with spin_lock(mm.ptl):
        if mm.pte[addr] == orig_pte:
            get_page(kpage)
            page_add_anon_rmap(kpage)
            ptep_clear_flush(mm, addr)
            set_pte_at_ksm(mm, addr, Pte(present=True, page=kpage))
            page_remove_rmap(page, addr)
            put_page(page)
            replaced = True
    invalidate_end_unless_handled(mm, addr)
    return replaced


def kvm_change_spte_gfn(kvm, range):
    if range.invalid:
        return kvm.arch.kvm_unmap_gfn_range(kvm, range)
    old = kvm.spte[range.start]
    flush = kvm.arch.kvm_set_spte_gfn(kvm, range)
    observe_change_pte(kvm, old, kvm.spte[range.start], flush)
    return flush


def observe_change_pte(kvm, old, new, flush):
    """As the model's, but for claim I13: change_pte has no window of its own here."""
    if new.present and not old.present:
        cover(INSTALLS_READ_ONLY)
    elif old != new:
        cover(CHANGES)
    if flush:
        cover(FLUSHES)
