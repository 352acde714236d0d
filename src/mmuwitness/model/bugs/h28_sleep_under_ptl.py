"""H28: a subscriber that may sleep is called with ptl held."""

from __future__ import annotations

from mmuwitness.model.bugs.bug import Bug
from mmuwitness.model.features.feature import SOURCE
from mmuwitness.model.host import Host
from mmuwitness.model.mm.mmu_notifier import MmuNotifier
from mmuwitness.model.mm.rmap import shrink_folio_list
from mmuwitness.model.primitives import lock, unlock
from mmuwitness.model.scenarios.scenario import ONE_GFN, Scenario, mm_actor, two_private_pages
from mmuwitness.model.state import Bool, Field, Lock, Struct


class Driver(Struct):
    """A driver that keeps what it has mapped under a mutex.  (GPU drivers and RDMA do.)"""

    mutex = Field(Lock())
    mapped = Field(Bool())


def driver_invalidate_page(driver, addr):
    lock(driver.mutex)
    driver.mapped = False
    unlock(driver.mutex)


def driver_invalidate_range_start(driver, start, end, blockable):
    driver_invalidate_page(driver, start)
    return True


def beside_driver(host: Host) -> None:
    two_private_pages(host)
    ops = (driver_invalidate_range_start, None, driver_invalidate_page, None)
    driver = MmuNotifier(host.world.add(Driver)[0], *ops)
    host.mm.notifier_subscriptions.append(driver)


BUG = Bug(
    id="H28",
    text="Since v3.7 subscribers may sleep. A rewrite of the rmap walk in v4.11 called"
    " invalidate_page with ptl held again: a driver that takes a mutex there sleeps under a"
    " spinlock.",
    commit="369ea8242c0f",
    subject="mm/rmap: update to new mmu_notifier semantic v2",
    release="v4.13",
    source=SOURCE,
    reference="It came with commit c7ab0d2fdc84. In the end invalidate_page went (5f32b265400d):"
    " one page is too little for THP as well.",
    claim="sleeps_in_atomic",
    scenario=Scenario(
        "reclaim_beside_driver",
        "As reclaim_one; a driver that takes a mutex subscribes, too.",
        "1 vCPU, 1 gfn, 2 pages, any number of reclaims",
        beside_driver,
        mm_actor("kswapd", shrink_folio_list, False),
        ONE_GFN,
    ),
    arch="x86-shadow",
    era="v4.13 +invalidate_page_op",
    without=("rmap_walk_bracketed",),
)
