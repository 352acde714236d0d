"""Scenarios of live migration: the VMM sends guest memory while the guest writes to it."""

from __future__ import annotations

from mmuwitness.model.host import Host
from mmuwitness.model.kvm.dirty_log import migrate_guest
from mmuwitness.model.scenarios.scenario import ONE_GFN, Actor, Scenario, two_private_pages


def migration(host: Host) -> list[Actor]:
    return [Actor("migration", migrate_guest, (host.kvm,))]


DIRTY_LOG = (
    Scenario(
        "dirty_log",
        "The VMM turns dirty logging on, sends all pages, and goes on to send those that the log"
        " has; the vCPUs read and write.",
        "2 vCPUs, 1 gfn, 1 page, any number of reads of the log",
        two_private_pages,
        migration,
        {**ONE_GFN, "pages": 1, "vcpus": 2, "logs_dirty_pages": True},
    ),
    Scenario(
        "dirty_log_neighbour",
        "As dirty_log, with a neighbour that a fault might map as well.",
        "1 vCPU, 2 gfns in one table page, 2 pages, any number of reads of the log",
        two_private_pages,
        migration,
        {"pages": 2, "written_gfns": 2, "logs_dirty_pages": True},
    ),
)
