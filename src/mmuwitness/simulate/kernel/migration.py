"""migration/ram.c of QEMU: a live migration, page by page; the dirty log is the model's."""

from __future__ import annotations

from mmuwitness.model.kvm.dirty_log import (
    kvm_mmu_slot_apply_flags,
    kvm_vm_ioctl_get_dirty_log,
    send_page,
)
from mmuwitness.model.state import Bounded, Field, Struct

FIRST, NEXT, STOP = 0, 1, 2
"""Passes: all pages are sent while the log is on; those that it has; the log is off."""


class Migration(Struct):
    """sent: pages so far."""

    sent = Field(Bounded(0, (1 << 62) - 1))


def migrate_page(kvm, gfn, phase):
    """What the VMM does at one gfn of a pass.  It asks for the log at the first."""
    if gfn == 0:
        if phase == NEXT:
            kvm_vm_ioctl_get_dirty_log(kvm)
        else:
            kvm_mmu_slot_apply_flags(kvm, phase == FIRST)
    if phase == FIRST or (phase == NEXT and kvm.dirty_log[gfn]):
        kvm.dirty_log[gfn] = False
        kvm.migration.sent = kvm.migration.sent + 1
        send_page(kvm, gfn)
