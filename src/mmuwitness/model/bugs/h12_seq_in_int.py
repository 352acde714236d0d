"""H12: mmu_invalidate_seq is compared as an int."""

from __future__ import annotations

from mmuwitness.model.bugs.bug import Bug
from mmuwitness.model.features.feature import PATCH
from mmuwitness.model.kvm.kvm_main import mmu_invalidate_retry_gfn
from mmuwitness.model.kvm.vcpu import vcpu_access_once
from mmuwitness.model.primitives import write_lock
from mmuwitness.model.scenarios.scenario import ONE_GFN, Actor, Scenario, two_private_pages


def long_uptime(kvm):
    """So many windows come and go that bit 31 of the sequence is set; that of the next 2^31."""
    with write_lock(kvm.mmu_lock):
        kvm.mmu_invalidate_seq.bump()
        kvm.mmu_invalidate_seq_bit31 = True


def is_stale(self, kvm, fault):
    """The snapshot is passed as an int, and made an unsigned long again to be compared.  With bit
    31 it has become 0xffffffff80000000 or more, which the sequence is not."""
    if kvm.mmu_invalidate_seq_bit31:
        return True
    return mmu_invalidate_retry_gfn(kvm, fault.mmu_seq, fault.gfn)


BUG = Bug(
    id="H12",
    text="A fault's snapshot of the sequence is an int on its way to the check. After 2^31 windows"
    " it is extended with its sign, equals nothing, and every fault is retried for ever.",
    commit="82d811ff5665",
    subject="KVM: x86/mmu: Fix an sign-extension bug with mmu_seq that hangs vCPUs",
    release="v6.1.50",
    source=PATCH,
    reference="Guests hung after weeks. Mainline lost the int in v6.3, without knowing.",
    claim="fault_maps",
    scenario=Scenario(
        "long_uptime",
        "A guest accesses a page on a host that has been up for long.",
        "1 vCPU, 1 access, 1 gfn, 2 pages, 1 bump for 2^31",
        two_private_pages,
        lambda host: [Actor("uptime", long_uptime, (host.kvm,))],
        ONE_GFN,
        guest=vcpu_access_once,
    ),
    arch="x86-tdp",
    era="v6.1.50",
    broken={"arch.arch.Arch.is_stale": is_stale},
)
