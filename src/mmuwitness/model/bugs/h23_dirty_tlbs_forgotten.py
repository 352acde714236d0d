"""H23: start() finds nothing to zap, and a TLB maps what somebody else has zapped."""

from __future__ import annotations

from mmuwitness.model.arch.x86_paging_tmpl import sync_dropped
from mmuwitness.model.bugs.bug import Bug
from mmuwitness.model.features.feature import MEMORY
from mmuwitness.model.kvm.dirty_log import kvm_mmu_slot_apply_flags, kvm_vm_ioctl_get_dirty_log
from mmuwitness.model.mm.memory import madvise_dontneed
from mmuwitness.model.scenarios.scenario import ONE_GFN, Actor, Scenario, two_private_pages


def read_dirty_log(kvm):
    """Once."""
    kvm_mmu_slot_apply_flags(kvm, True)
    kvm_vm_ioctl_get_dirty_log(kvm)


BUG = Bug(
    id="H23",
    text="Whoever zaps an SPTE because the guest dropped it raises tlbs_dirty and does not flush;"
    " start() asks for that. A flush that began before, without mmu_lock, lowers it: start() does"
    " not flush, and a TLB maps a page that is freed.",
    commit="a086f6a1ebc9",
    subject='Revert "KVM: Simplify kvm->tlbs_dirty handling"',
    release="v3.16",
    source=MEMORY,
    reference="Xiao Guangrong, 2014, before commit 198c74f43f0f let flushes out of mmu_lock: no"
    " release had both.",
    claim="no_stale_tlb_entry",
    scenario=Scenario(
        "sync_dontneed",
        "The VMM drops a guest page that the guest drops from its own page table, and reads the"
        " dirty log.",
        "1 vCPU, 1 gfn, 2 pages, any number of calls and of changes, 1 read of the log",
        two_private_pages,
        lambda host: [
            Actor("madvise", madvise_dontneed, (host.mm,)),
            Actor("sync", sync_dropped, (host.kvm,)),
            Actor("log", read_dirty_log, (host.kvm,)),
        ],
        {**ONE_GFN, "logs_dirty_pages": True, "delays_flushes": True},
    ),
    arch="x86-shadow",
    era="v3.16",
    without=("x86_tlbs_dirty_cmpxchg",),
)
