"""Scenarios of guest memory whose mapping moves."""

from __future__ import annotations

from mmuwitness.model.host import Host
from mmuwitness.model.mm import memory, mremap
from mmuwitness.model.mm.mm_types import NO_VMA
from mmuwitness.model.scenarios.scenario import Actor, Scenario, mm_actor


def one_page_beside_a_hole(host: Host) -> None:
    """A page of its own at the first address, no VMA at the second."""
    host.map_page(0, 0)
    host.mm.vm_flags[1] = NO_VMA


MREMAP = (
    Scenario(
        "mremap",
        "The VMM moves guest memory away from the memslot's hva, and back.",
        "1 vCPU, 1 gfn, 1 address in no memslot, 1 page, any number of moves",
        one_page_beside_a_hole,
        mm_actor("mremap", mremap.mremap),
        {"slot_pages": 1, "pages": 1, "changes_vmas": True},
    ),
    Scenario(
        "mremap_truncate",
        "As mremap, while a thread of the VMM reads there, and another truncates the file behind"
        " it.",
        "1 vCPU that reads, 1 host thread, 1 gfn, 1 address in no memslot, 1 page, any number of"
        " moves and of truncations",
        one_page_beside_a_hole,
        lambda host: [
            Actor("mremap", mremap.mremap, (host.mm,)),
            Actor("truncate", memory.unmap_mapping_range, (host.mm,)),
            Actor("vmm", memory.host_reader, (host.mm,)),
        ],
        {
            "slot_pages": 1,
            "pages": 1,
            "written_gfns": 0,
            "host_thread": True,
            "defers_flushes": True,
            "changes_vmas": True,
        },
    ),
)
