"""Faults that ask for windows over their own gfn, not for the hull of all that are open.

Which kernels do not have: the comment at kvm_mmu_invalidate_range_add() says that tracking several
ranges has diminishing returns.  This is what would be returned."""

from __future__ import annotations

from typing import Any

from mmuwitness.model.primitives import atomic
from mmuwitness.model.state import Bounded, Field, Struct


class OpenWindows(Struct):
    """By gfn, how many of the windows that are open cover it."""

    count = Field(Bounded(0, "users"), array="gfns")


def retries_by_range():
    return True


def kvm_mmu_invalidate_begin(kvm, range):
    """mmu_lock is held.  (gfns are hvas here: one memslot, at 0.)"""
    kvm.mmu_invalidate_in_progress += 1
    with atomic("mmu_lock is held; a fault reads one count"):
        for gfn in kvm.gfns:
            if range.start <= gfn and gfn < range.end:
                kvm.windows.count[gfn] = kvm.windows.count[gfn] + 1


def kvm_mmu_invalidate_range_add(kvm, start, end):
    """There is no hull."""


def kvm_mmu_invalidate_end(kvm, range):
    """mmu_lock is held.  The sequence first, as ever."""
    kvm.mmu_invalidate_seq.bump()
    kvm.mmu_invalidate_in_progress -= 1
    with atomic("mmu_lock is held; a fault reads one count"):
        for gfn in kvm.gfns:
            if range.start <= gfn and gfn < range.end:
                kvm.windows.count[gfn] = kvm.windows.count[gfn] - 1


def mmu_invalidate_retry_gfn(kvm, mmu_seq, gfn):
    if kvm.windows.count[gfn] != 0:
        return True
    return kvm.mmu_invalidate_seq != mmu_seq


PRECISE: dict[str, Any] = {
    f"kvm.kvm_main.{made.__name__}": made
    for made in (
        retries_by_range,
        kvm_mmu_invalidate_begin,
        kvm_mmu_invalidate_range_add,
        kvm_mmu_invalidate_end,
        mmu_invalidate_retry_gfn,
    )
}
"""In the place of the model's."""
