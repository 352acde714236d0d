"""Scenarios of a VMM that exits."""

from __future__ import annotations

from mmuwitness.model.host import Host
from mmuwitness.model.kvm.vm import kvm_destroy_vm
from mmuwitness.model.mm import mmap, rmap
from mmuwitness.model.scenarios.scenario import ONE_GFN, Actor, Scenario, two_private_pages


def mapped_private_page(host: Host) -> None:
    """As two_private_pages, and the guest had used the first."""
    two_private_pages(host)
    host.map_guest_page(0, 0, write=True)


EXIT = (
    Scenario(
        "exit_reclaim",
        "The VMM has exited and its address space is torn down, while kswapd reclaims its pages.",
        "1 vCPU that ran before, 1 gfn, 2 pages, any number of reclaims",
        mapped_private_page,
        lambda host: [
            Actor("exit", mmap.exit_mmap, (host.mm,)),
            Actor("kswapd", rmap.shrink_folio_list, (host.mm, True)),
        ],
        {**ONE_GFN, "exits": True},
    ),
    Scenario(
        "exit_aging",
        "As exit_reclaim; kswapd asks first whether the guest has used a page.  Architectures that"
        " free tables at once do so.",
        "1 vCPU that ran before, 1 gfn, 2 pages, any number of reclaims",
        mapped_private_page,
        lambda host: [
            Actor("exit", mmap.exit_mmap, (host.mm,)),
            Actor("kswapd", rmap.shrink_folio_list, (host.mm, True)),
        ],
        {**ONE_GFN, "exits": True, "ages_pages": True, "frees_tables": True},
    ),
    Scenario(
        "exit_destroy",
        "As exit_reclaim, while another process closes the last file that leads to the VM: KVM is"
        " released by both, and leaves the list once.",
        "1 vCPU that ran before, 1 gfn, 2 pages, any number of reclaims",
        mapped_private_page,
        lambda host: [
            Actor("exit", mmap.exit_mmap, (host.mm,)),
            Actor("close", kvm_destroy_vm, (host.kvm,)),
            Actor("kswapd", rmap.shrink_folio_list, (host.mm, True)),
        ],
        {**ONE_GFN, "exits": True, "unregisters": True},
    ),
)
