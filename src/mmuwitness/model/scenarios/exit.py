"""Scenarios of a VMM that exits."""

from __future__ import annotations

from mmuwitness.model.host import Host
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
)
