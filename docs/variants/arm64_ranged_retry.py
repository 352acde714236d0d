"""Faults of arm64 retry only if a window is open over their own address, as x86 since v5.12."""

from mmuwitness.model.kvm.kvm_main import mmu_invalidate_retry_gfn


def retries_by_range():
    """Windows say which range they are over."""
    return True


class Arm64:
    def is_stale(self, kvm, fault):
        return mmu_invalidate_retry_gfn(kvm, fault.mmu_seq, fault.gfn)
