"""arch/s390/kvm/gmap/faultin.c: page tables of KVM's own, since v7.0.

Before that the guest ran on the host's own page tables (PGSTEs): what the primary MMU changed,
the guest saw, and KVM did not subscribe.  change_pte was gone by then.
"""

from __future__ import annotations

from mmuwitness.model.arch.arch import Arch


class S390(Arch):
    """The generic walk and retry; no change_pte in any kernel that subscribes."""

    name = "s390"
    kernel_arch = "s390"
    notifier = "s390_notifier"
    maps_reads_writable = True
