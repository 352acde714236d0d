"""mm/ksm.c: what ksmd looks at and with what it compares; merging itself is the model's.

Contents are numbers.  Those below `classes` may be found in several pages; the others are of one
page only, so a tree of them is never asked.  Trees are arrays by content.  A page that is to be
merged may be another guest's: then ksmd is asked to go on there (`next_operation`).
"""

from __future__ import annotations

from mmuwitness.model.mm.ksm import (
    break_ksm,
    scan_get_next_rmap_item,
    try_to_merge_with_ksm_page,
)
from mmuwitness.model.mm.mm_types import get_page, put_page
from mmuwitness.model.primitives import atomic
from mmuwitness.model.state import Bounded, Field, Ref, Struct

ANY_WORD = (1 << 62) - 1
AGE_MAX = 255
MERGE_TREE_PAGE, BREAK_COW = 1, 2
"""What ksmd does next: the operations of those numbers."""


NEW, VOLATILE, UNSTABLE = 0, 1, 2


class Ksm(Struct):
    """The trees, and what ksmd is about.  stable[content] is a KSM page.  unstable_...[content] is
    the address that was found to hold it in the pass seqnr.  merging: the KSM page that another
    page is to be merged with; from_guest, from_addr: where it is mapped.

    rmap_items, pages_unshared and pages_scanned are ksmd's own counts.

    Wired: classes, max_page_sharing, smart_scan."""

    stable = Field(Ref("Page"), array="classes")
    unstable_guest = Field(Bounded(0, ANY_WORD), array="classes")
    unstable_addr = Field(Bounded(0, ANY_WORD), array="classes")
    unstable_seqnr = Field(Bounded(0, ANY_WORD), array="classes")
    seqnr = Field(Bounded(0, ANY_WORD))
    merging = Field(Ref("Page"))
    from_guest = Field(Bounded(0, ANY_WORD))
    from_addr = Field(Bounded(0, ANY_WORD))
    rmap_items = Field(Bounded(0, ANY_WORD))
    pages_unshared = Field(Bounded(0, ANY_WORD))
    pages_scanned = Field(Bounded(0, ANY_WORD))
    next_operation = Field(Bounded(0, ANY_WORD))
    next_guest = Field(Bounded(0, ANY_WORD))
    next_argument = Field(Bounded(0, ANY_WORD))


class RmapItems(Struct):
    """struct ksm_rmap_item of every address of an mm.  tree: NEW until ksmd has seen the page;
    UNSTABLE while that tree has it.  Wired: guest, its number."""

    oldchecksum = Field(Bounded(0, (1 << 32) - 1), array="addresses")
    age = Field(Bounded(0, AGE_MAX), array="addresses")
    remaining_skips = Field(Bounded(0, 8), array="addresses")
    tree = Field(Bounded(0, 2), array="addresses")
    guest = Field(Bounded(0, ANY_WORD))


def ksm_scan_item(mm, addr):
    """One page of a scan: scan_get_next_rmap_item() and what ksm_do_scan() does with it."""
    page = scan_get_next_rmap_item(mm, addr)
    if page is not None:
        if mm.rmap_items.tree[addr] == NEW:
            mm.rmap_items.tree[addr] = VOLATILE
            mm.ksm.rmap_items += 1
        if page.ksm:
            mm.ksm.pages_scanned += 1
        elif should_skip_rmap_item(mm, addr):
            remove_rmap_item_from_tree(mm, addr)
        else:
            mm.ksm.pages_scanned += 1
            cmp_and_merge_page(mm, addr, page)
        put_page(page)


def remove_rmap_item_from_tree(mm, addr):
    """Of the unstable tree; the stable one has no items here."""
    items = mm.rmap_items
    if items.tree[addr] == UNSTABLE:
        items.tree[addr] = VOLATILE
        mm.ksm.pages_unshared -= 1


def should_skip_rmap_item(mm, addr):
    """Since commit 5e924ff54d08 ("mm/ksm: add "smart" page scanning mode") in v6.7 a page that was
    not merged for long is looked at less often."""
    items = mm.rmap_items
    age = items.age[addr]
    if age != AGE_MAX:
        items.age[addr] = age + 1
    if not mm.ksm.smart_scan or age < 3:
        return False
    if items.remaining_skips[addr] == 0:
        items.remaining_skips[addr] = skip_age(age)
        return False
    items.remaining_skips[addr] = items.remaining_skips[addr] - 1
    return True


def skip_age(age):
    if age <= 3:
        return 1
    if age <= 5:
        return 2
    if age <= 8:
        return 4
    return 8


def cmp_and_merge_page(mm, addr, page):
    """Merge with a KSM page of equal content; else with another page that has been seen in this
    pass; else remember this one."""
    kpage = stable_tree_search(mm, page)
    remove_rmap_item_from_tree(mm, addr)
    if kpage is not None:
        try_to_merge_with_ksm_page(mm, addr, page, kpage)
        put_page(kpage)
    elif not changes_often(mm, addr, page):
        unstable_tree_search_insert(mm, addr, page)


def stable_tree_search(mm, page):
    """A KSM page of equal content that may be shared by one more, referenced; None if there is
    none."""
    ksm = mm.ksm
    with atomic("ksm_thread_mutex: nobody else changes the trees, and KSM pages do not change"):
        if page.content < ksm.classes:
            kpage = ksm.stable[page.content]
            if kpage is not None and kpage.mapcount < ksm.max_page_sharing:
                get_page(kpage)
                return kpage
    return None


def changes_often(mm, addr, page):
    """calc_checksum(): the page has changed since it was last looked at."""
    items = mm.rmap_items
    checksum = page.content
    if items.oldchecksum[addr] == checksum:
        return False
    items.oldchecksum[addr] = checksum
    return True


def unstable_tree_search_insert(mm, addr, page):
    """Of two pages of equal content this one becomes a KSM page; the other is merged with it."""
    ksm = mm.ksm
    content = page.content
    found = False
    if content < ksm.classes:
        guest = mm.rmap_items.guest
        known = ksm.unstable_seqnr[content] == ksm.seqnr + 1
        here = known and ksm.unstable_guest[content] == guest and ksm.unstable_addr[content] == addr
        if known and not here:
            found = True
            try_to_merge_two_pages(mm, addr, page)
        else:
            ksm.unstable_seqnr[content] = ksm.seqnr + 1
            ksm.unstable_guest[content] = guest
            ksm.unstable_addr[content] = addr
    if not found:
        mm.rmap_items.tree[addr] = UNSTABLE
        ksm.pages_unshared += 1


def try_to_merge_two_pages(mm, addr, page):
    """The first half; the second is `ksm_merge_tree_page`, in the other page's mm."""
    ksm = mm.ksm
    content = page.content
    if try_to_merge_with_ksm_page(mm, addr, page, None):
        ksm.unstable_seqnr[content] = 0
        get_page(page)
        ksm.merging = page
        ksm.from_guest = mm.rmap_items.guest
        ksm.from_addr = addr
        ksm.next_guest = ksm.unstable_guest[content]
        ksm.next_argument = ksm.unstable_addr[content]
        ksm.next_operation = MERGE_TREE_PAGE


def ksm_merge_tree_page(mm, addr):
    """Both map the KSM page, which the stable tree has from here on; or the first goes back."""
    ksm = mm.ksm
    kpage = ksm.merging
    merged = False
    page = scan_get_next_rmap_item(mm, addr)
    if page is not None:
        if not page.ksm:
            merged = try_to_merge_with_ksm_page(mm, addr, page, kpage)
        put_page(page)
    if merged:
        remove_rmap_item_from_tree(mm, addr)
        ksm.stable[kpage.content] = kpage
    else:
        ksm.next_guest = ksm.from_guest
        ksm.next_argument = ksm.from_addr
        ksm.next_operation = BREAK_COW
    ksm.merging = None
    put_page(kpage)


def ksm_break_cow(mm, addr):
    """The page is the guest's own again."""
    break_ksm(mm, addr)
