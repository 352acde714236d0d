"""Scenarios of two VMs in one process: two subscribers of one address space."""

from __future__ import annotations

from typing import Any

from mmuwitness.model.host import Host
from mmuwitness.model.kvm.vcpu import vcpu_run
from mmuwitness.model.kvm.vm import create_run_destroy
from mmuwitness.model.mm import ksm, memory
from mmuwitness.model.scenarios.scenario import (
    ONE_GFN,
    Scenario,
    mm_actor,
    one_ksm_page,
    private_beside_ksm_page,
    two_private_pages,
)

BOTH = {"second_vm": ((0, 0, 1),)}
"""The first page is guest memory of both."""


def before_the_vm(host: Host) -> None:
    """As two_private_pages; the newest VM is yet to be created."""
    two_private_pages(host)
    host.mm.hashed[len(host.kvms) - 1] = False


def newest_comes_and_goes(vcpu: Any) -> None:
    """The first VM stays, and its guest runs."""
    if vcpu.kvm.index == 0:
        vcpu_run(vcpu)
    else:
        create_run_destroy(vcpu)


VMS = (
    Scenario(
        "two_vms",
        "The VMM drops pages of two guests.  One has both pages, the other, told first, has one:"
        " windows hit both or one of them.",
        "2 VMs, 2 vCPUs that read one page each, 2 gfns in one table page of the first VM and 1 of"
        " the second, 2 pages, any number of calls",
        two_private_pages,
        mm_actor("madvise", memory.madvise_dontneed),
        {"pages": 2, "read_gfns": 1, "written_gfns": 0, "second_vm": ((0, 1, 1),)},
    ),
    Scenario(
        "two_vms_ksm",
        "ksmd merges a page that is memory of two guests.",
        "2 VMs, 2 vCPUs that read, 1 gfn of each VM, 3 pages, any number of KSM merges",
        private_beside_ksm_page,
        mm_actor("ksmd", ksm.ksmd),
        {**BOTH, "pages": 3, "slot_pages": 1, "written_gfns": 0},
    ),
    Scenario(
        "two_vms_cow",
        "Two guests share memory that is a KSM page, and COW is broken under both.",
        "2 VMs, 2 vCPUs, 1 gfn of each VM, 2 pages, any number of calls",
        one_ksm_page,
        mm_actor("madvise", ksm.unmerge_ksm_pages),
        {**ONE_GFN, **BOTH},
    ),
    Scenario(
        "vm_lifetime",
        "A VM is created, run and destroyed, again and again, while the VMM drops pages: KVM comes"
        " and leaves between windows and inside of them.",
        "1 vCPU, 1 gfn, 2 pages, any number of calls, any number of VMs one after another",
        before_the_vm,
        mm_actor("madvise", memory.madvise_dontneed),
        {**ONE_GFN, "unregisters": True},
        guest=create_run_destroy,
    ),
    Scenario(
        "vm_tables",
        "As vm_lifetime; windows are over two pages in two table pages, a zap may drop mmu_lock"
        " between them, and architectures that free tables at once do so.",
        "1 vCPU that reads, 2 gfns in two table pages, 2 pages, any number of calls, any number of"
        " VMs one after another",
        before_the_vm,
        mm_actor("madvise", memory.madvise_dontneed_range, 0),
        {
            **{"gfns_per_table": 1, "pages": 2, "written_gfns": 0},
            **{"yields": True, "unregisters": True, "frees_tables": True},
        },
        guest=create_run_destroy,
    ),
    Scenario(
        "vm_beside",
        "As vm_lifetime, beside a VM that stays: it has to be told of all windows.",
        "2 VMs, 2 vCPUs that read, 1 gfn of each VM, 1 page, any number of calls, any number of VMs"
        " one after another",
        before_the_vm,
        mm_actor("madvise", memory.madvise_dontneed),
        {**ONE_GFN, **BOTH, "pages": 1, "written_gfns": 0, "unregisters": True},
        guest=newest_comes_and_goes,
    ),
)
