"""virt/kvm/guest_memfd.c: private memory of a guest, in a file that nobody can map.

It has no hva and no PTE: no window of the primary MMU is opened over it.  Who takes pages from the
file opens one of KVM's own, by gfns; mn_active_invalidate_count knows nothing of it.
"""

from __future__ import annotations

from mmuwitness.model.kvm.kvm_host import KvmGfnRange
from mmuwitness.model.kvm.kvm_main import (
    kvm_flush_remote_tlbs,
    kvm_mmu_invalidate_begin,
    kvm_mmu_invalidate_end,
    kvm_mmu_unmap_gfn_range,
)
from mmuwitness.model.mm.mm_types import alloc_page, put_page
from mmuwitness.model.primitives import atomic, choose, spin_lock, write_lock


def kvm_gmem_maps(kvm, gfn, page):
    """Whether it is the page that the file has at a gfn."""
    return kvm.gmem is not None and kvm.gmem.page[gfn] is page


def kvm_gmem_get_folio(kvm, gfn):
    """The page of the file, allocated where there is a hole, and a reference to it; None if there
    is no memory."""
    gmem = kvm.gmem
    with atomic("xa_lock of the page cache"):
        if gmem.page[gfn] is None:
            gmem.page[gfn] = alloc_page(kvm.mm)
        found = gmem.page[gfn]
        if found is not None:
            found.refcount += 1
    return found


def kvm_gmem_get_pfn(kvm, fault):
    """Without invalidate_lock: the check for retry finds out if the page was truncated."""
    fault.page = kvm_gmem_get_folio(kvm, fault.gfn)
    fault.map_writable = True


def kvm_gmem_invalidate_begin(kvm, range):
    """attr_filter says private SPTEs only; the MMU that is modelled zaps what is there."""
    kvm.mm.invalidating += 1
    with write_lock(kvm.mmu_lock):
        kvm_mmu_invalidate_begin(kvm, range)
        if kvm_mmu_unmap_gfn_range(kvm, range):
            kvm_flush_remote_tlbs(kvm)


def kvm_gmem_invalidate_end(kvm, range):
    with write_lock(kvm.mmu_lock):
        kvm_mmu_invalidate_end(kvm, range)
    kvm.mm.invalidating -= 1


def truncate_inode_page(kvm, gfn):
    """The page leaves the page cache; whoever holds a reference still has it."""
    with atomic("xa_lock of the page cache"):
        page = kvm.gmem.page[gfn]
        kvm.gmem.page[gfn] = None
    if page is not None:
        put_page(page)


def kvm_gmem_punch_hole(kvm, gfn):
    with spin_lock(kvm.gmem.invalidate_lock):
        range = KvmGfnRange(slot=kvm.memslots[0], may_block=True, start=gfn, end=gfn + 1)
        kvm_gmem_invalidate_begin(kvm, range)
        truncate_inode_page(kvm, gfn)
        kvm_gmem_invalidate_end(kvm, range)


def kvm_gmem_fallocate(kvm):
    """FALLOC_FL_PUNCH_HOLE, any number of times; refused where there is no such file."""
    while kvm.gmem is not None:
        kvm_gmem_punch_hole(kvm, choose(len(kvm.gfns)))
