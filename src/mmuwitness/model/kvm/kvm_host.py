"""include/linux/kvm_host.h: the VM, its memslots, vCPUs, and the records passed down by callers."""

from __future__ import annotations

from mmuwitness.model.mm.mm_types import Pte
from mmuwitness.model.state import (
    Bool,
    Bounded,
    Field,
    Local,
    Lock,
    OfValue,
    Ref,
    RwLock,
    Sequence,
    Snapshot,
    Struct,
    Value,
)


class Spte(Value):
    """A leaf of the secondary MMU, on every architecture; also an entry of a vCPU's TLB.

    Bits of x86 that software has to itself: host_writable, the PTE was writable when the leaf was
    made; mmu_writable, whoever finds the leaf read-only may make it writable again, without
    mmu_lock, as long as the write is put into the dirty log.  Wired out where nobody protects
    leaves that the primary MMU lets be written.

    aged: the Accessed bit is clear, or the access flag, or what stands for it; a new leaf is young.
    Wired out where nobody ages."""

    present = Bool()
    write = Bool()
    page = Ref("Page")
    host_writable = Bool("writable_bits")
    mmu_writable = Bool("writable_bits")
    aged = Bool("young_bits")


VALID, INVALID, GONE = 0, 1, 2
"""A memslot in a set of memslots: as it is; with KVM_MEMSLOT_INVALID, while it is being deleted or
moved; not in it."""

MOVED = 4
"""What a set may say beside that of its first memslot: it is at moved_base_gfn."""

KVM_HVA_ERR_BAD = -1
"""The hva of a gfn that is in no memslot."""


class Memslot(Struct):
    """struct kvm_memory_slot.  Wired: id, userspace_addr and base_gfn (pages), npages.

    The memslots of a second address space (x86 has one for SMM) come after those of the first,
    and its gfns are numbered on: a window visits all, as the walker does."""


class KVM(Struct):
    """struct kvm.  spte[gfn] are the leaves; table[t] is true while the last-level table page t
    exists (gfns that share one: see `table_shift`).  Where huge[t] is true a huge leaf stands in
    its place: one entry, whose parts are in spte.

    active_memslots is what the pointer to the memslots leads to: the first of them is VALID,
    INVALID or GONE there, and may be MOVED; the others stay.  srcu_idx and srcu_readers are
    kvm->srcu.  mem_attr_array[gfn]: KVM_MEMORY_ATTRIBUTE_PRIVATE.

    mmu_invalidate_seq is the sequence that faults compare; mmu_invalidate_seq_bit31 is the one bit
    of it that matters by itself, to a bug that keeps it in an int.

    pt[t]: where frees_by_rcu, the table page that stands for table[t], or None.

    pgd_reset: the pointer to the root of the tables is NULL; pgd_freed: what it led to is free.

    invalid_spte[gfn] are the leaves of a root that a memslot update made invalid, and
    tdp_mmu_root_count the references to it (see arch.x86_tdp).

    log_dirty_pages is KVM_MEM_LOG_DIRTY_PAGES of the memslots in the active set, dirty_bitmap
    theirs; dirty_log is the VMM's: what it has read and not gone through.  gfn_write_track[gfn]: a
    guest page table is there and shadowed, so no vCPU may write to it.  tlbs_dirty: SPTEs were
    zapped that TLBs may still hold; a counter, so tlbs_dirty_count tells whether it moved.

    Wired: mm, arch, memslots, last_memslot (None if some gfn may be in no memslot),
    updates_memslots (False if nobody changes one), has_srcu (False if nobody waits for who looks
    at them), mmu_notifier (its subscription), moved_base_gfn (0 if nobody moves one),
    caches_mmio (an SPTE is made that says so where a gfn is in no memslot), gpc_list, gmem (None:
    no private memory), logs_dirty_pages (False if nobody logs), tracks_writes (False if no guest
    page table is shadowed), hptes (by gfn; none where leaves have no locks), writable_bits (False
    where SPTEs have no such bits), ages_pages (False if nobody asks whether pages are young),
    access_tracking (True if hardware does not say so, on x86), delays_flushes (True if somebody
    zaps and leaves the flush to others), yields (zaps drop mmu_lock on the way), replaces_roots
    (memslot updates have roots replaced, where there are any),
    vcpus, gfns, read_gfns and written_gfns (guests read and write the first so many), table_shift,
    frees_tables (the tables go with ->release(), on arm64), frees_by_rcu (table pages are followed
    as they come and go, on the TDP MMU), mmu_pages (those), rcu,
    loops_in_host (faults that are retried stay in the host, on MIPS and LoongArch).

    Ghost: unbumped, windows begun whose end has not bumped mmu_invalidate_seq yet;
    crowded, set when change_pte made or changed a leaf with other windows open, too;
    sent[gfn], 0 or one more than the content that the VMM has sent of a page;
    unmarked[gfn], vCPUs that made an SPTE writable and have not put that into the log yet;
    mmio_retried, set when a window sent a fault back that was at a gfn in no memslot;
    updating and refreshing, set by scenarios while a memslot update, or a write through a
    gfn_to_pfn_cache, is to end.
    """

    loops_in_host = False

    mmu_lock = Field(RwLock(spins=True))
    mn_invalidate_lock = Field(Lock(spins=True))
    mmu_invalidate_in_progress = Field(Bounded(-1, "users"), guarded_by="KVM.mmu_lock")
    mmu_invalidate_seq = Field(Sequence())
    mmu_invalidate_seq_bit31 = Field(Bool(), guarded_by="KVM.mmu_lock")
    mmu_invalidate_range_start = Field(Bounded(0, "range_max"), guarded_by="KVM.mmu_lock")
    mmu_invalidate_range_end = Field(Bounded(0, "range_max"), guarded_by="KVM.mmu_lock")
    mn_active_invalidate_count = Field(Bounded(-1, "users"), guarded_by="KVM.mn_invalidate_lock")
    gpc_invalidate_seq = Field(Sequence())
    slots_lock = Field(RwLock())
    active_memslots = Field(Bounded(0, 7), guarded_by="KVM.slots_lock")
    mem_attr_array = Field(Bool(), array="gfns", guarded_by="KVM.slots_lock")
    srcu_idx = Field(Bounded(0, 1))
    srcu_readers = Field(Bounded(0, "users"), array=2)
    spte = Field(Spte, array="gfns")
    table = Field(Bool(), array="tables")
    huge = Field(Bool(), array="tables")
    invalid_spte = Field(Spte, array="gfns")
    pt = Field(Ref("KvmMmuPage"), array="tables")
    pgd_reset = Field(Bool())
    pgd_freed = Field(Bool())
    tdp_mmu_root_count = Field(Bounded(0, 2))
    log_dirty_pages = Field(Bool(), guarded_by="KVM.slots_lock")
    dirty_bitmap = Field(Bool(), array="gfns")
    dirty_log = Field(Bool(), array="gfns")
    tlbs_dirty = Field(Bool())
    tlbs_dirty_count = Field(Sequence())
    gfn_write_track = Field(Bool(), array="gfns", guarded_by="KVM.mmu_lock")
    unbumped = Field(Bounded(-4, 4), ghost=True)
    crowded = Field(Bool(), ghost=True)
    sent = Field(Bounded(0, 2), array="gfns", ghost=True)
    unmarked = Field(Bounded(0, 4), array="gfns", ghost=True)
    mmio_retried = Field(Bool(), ghost=True)
    updating = Field(Bool(), ghost=True)
    refreshing = Field(Bool(), ghost=True)


class KvmMmuPage(Struct):
    """struct kvm_mmu_page: a last-level table page of the TDP MMU.  unlinked: the entry that led to
    it leads elsewhere, and the page is to be freed.  freed: it is not a table page now."""

    unlinked = Field(Bool())
    freed = Field(Bool())


class Rcu(Struct):
    """kernel/rcu/tree.c: who is in an RCU section, as lib.srcutree counts readers."""

    srcu_idx = Field(Bounded(0, 1))
    srcu_readers = Field(Bounded(0, 4), array=2)


class VCPU(Struct):
    """struct kvm_vcpu and the TLB it runs with.  root_invalid: its root is, and it has been asked
    to load another one before it enters the guest.  Wired: kvm.

    Ghost, of a guest that makes one access: faulting, from its first fault until it has made it;
    fault_gfn, where."""

    tlb = Field(Spte, array="gfns")
    root_invalid = Field(Bool())
    faulting = Field(Bool(), ghost=True)
    fault_gfn = Field(Bounded(0, "gfns"), ghost=True)


class GuestMemfd(Struct):
    """struct kvm_gmem and its inode: the private memory of the first memslot, by gfn.
    page[gfn] is the page cache."""

    invalidate_lock = Field(Lock())
    page = Field(Ref("Page"), array="gfns")


class GfnToPfnCache(Struct):
    """struct gfn_to_pfn_cache.  page stands for its pfn and khva.

    Wired: uhva; by_hva, True if that is what it was activated with (else a gfn)."""

    refresh_lock = Field(Lock())
    lock = Field(RwLock())
    valid = Field(Bool(), guarded_by="GfnToPfnCache.lock")
    page = Field(Ref("Page"), guarded_by="GfnToPfnCache.lock")


class Hpte(Struct):
    """What a hashed page table has besides a leaf (see arch.powerpc_hpt): HPTE_V_HVLOCK, and of the
    chain of its page in the reverse map KVMPPC_RMAP_LOCK_BIT and KVMPPC_RMAP_PRESENT."""

    lock = Field(Lock(spins=True))
    rmap_lock = Field(Lock(spins=True))
    rmap_present = Field(Bool())


class KvmPageFault(Local):
    """struct kvm_page_fault: one fault while it is handled.  Constant: vcpu.  logged: its memslot,
    as it was found, has KVM_MEM_LOG_DIRTY_PAGES.  retry: it is to be retried, in the host."""

    gfn = Bounded(0, "gfns")
    hva = Bounded(KVM_HVA_ERR_BAD, "addresses")
    write = Bool()
    permission = Bool()
    retry = Bool()
    vma_huge = Bool()
    is_private = Bool()
    mmu_seq = Snapshot()
    page = Ref("Page")
    map_writable = Bool()
    logged = Bool()


class KvmHvaRange(Local):
    """struct kvm_hva_range, later kvm_mmu_notifier_range: what the walker is asked to do.

    Constants: handler, on_lock (functions or None), flush_on_ret, elides_lock, may_block."""

    start = Bounded(0, "addresses")
    end = Bounded(0, "addresses")
    pte = OfValue(Pte)


class KvmGfnRange(Local):
    """struct kvm_gfn_range.  Constants: slot, may_block.  invalid: KVM_MEMSLOT_INVALID of the slot.

    Since commit 3e1efe2b67d3 ("KVM: Wrap kvm_{gfn,hva}_range.pte in a per-action union") in v6.6
    the pte is a member of a union, `arg`, that each action reads in its own way; here each
    action has its own field of the record, so that reading another's is an error."""

    start = Bounded(0, "gfns")
    end = Bounded(0, "gfns")
    invalid = Bool()
    arg_pte = OfValue(Pte)
