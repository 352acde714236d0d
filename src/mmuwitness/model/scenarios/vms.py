"""Scenarios of two VMs in one process: two subscribers of one address space."""

from __future__ import annotations

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
)
