"""Scenarios of a driver that mirrors an address space: the second kind of subscriber."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mmuwitness.model.host import Host
from mmuwitness.model.lib.test_hmm import (
    Dmirror,
    dmirror_fops,
    dmirror_interval_invalidate,
    dmirror_ioctl,
)
from mmuwitness.model.mm import ksm, memory, migrate
from mmuwitness.model.scenarios.scenario import (
    ONE_GFN,
    Actor,
    Scenario,
    private_beside_ksm_page,
    two_private_pages,
)

NO_VM = {"vcpus": 0, "slot_pages": 1}
ONE_PAGE = {**NO_VM, "addresses": 1, "pages": 2}


def mirrored(setup: Callable[[Host], None]) -> Callable[[Host], None]:
    """The same, and a device mirrors the mm."""

    def wired(host: Host) -> None:
        setup(host)
        host.add_device(Dmirror, dmirror_interval_invalidate)

    return wired


def closed_device(host: Host) -> None:
    """As mirrored(two_private_pages); nobody has opened the device yet."""
    mirrored(two_private_pages)(host)
    host.devices[0].notifier.inserted = False


def device_beside(
    name: str, function: Callable[..., Any], *more: Any, device: Callable[..., Any] = dmirror_ioctl
) -> Callable[[Host], list[Actor]]:
    return lambda host: [
        Actor("device", device, (host.devices[0],)),
        Actor(name, function, (host.mm, *more)),
    ]


HMM = (
    Scenario(
        "hmm_dontneed",
        "A device reads and writes a page that the process drops.",
        "no VM, 1 device, 1 address, 2 pages, any number of calls",
        mirrored(two_private_pages),
        device_beside("madvise", memory.madvise_dontneed),
        ONE_PAGE,
        requires="mmu_interval_notifier",
    ),
    Scenario(
        "hmm_migrate",
        "Compaction moves a page that a device reads and writes.",
        "no VM, 1 device, 1 address, 2 pages, any number of migrations",
        mirrored(two_private_pages),
        device_beside("kcompactd", migrate.migrate_pages, False),
        ONE_PAGE,
        requires="mmu_interval_notifier",
    ),
    Scenario(
        "hmm_ksm",
        "ksmd merges a page, again and again, that a device reads and writes.",
        "no VM, 1 device, 2 addresses, 3 pages, any number of KSM merges",
        mirrored(private_beside_ksm_page),
        device_beside("ksmd", ksm.ksmd),
        {**NO_VM, "pages": 3},
        requires="mmu_interval_notifier",
    ),
    Scenario(
        "hmm_open",
        "A device is opened, makes one access and is closed, again and again, while the process"
        " drops the page.",
        "no VM, 1 device, 1 address, 2 pages, any number of calls",
        closed_device,
        device_beside("madvise", memory.madvise_dontneed, device=dmirror_fops),
        ONE_PAGE,
        requires="mmu_interval_notifier",
    ),
    Scenario(
        "hmm_guest",
        "A device and a guest use the same page, which the VMM drops.",
        "1 vCPU, 1 device, 1 gfn, 2 pages, any number of calls",
        mirrored(two_private_pages),
        device_beside("madvise", memory.madvise_dontneed),
        ONE_GFN,
        requires="mmu_interval_notifier",
    ),
)
