"""Scenarios of the oom reaper, whose start() must not sleep and may be refused."""

from __future__ import annotations

from mmuwitness.model.host import Host
from mmuwitness.model.mm.mmu_notifier import MmuNotifier
from mmuwitness.model.mm.oom_kill import oom_reaper
from mmuwitness.model.primitives import choose
from mmuwitness.model.scenarios.hmm import ONE_PAGE, device_beside, mirrored
from mmuwitness.model.scenarios.scenario import ONE_GFN, Scenario, mm_actor, two_private_pages


def driver_invalidate_range_start(driver, start, end, blockable):
    """Some driver that takes a lock: another task of its own may hold that now."""
    return blockable or choose(2) == 0


def beside_refusing_driver(host: Host) -> None:
    """A second subscriber, asked after KVM.  One that may refuse has no end()."""
    two_private_pages(host)
    driver = MmuNotifier(None, driver_invalidate_range_start, None, None, None)
    host.mm.notifier_subscriptions.append(driver)


OOM = (
    Scenario(
        "oom_reap",
        "The oom reaper takes the VMM's pages while a vCPU still runs; a second subscriber may"
        " refuse.",
        "1 vCPU, 1 gfn, 2 pages, any number of attempts of the reaper",
        beside_refusing_driver,
        mm_actor("oom_reaper", oom_reaper),
        ONE_GFN,
        requires="nonblock_start_paired",
    ),
    Scenario(
        "oom_hmm",
        "The oom reaper takes pages that a device uses: a driver that holds its lock refuses, and"
        " so may another subscriber after it.",
        "no VM, 1 device, 1 address, 2 pages, any number of attempts of the reaper",
        mirrored(beside_refusing_driver),
        device_beside("oom_reaper", oom_reaper),
        ONE_PAGE,
        requires="mmu_interval_notifier",
    ),
)
