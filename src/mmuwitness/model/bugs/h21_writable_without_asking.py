"""H21: what change_pte made read-only becomes writable, and nobody asked the primary MMU."""

from __future__ import annotations

from mmuwitness.model.arch.x86_paging_tmpl import sync_writable
from mmuwitness.model.bugs.bug import Bug
from mmuwitness.model.features.feature import SOURCE
from mmuwitness.model.mm.ksm import ksmd
from mmuwitness.model.scenarios.scenario import Actor, Scenario, private_beside_ksm_page

BUG = Bug(
    id="H21",
    text="KSM's change_pte makes an SPTE read-only. The guest changes its own page table, and KVM"
    " gives the SPTE the access that the guest's PTE has: the guest writes to a KSM page.",
    commit="1403283acca3",
    subject="KVM: MMU: add SPTE_HOST_WRITEABLE flag to the shadow ptes",
    release="v2.6.32",
    source=SOURCE,
    reference="Izik Eidus, 2009, with the callback itself: no release was without.",
    claim="shared_page_read_only",
    scenario=Scenario(
        "ksm_sync",
        "ksmd merges a guest page while the guest makes it writable in its own page table.",
        "1 vCPU, 1 gfn, 3 pages, any number of KSM merges and of changes",
        private_beside_ksm_page,
        lambda host: [
            Actor("ksmd", ksmd, (host.mm,)),
            Actor("sync", sync_writable, (host.kvm,)),
        ],
        {"pages": 3, "slot_pages": 1, "writable_bits": True},
    ),
    arch="x86-shadow",
    era="v2.6.32",
    without=("x86_host_writable_spte",),
)
