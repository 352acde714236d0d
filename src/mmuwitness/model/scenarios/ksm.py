"""Scenarios of KSM: merging, and unmerging."""

from __future__ import annotations

from mmuwitness.model.mm import gup, ksm, memory
from mmuwitness.model.scenarios.scenario import (
    Actor,
    Scenario,
    ksm_page_beside_private,
    mm_actor,
    one_ksm_page,
    private_beside_ksm_page,
    private_beside_mapped_ksm_page,
    two_private_pages,
)

KSM = (
    Scenario(
        "ksm",
        "ksmd merges a guest page with a KSM page, again and again, while the guest reads and"
        " writes it.  A neighbour's SPTE keeps the last-level table page.",
        "1 vCPU, 2 gfns in one table page, 3 pages, any number of KSM merges",
        private_beside_mapped_ksm_page,
        mm_actor("ksmd", ksm.ksmd),
        {"pages": 3, "read_gfns": 1},
    ),
    Scenario(
        "ksm_alone",
        "As ksm, but the gfn is alone in its last-level table page.",
        "1 vCPU, 1 gfn, 3 pages, any number of KSM merges",
        private_beside_ksm_page,
        mm_actor("ksmd", ksm.ksmd),
        {"pages": 3, "slot_pages": 1},
    ),
    Scenario(
        "ksm_both",
        "As ksm, and the guest reads the neighbour, which the same KSM page backs.",
        "1 vCPU, 2 gfns in one table page, 3 pages, any number of KSM merges",
        private_beside_ksm_page,
        mm_actor("ksmd", ksm.ksmd),
        {"pages": 3},
    ),
    Scenario(
        "ksm_one",
        "A guest page and one that is in no memslot are merged: windows over the second elide"
        " mmu_lock.",
        "1 vCPU, 1 gfn, 1 address in no memslot, 3 pages, any number of KSM merges",
        ksm_page_beside_private,
        mm_actor("ksmd", ksm.ksmd),
        {"pages": 3, "slot_pages": 1, "mergeable": 2},
    ),
    Scenario(
        "ksm_first",
        "Two private pages of equal content: the first becomes a KSM page in place, the second"
        " is merged with it.",
        "1 vCPU that reads, 2 gfns in one table page, 2 pages, any number of KSM merges",
        two_private_pages,
        mm_actor("ksmd", ksm.ksmd),
        {"pages": 2, "mergeable": 2, "written_gfns": 0},
    ),
    Scenario(
        "ksm_thread",
        "ksmd merges a page that a thread of the VMM reads and writes through the host's TLB.",
        "no VM, 1 host thread, 3 pages, any number of KSM merges",
        private_beside_ksm_page,
        lambda host: [
            Actor("ksmd", ksm.ksmd, (host.mm,)),
            Actor("vmm", memory.host_thread, (host.mm,)),
        ],
        {"vcpus": 0, "pages": 3, "slot_pages": 1, "host_thread": True},
    ),
    Scenario(
        "ksm_dma",
        "ksmd merges a page to which a device writes.",
        "no VM, 3 pages, any number of KSM merges, and of pins",
        private_beside_ksm_page,
        lambda host: [
            Actor("ksmd", ksm.ksmd, (host.mm,)),
            Actor("vfio", gup.vfio_dma, (host.mm,)),
        ],
        {"vcpus": 0, "pages": 3, "slot_pages": 1},
    ),
    Scenario(
        "unmerge",
        "MADV_UNMERGEABLE breaks the sharing of KSM pages under a running guest.",
        "1 vCPU, 2 gfns in one table page, 3 pages, any number of calls",
        one_ksm_page,
        mm_actor("madvise", ksm.unmerge_ksm_pages),
        {"pages": 3},
    ),
)
