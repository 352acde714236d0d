"""include/linux/mm_types.h, include/linux/pgtable.h: pages, PTEs and the address space."""

from __future__ import annotations

from mmuwitness.model.primitives import atomic, bug_on, choose
from mmuwitness.model.state import (
    Bool,
    Bounded,
    Field,
    Lock,
    Ref,
    RwLock,
    Sequence,
    Struct,
    Value,
)

UNKNOWN = 2
"""`MM.written` of an address whose content nobody may rely on (it is being dropped)."""

PMD_TABLE, PMD_HUGE, PMD_NONE = 0, 1, 2
"""What a PMD is: the table of two PTEs; a huge leaf; nothing, while khugepaged holds the table that
was there.  (A PMD with nothing below it is an empty table here.)"""

NO_VMA, VM_READ, VM_WRITE = 0, 1, 2
"""`MM.vm_flags` of an address: in no VMA; in one that may be read; in one that may be written."""

REFCOUNT_MAX = 7


class Pte(Value):
    """A PTE of the primary MMU: none, present (special: what it maps is a driver's business),
    PROT_NONE (the page is there, no access walks it; it remembers what was allowed), a migration
    entry (it remembers whether the page was writable) or a swap entry (with its page as long as
    that is in the swap cache)."""

    present = Bool()
    protnone = Bool()
    special = Bool()
    write = Bool()
    dirty = Bool()
    migration = Bool()
    swap = Bool()
    page = Ref("Page")


class Page(Struct):
    """struct page / struct folio.  A page whose refcount is 0 is free.

    content is one bit where pages are few, enough to tell equal pages from different ones.
    rmap[a]: a walk of the reverse mapping comes to address a (for a KSM page: its stable node lists
    a's rmap_item); it knows one mm, so nobody walks it where there is a child.  pincount:
    references of those who write without a PTE (FOLL_PIN), counted in refcount, too.  tail: of a
    driver's allocation, of which the first page alone is counted: not free, whatever refcount says.
    dirty: PG_dirty; lazyfree: without PG_swapbacked, so that reclaim need not save what is in it.
    """

    content = Field(Bounded(0, "contents"))
    refcount = Field(Bounded(0, "refcounts"))
    mapcount = Field(Bounded(0, "mapcounts"))
    pincount = Field(Bounded(0, 1))
    tail = Field(Bool())
    dirty = Field(Bool())
    lazyfree = Field(Bool())
    ksm = Field(Bool())
    lru = Field(Bool())
    rmap = Field(Bool(), array="addresses")
    lock = Field(Lock())


class Seqcount(Struct):
    """include/linux/seqlock.h: seqcount_t, one word, odd while somebody is in a write section."""

    sequence = Field(Sequence())
    odd = Field(Bool())


class MM(Struct):
    """struct mm_struct: one page table, so one ptl; the TLB of the CPU that the VMM runs on.

    pmd[p] is the PMD over the addresses 2p and 2p + 1, the smallest that can be huge.  A huge leaf
    is one entry: its two halves are in pte, and written in one step.  vma_huge: the VMA over all
    addresses is of hugetlb.

    Wired: pages (all pages), addresses (range of hvas, in pages), notifier_subscriptions,
    interval_sub (the interval subscription, or None), nr_mergeable (ksmd scans the first so many
    addresses), host_thread (True if a thread of the VMM uses the TLB), defers_flushes (True if
    somebody flushes it later than it changes PTEs), exits (True if its last user has gone),
    unregisters (True if a subscriber leaves the list while others may go through it), has_srcu (the
    same), huge_pages (False if no PMD is ever huge), shmem (True if the VMA is of a file of shmem,
    whose page cache is in cache), shares_pmds (True if a file of hugetlb is mapped twice, at the
    first two addresses and at the next two; while pmd_shared is true, through one PMD table),
    ages_pages (True if reclaim asks first whether a page is young), swap_cache (True if several
    threads swap in: they meet there), changes_vmas (False if all addresses stay in a VMA that may
    be written), forks (True of a parent and its child), write_protect_seq (a seqcount_t, of a
    parent), zero_page (None if nobody maps it), maps_pfns (True if a driver maps its pages),
    frees_lazily (True if somebody says that memory need not be kept: MADV_FREE), writes_back (True
    if pages are those of a file, mapped shared), nr_first_pages (see first_page), ends (True if
    everybody is done in the end).
    hashed[n]: subscription n is on the list.  gone[n]: mmu_notifier_unregister() of it has
    returned.  srcu_idx and srcu_readers: of the SRCU that walks of the list are under.
    Ghost: open_windows[a], windows whose start() has returned and whose end() is not entered;
    invalidating, callers between entering start() and leaving end(); written[a], what the last
    store to address a wrote; stale_load, set when a load returned something else; spliced, a page
    that a child has put into a pipe, with what it held then; disk[a], what the disk has of the page
    of a file at address a.
    """

    nr_first_pages = 1
    ends = False

    mmap_lock = Field(RwLock())
    ptl = Field(Lock(spins=True))
    pte = Field(Pte, array="addresses", guarded_by="MM.ptl")
    cache = Field(Ref("Page"), array="addresses")
    pmd = Field(Bounded(PMD_TABLE, PMD_NONE), array="pmds", guarded_by="MM.ptl")
    vma_huge = Field(Bool(), guarded_by="MM.mmap_lock")
    tlb = Field(Pte, array="addresses")
    swap = Field(Bounded(0, "contents"), array="addresses")
    pmd_shared = Field(Bool(), guarded_by="MM.ptl")
    hashed = Field(Bool(), array=2)
    gone = Field(Bool(), array=2)
    srcu_idx = Field(Bounded(0, 1))
    srcu_readers = Field(Bounded(0, 4), array=2)
    srcu_gp_mutex = Field(Lock())
    subscriptions_lock = Field(Lock(spins=True))
    swapcache = Field(Lock())
    vm_flags = Field(Bounded(NO_VMA, VM_WRITE), array="addresses", guarded_by="MM.mmap_lock")
    tlb_flush_pending = Field(Bounded(0, 2))
    tlb_flush_batched = Field(Bool(), guarded_by="MM.ptl")
    open_windows = Field(Bounded(0, 3), array="addresses", ghost=True)
    invalidating = Field(Bounded(0, 4), ghost=True)
    written = Field(Bounded(0, 2), array="addresses", ghost=True)
    stale_load = Field(Bool(), ghost=True)
    disk = Field(Bounded(0, 1), array="addresses", ghost=True)
    spliced = Field(Ref("Page"), ghost=True)
    spliced_content = Field(Bounded(0, 1), ghost=True)


def pte_none(pte):
    return not pte_present(pte) and not pte.migration and not pte.swap


def pte_present(pte):
    """There is a page, be it accessible or not."""
    return pte.present or pte.protnone


def vma_allows(mm, addr, write):
    """mmap_lock is held, or else the answer may be old."""
    return not mm.changes_vmas or mm.vm_flags[addr] >= (VM_WRITE if write else VM_READ)


def is_zero_page(mm, page):
    """Nobody counts its PTEs, and it belongs to the kernel: PG_reserved."""
    return mm.zero_page is not None and page is mm.zero_page


def try_get_page(mm, page):
    """Not once the count of references has grown out of its range."""
    with atomic("one atomic_t"):
        if page.refcount == REFCOUNT_MAX:
            return False
        page.refcount += 1
    return True


def pmd_of(addr):
    return addr >> 1


def walk_page_tables(mm, addr):
    """What hardware finds at an address: nothing below a PMD that is none."""
    if mm.huge_pages and mm.pmd[pmd_of(addr)] == PMD_NONE:
        return Pte()
    return mm.pte[addr]


def get_page(page):
    with atomic("page_ref_inc: the reference count is an atomic_t"):
        bug_on(page.refcount == 0)
        page.refcount += 1


def put_page(page):
    """The last reference frees the page; what it says about its contents goes with it."""
    with atomic("page_ref_dec_and_test: whoever drops the last reference frees the page alone"):
        page.refcount -= 1
        if page.refcount == 0:
            page.content = 0
            page.ksm = False
            page.lru = False


def first_page(mm):
    """The page that an allocation or a search of all pages looks at first.  One that does not
    depend on what pages are called would take any: so it is where pages are interchangeable."""
    return mm.pages[choose(mm.nr_first_pages)]


def free_page(mm, first):
    """A free page, or None: the first one if it is free, else the lowest."""
    if mm.nr_first_pages > 1 and first.refcount == 0:
        return first
    for page in mm.pages:
        if page.refcount == 0:
            return page
    return None


def alloc_page(mm):
    """A free page, or None."""
    first = first_page(mm)
    with atomic("the page allocator hands a page to one caller"):
        page = free_page(mm, first)
        if page is not None:
            page.refcount = 1
            if mm.frees_lazily:
                page.dirty = False
                page.lazyfree = False
        return page


def nth_page(mm, page, n):
    """Physical memory: of the aligned pair that a page is in, the first (0) or the second (1)."""
    for first in range(0, mm.nr_pages - 1, 2):
        if page is mm.pages[first] or page is mm.pages[first + 1]:
            return mm.pages[first + n]
    return page


def alloc_huge_page(mm):
    """The first of two neighbouring free pages, aligned; None if there are none.  The references
    of a huge page are counted on each half here: the kernel frees it when both have none."""
    with atomic("the page allocator hands a page to one caller"):
        for first in range(0, mm.nr_pages - 1, 2):
            if mm.pages[first].refcount == 0 and mm.pages[first + 1].refcount == 0:
                mm.pages[first].refcount = 1
                mm.pages[first + 1].refcount = 1
                return mm.pages[first]
    return None


def copy_page(page, mm):
    """A new page with the content of `page`; None if there is no memory."""
    first = first_page(mm)
    with atomic("nobody else knows the new page: only the read of the old one is shared"):
        new = free_page(mm, first)
        if new is not None:
            new.refcount = 1
            new.content = page.content
        return new


def load(mm, page, addr):
    """A load from `page` by an access to address `addr`: it returns what was last written."""
    if mm.written[addr] != UNKNOWN and page.content != mm.written[addr]:
        mm.stale_load = True


def store(mm, page, addr):
    """A store to `page` by an access to address `addr`; it always writes a new value."""
    page.content = 1 - page.content
    mm.written[addr] = page.content
    if mm.shares_pmds:
        # the other mapping of the file
        mm.written[addr ^ 2] = page.content
