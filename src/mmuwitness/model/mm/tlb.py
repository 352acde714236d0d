"""include/asm-generic/tlb.h, mm/rmap.c: the primary TLB, flushed later than PTEs change."""

from __future__ import annotations

from mmuwitness.model.mm.mm_types import Pte
from mmuwitness.model.primitives import atomic, feature


def flush_tlb_range(mm, start, end):
    """No CPU of the mm has any of the range in its TLB."""
    if mm.host_thread:
        with atomic("the IPIs are waited for; a CPU drops what it has of the range at once"):
            for addr in mm.addresses:
                if start <= addr and addr < end:
                    mm.tlb[addr] = Pte()


def inc_tlb_flush_pending(mm):
    """PTEs change from here on whose flush comes later."""
    if mm.defers_flushes:
        with atomic("an atomic_t"):
            mm.tlb_flush_pending += 1


def dec_tlb_flush_pending(mm):
    if mm.defers_flushes:
        with atomic("an atomic_t"):
            mm.tlb_flush_pending -= 1


def should_defer_flush(mm, entry):
    """Since commit 72b252aed506 ("mm: send one IPI per CPU to TLB flush all entries after
    unmapping pages") in v4.3 reclaim, not migration, flushes for many pages at once."""
    return mm.defers_flushes and feature.reclaim_batches_flushes and entry.swap


def set_tlb_ubc_flush_pending(mm):
    """ptl is held: whoever takes it next sees that TLBs may have what no PTE has."""
    if feature.batched_flush_seen:
        mm.tlb_flush_batched = True


def try_to_unmap_flush(mm):
    """Every page here is dirty, so try_to_unmap_flush_dirty() flushes before it is written, and
    nothing is left to be flushed when it is freed."""
    if mm.defers_flushes and feature.reclaim_batches_flushes:
        flush_tlb_range(mm, 0, mm.nr_addresses)


def flush_tlb_batched_pending(mm):
    """ptl is held.  Since commit 3ea277194daa ("mm, mprotect: flush TLB if potentially racing with
    a parallel reclaim leaving stale TLB entries") in v4.13 whoever finds a PTE that reclaim has
    cleared does not go on before TLBs are flushed, too."""
    if mm.defers_flushes and feature.reclaim_batches_flushes and feature.batched_flush_seen:
        if mm.tlb_flush_batched:
            flush_tlb_range(mm, 0, mm.nr_addresses)
            mm.tlb_flush_batched = False
