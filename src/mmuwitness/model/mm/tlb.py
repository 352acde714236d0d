"""include/asm-generic/tlb.h, mm/mmu_gather.c: the primary TLB, flushed later than PTEs change."""

from __future__ import annotations

from mmuwitness.model.mm.mm_types import Pte
from mmuwitness.model.primitives import atomic


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
