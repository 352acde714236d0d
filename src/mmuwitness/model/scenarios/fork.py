"""Scenarios of a VMM that forks: its child shares guest memory until either writes."""

from __future__ import annotations

from typing import Any

from mmuwitness.model.host import Host
from mmuwitness.model.mm import fork, gup, memory
from mmuwitness.model.scenarios.scenario import ONE_GFN, Actor, Scenario, two_private_pages


def forks(function: Any, *beside: tuple[str, Any]) -> Any:
    """A thread of the VMM that forks, and other actors."""

    def actors(host: Host) -> list[Actor]:
        parent = Actor("fork", function, (*host.children, host.mm))
        return [parent, *(Actor(name, each, (host.mm,)) for name, each in beside)]

    return actors


FORK = (
    Scenario(
        "fork",
        "The VMM forks while its guest runs; the child reads and writes what they share, and"
        " exits.",
        "1 vCPU, 1 gfn, 3 pages, any number of children, one after another",
        two_private_pages,
        forks(fork.kernel_clone),
        {**ONE_GFN, "pages": 3, "forks": True},
    ),
    Scenario(
        "fork_thread",
        "The VMM forks while a thread of it reads and writes through the host's TLB.",
        "1 vCPU that reads, 1 host thread, 1 gfn, 2 pages, any number of children that do nothing",
        two_private_pages,
        forks(fork.fork_and_exit, ("vmm", memory.host_thread)),
        {**ONE_GFN, "forks": True, "written_gfns": 0, "host_thread": True},
    ),
    Scenario(
        "fork_dma",
        "The VMM forks while a device writes to guest memory, and so does the guest.",
        "1 vCPU, 1 gfn, 2 pages, any number of children that do nothing, and of pins",
        two_private_pages,
        forks(fork.fork_and_exit, ("vfio", gup.vfio_dma)),
        {**ONE_GFN, "forks": True},
    ),
)
