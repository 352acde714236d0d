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
    """A leaf of the secondary MMU, on every architecture; also an entry of a vCPU's TLB."""

    present = Bool()
    write = Bool()
    page = Ref("Page")


VALID, INVALID, GONE = 0, 1, 2
"""A memslot in the active set of memslots: as it is; with KVM_MEMSLOT_INVALID, while it is being
deleted; no longer in it."""


class Memslot(Struct):
    """struct kvm_memory_slot.  Wired: id, userspace_addr and base_gfn (pages), npages."""


class KVM(Struct):
    """struct kvm.  spte[gfn] are the leaves; table[t] is true while the last-level table page t
    exists (gfns that share one: see `table_shift`).  Where huge[t] is true a huge leaf stands in
    its place: one entry, whose parts are in spte.

    active_memslots is what the pointer to the memslots leads to: the first of them is VALID,
    INVALID or GONE there, the others stay.  srcu_idx and srcu_readers are kvm->srcu.

    mmu_invalidate_seq is the sequence that faults compare; mmu_invalidate_seq_bit31 is the one bit
    of it that matters by itself, to a bug that keeps it in an int.

    invalid_spte[gfn] are the leaves of a root that a memslot update made invalid, and
    tdp_mmu_root_count the references to it (see arch.x86_tdp).

    Wired: mm, arch, memslots, updates_memslots (False if nobody deletes one), vcpus, gfns,
    read_gfns and written_gfns (guests read and write the first so many), table_shift, yields (zaps
    drop mmu_lock on the way), replaces_roots (memslot updates have roots replaced, where there are
    any), loops_in_host (faults that are retried stay in the host, on MIPS and LoongArch).
    Ghost: unbumped, windows begun whose end has not bumped mmu_invalidate_seq yet;
    crowded, set when change_pte made or changed a leaf with other windows open, too;
    updating, set by scenarios while a memslot update runs.
    """

    loops_in_host = False

    mmu_lock = Field(RwLock())
    mn_invalidate_lock = Field(Lock())
    mmu_invalidate_in_progress = Field(Bounded(-1, 4), guarded_by="KVM.mmu_lock")
    mmu_invalidate_seq = Field(Sequence())
    mmu_invalidate_seq_bit31 = Field(Bool(), guarded_by="KVM.mmu_lock")
    mmu_invalidate_range_start = Field(Bounded(0, "addresses"), guarded_by="KVM.mmu_lock")
    mmu_invalidate_range_end = Field(Bounded(0, "addresses"), guarded_by="KVM.mmu_lock")
    mn_active_invalidate_count = Field(Bounded(-1, 4), guarded_by="KVM.mn_invalidate_lock")
    slots_lock = Field(RwLock())
    active_memslots = Field(Bounded(VALID, GONE), guarded_by="KVM.slots_lock")
    srcu_idx = Field(Bounded(0, 1))
    srcu_readers = Field(Bounded(0, 4), array=2)
    spte = Field(Spte, array="gfns")
    table = Field(Bool(), array="tables")
    huge = Field(Bool(), array="tables")
    invalid_spte = Field(Spte, array="gfns")
    tdp_mmu_root_count = Field(Bounded(0, 2))
    unbumped = Field(Bounded(-4, 4), ghost=True)
    crowded = Field(Bool(), ghost=True)
    updating = Field(Bool(), ghost=True)


class VCPU(Struct):
    """struct kvm_vcpu and the TLB it runs with.  root_invalid: its root is, and it has been asked
    to load another one before it enters the guest.  Wired: kvm.

    Ghost, of a guest that makes one access: faulting, from its first fault until it has made it;
    fault_gfn, where."""

    tlb = Field(Spte, array="gfns")
    root_invalid = Field(Bool())
    faulting = Field(Bool(), ghost=True)
    fault_gfn = Field(Bounded(0, "gfns"), ghost=True)


class KvmPageFault(Local):
    """struct kvm_page_fault: one fault while it is handled.  Constant: vcpu."""

    gfn = Bounded(0, "gfns")
    write = Bool()
    permission = Bool()
    vma_huge = Bool()
    mmu_seq = Snapshot()
    page = Ref("Page")
    map_writable = Bool()


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
