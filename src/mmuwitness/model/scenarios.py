"""Bounded set-ups: which processes run on which host.  A scenario is one value of this table.

Actors that repeat for ever are marked so in `bounds`; nothing else is unbounded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

from mmuwitness.model.arch.arch import Arch
from mmuwitness.model.claims import always_claims
from mmuwitness.model.era import Era, UnknownName
from mmuwitness.model.host import Host
from mmuwitness.model.kvm.kvm_host import Spte
from mmuwitness.model.kvm.kvm_main import kvm_vm_ioctl, vcpu_run
from mmuwitness.model.mm import ksm, memory, migrate, rmap, uprobes


@dataclass(frozen=True)
class Actor:
    """A process: `function(*arguments)`, under the name shown in timelines."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Scenario:
    """name, what it is about, and how to wire it.

    sizes: arguments of Host.  setup: maps the first pages.  actors: the processes besides the
    vCPUs.  bounds: what is bounded, for people.  overrides: functions in the place of the model's.
    changes: "+NAME" and "-NAME", features that every kernel has or lacks here.
    variant: the user's file that both come from.
    """

    name: str
    text: str
    bounds: str
    setup: Callable[[Host], None]
    actors: Callable[[Host], list[Actor]]
    sizes: dict[str, Any] = field(default_factory=dict)
    overrides: dict[str, FunctionType] = field(default_factory=dict)
    changes: tuple[str, ...] = ()
    variant: str = ""

    def host(self, era: Era, arch: Arch, claims: bool = True) -> Host:
        """A fresh host with its processes, and with the `always` claims or without any."""
        host = Host(era.with_change(*self.changes), arch, **self.sizes)
        self.setup(host)
        guests = [Actor(f"vcpu{v.index}", vcpu_run, (v,)) for v in host.vcpus]
        host.processes = [*guests, *self.actors(host)]
        host.claims = always_claims() if claims else []
        host.overrides.update(self.overrides)
        return host


def two_private_pages(host: Host) -> None:
    """Every address has a page of its own, writable, all of equal content."""
    for addr in range(len(host.mm.addresses)):
        host.map_page(addr, addr)


def two_read_only_pages(host: Host) -> None:
    """As two_private_pages, in a mapping that is not writable."""
    for addr in range(len(host.mm.addresses)):
        host.map_page(addr, addr, write=False)


def private_beside_ksm_page(host: Host) -> None:
    """A page of its own at the first address, a KSM page of equal content at the others."""
    host.map_page(0, 0)
    host.map_ksm_page(range(1, len(host.mm.addresses)), 1)


def ksm_page_beside_private(host: Host) -> None:
    """A KSM page at the first address, a page of its own and of equal content at the second."""
    host.map_ksm_page([0], 0)
    host.map_page(1, 1)


def private_beside_mapped_ksm_page(host: Host) -> None:
    """As private_beside_ksm_page; the second gfn is mapped already, and nobody touches it."""
    private_beside_ksm_page(host)
    host.kvm.spte[1] = Spte(present=True, page=host.pages[1])
    host.kvm.table[0] = True


def one_ksm_page(host: Host) -> None:
    """All addresses share one KSM page."""
    host.map_ksm_page(range(len(host.mm.addresses)), 0)


def mm_actor(name: str, function: Callable[..., Any], *more: Any) -> Callable[[Host], list[Actor]]:
    return lambda host: [Actor(name, function, (host.mm, *more))]


ONE_GFN = {"addresses": 1, "slot_pages": 1, "pages": 2}
TWO_SLOTS = {"memslots": 2, "updates_memslots": True}

SCENARIOS: dict[str, Scenario] = {
    s.name: s
    for s in (
        Scenario(
            "ksm",
            "ksmd merges a guest page with a KSM page, again and again, while the guest reads and"
            " writes it.  A neighbour's SPTE keeps the last-level table page.",
            "1 vCPU, 2 gfns in one table page, 3 pages, any number of KSM merges",
            private_beside_mapped_ksm_page,
            mm_actor("ksmd", ksm.ksmd),
            {"pages": 3, "read_gfns": 1},
        ),
        Scenario(
            "ksm_alone",
            "As ksm, but the gfn is alone in its last-level table page.",
            "1 vCPU, 1 gfn, 3 pages, any number of KSM merges",
            private_beside_ksm_page,
            mm_actor("ksmd", ksm.ksmd),
            {"pages": 3, "slot_pages": 1},
        ),
        Scenario(
            "ksm_both",
            "As ksm, and the guest reads the neighbour, which the same KSM page backs.",
            "1 vCPU, 2 gfns in one table page, 3 pages, any number of KSM merges",
            private_beside_ksm_page,
            mm_actor("ksmd", ksm.ksmd),
            {"pages": 3},
        ),
        Scenario(
            "ksm_one",
            "A guest page and one that is in no memslot are merged: windows over the second elide"
            " mmu_lock.",
            "1 vCPU, 1 gfn, 1 address in no memslot, 3 pages, any number of KSM merges",
            ksm_page_beside_private,
            mm_actor("ksmd", ksm.ksmd),
            {"pages": 3, "slot_pages": 1, "mergeable": 2},
        ),
        Scenario(
            "ksm_first",
            "Two private pages of equal content: the first becomes a KSM page in place, the second"
            " is merged with it.",
            "1 vCPU that reads, 2 gfns in one table page, 2 pages, any number of KSM merges",
            two_private_pages,
            mm_actor("ksmd", ksm.ksmd),
            {"pages": 2, "mergeable": 2, "written_gfns": 0},
        ),
        Scenario(
            "cow",
            "A guest and a thread of the VMM write to pages that share a KSM page.",
            "1 vCPU, 1 host thread, 2 gfns in one table page, 4 pages",
            one_ksm_page,
            mm_actor("vmm", memory.host_thread),
            {"host_thread": True},
        ),
        Scenario(
            "cow_smp",
            "One vCPU breaks COW while a thread of the VMM writes and another vCPU reads.",
            "2 vCPUs, 1 host thread, 1 gfn, 2 pages",
            one_ksm_page,
            mm_actor("vmm", memory.host_thread),
            {**ONE_GFN, "vcpus": 2, "host_thread": True},
        ),
        Scenario(
            "cow_migrate",
            "A guest breaks COW while compaction moves pages, the new one among them.",
            "1 vCPU, 2 gfns in one table page, 3 pages, any number of migrations",
            one_ksm_page,
            mm_actor("kcompactd", migrate.migrate_pages, True),
            {"pages": 3},
        ),
        Scenario(
            "cow_reclaim",
            "A guest breaks COW while kswapd reclaims pages, the new one among them.",
            "1 vCPU, 2 gfns in one table page, 3 pages, any number of reclaims",
            one_ksm_page,
            mm_actor("kswapd", rmap.shrink_folio_list, True),
            {"pages": 3},
        ),
        Scenario(
            "unmerge",
            "MADV_UNMERGEABLE breaks the sharing of KSM pages under a running guest.",
            "1 vCPU, 2 gfns in one table page, 3 pages, any number of calls",
            one_ksm_page,
            mm_actor("madvise", ksm.unmerge_ksm_pages),
            {"pages": 3},
        ),
        Scenario(
            "uprobe",
            "A page of guest memory is replaced by a copy with a breakpoint.  (uprobes want a"
            " mapping that is not writable, so the guest only reads.)",
            "1 vCPU, 2 gfns in one table page, 3 pages, any number of breakpoints",
            two_read_only_pages,
            mm_actor("perf", uprobes.uprobe_register),
            {"written_gfns": 0, "pages": 3},
        ),
        Scenario(
            "unmerge_uprobe",
            "Both, in one mm: mmap_lock keeps them apart, and the guest reads on.",
            "1 vCPU that reads, 2 gfns in one table page, 3 pages, any number of calls of both",
            one_ksm_page,
            lambda host: [
                Actor("madvise", ksm.unmerge_ksm_pages, (host.mm,)),
                Actor("perf", uprobes.uprobe_register, (host.mm,)),
            ],
            {"written_gfns": 0, "pages": 3},
        ),
        Scenario(
            "uprobe_one",
            "As uprobe, with one gfn.",
            "1 vCPU, 1 gfn, 2 pages, any number of breakpoints",
            two_read_only_pages,
            mm_actor("perf", uprobes.uprobe_register),
            {**ONE_GFN, "written_gfns": 0},
        ),
        Scenario(
            "dontneed",
            "The VMM drops guest pages (a balloon), the guest faults them in again.",
            "1 vCPU, 2 gfns in one table page, 4 pages, any number of calls",
            two_private_pages,
            mm_actor("madvise", memory.madvise_dontneed),
        ),
        Scenario(
            "dontneed_one",
            "As dontneed, with one gfn.",
            "1 vCPU, 1 gfn, 2 pages, any number of calls",
            two_private_pages,
            mm_actor("madvise", memory.madvise_dontneed),
            ONE_GFN,
        ),
        Scenario(
            "dontneed_smp",
            "Two vCPUs fault the same page in again.",
            "2 vCPUs, 1 gfn, 3 pages, any number of calls",
            two_private_pages,
            mm_actor("madvise", memory.madvise_dontneed),
            {**ONE_GFN, "pages": 3, "vcpus": 2},
        ),
        Scenario(
            "reclaim",
            "kswapd unmaps pages through the reverse mapping and frees them.",
            "1 vCPU, 2 gfns in one table page, 4 pages, any number of reclaims",
            two_private_pages,
            mm_actor("kswapd", rmap.shrink_folio_list, False),
        ),
        Scenario(
            "reclaim_one",
            "As reclaim, with one gfn.",
            "1 vCPU, 1 gfn, 2 pages, any number of reclaims",
            two_private_pages,
            mm_actor("kswapd", rmap.shrink_folio_list, False),
            ONE_GFN,
        ),
        Scenario(
            "migrate",
            "Compaction moves guest pages.",
            "1 vCPU, 2 gfns in one table page, 4 pages, any number of migrations",
            two_private_pages,
            mm_actor("kcompactd", migrate.migrate_pages, False),
        ),
        Scenario(
            "migrate_one",
            "As migrate, with one gfn.",
            "1 vCPU, 1 gfn, 2 pages, any number of migrations",
            two_private_pages,
            mm_actor("kcompactd", migrate.migrate_pages, False),
            ONE_GFN,
        ),
        Scenario(
            "memslot_delete",
            "The VMM deletes a memslot and creates it again while ksmd merges a page of it and the"
            " guest reads that.  A neighbour in another memslot keeps the last-level table page.",
            "1 vCPU that reads, 2 gfns in one table page, 2 pages, any number of KSM merges and of"
            " deletions",
            private_beside_mapped_ksm_page,
            lambda host: [
                Actor("ksmd", ksm.ksmd, (host.mm,)),
                Actor("ioctl", kvm_vm_ioctl, (host.kvm,)),
            ],
            {**TWO_SLOTS, "pages": 2, "read_gfns": 1, "written_gfns": 0},
        ),
        Scenario(
            "memslot_dontneed",
            "The VMM drops a guest page while another thread of it deletes the memslot and creates"
            " it again.",
            "1 vCPU, 1 gfn, 2 pages, any number of calls and of deletions",
            two_private_pages,
            lambda host: [
                Actor("madvise", memory.madvise_dontneed, (host.mm,)),
                Actor("ioctl", kvm_vm_ioctl, (host.kvm,)),
            ],
            {**ONE_GFN, "updates_memslots": True},
        ),
    )
}


def find_scenario(name: str) -> Scenario:
    """The scenario of that name; UnknownName lists what exists."""
    if name not in SCENARIOS:
        raise UnknownName("scenario", name, list(SCENARIOS))
    return SCENARIOS[name]
