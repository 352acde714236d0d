"""Scenarios of guest memory that KVM itself has mapped."""

from __future__ import annotations

from mmuwitness.model.kvm.pfncache import kvm_xen_update
from mmuwitness.model.mm import memory
from mmuwitness.model.scenarios.scenario import ONE_GFN, Actor, Scenario, two_private_pages


def madvise_outside(mm):
    """The VMM drops the page that is in no memslot, any number of times."""
    while True:
        memory.zap_page_range_single(mm, 1)


PFNCACHE = (
    Scenario(
        "pfncache",
        "KVM writes to a guest page through a gfn_to_pfn_cache while the VMM drops the page and the"
        " guest reads it.  (x86, since v5.17.)",
        "1 vCPU that reads, 1 gfn, 1 cache, 2 pages, any number of calls and of writes",
        two_private_pages,
        lambda host: [
            Actor("madvise", memory.madvise_dontneed, (host.mm,)),
            Actor("xen", kvm_xen_update, (host.kvm, host.kvm.gpc_list[0])),
        ],
        {**ONE_GFN, "caches": (0,), "written_gfns": 0},
    ),
    Scenario(
        "pfncache_two",
        "As pfncache, with two users of the cache, each of which refreshes it for both.",
        "1 vCPU that reads, 1 gfn, 1 cache, 2 pages, 1 call, any number of writes",
        two_private_pages,
        lambda host: [
            Actor("madvise", memory.zap_page_range_single, (host.mm, 0)),
            Actor("xen0", kvm_xen_update, (host.kvm, host.kvm.gpc_list[0])),
            Actor("xen1", kvm_xen_update, (host.kvm, host.kvm.gpc_list[0])),
        ],
        {**ONE_GFN, "caches": (0,), "written_gfns": 0},
    ),
    Scenario(
        "pfncache_hva",
        "A cache that was activated with an hva outside every memslot, while the VMM drops the page"
        " there.  (x86, since v6.9.)",
        "1 vCPU that reads, 1 gfn, 1 cache and 1 address in no memslot, 3 pages, any number of"
        " calls and of writes",
        two_private_pages,
        lambda host: [
            Actor("madvise", madvise_outside, (host.mm,)),
            Actor("xen", kvm_xen_update, (host.kvm, host.kvm.gpc_list[0])),
        ],
        {"slot_pages": 1, "pages": 3, "caches": (1,), "written_gfns": 0},
    ),
)
