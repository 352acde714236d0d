"""A host machine: its pages, and guests on it, each an mm and a VM of the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mmuwitness.model.arch.arch import Arch
from mmuwitness.model.era import Era
from mmuwitness.model.host import Host
from mmuwitness.model.kvm.kvm_host import KVM, Spte
from mmuwitness.model.mm.mm_types import MM, PMD_HUGE, Page, Pte
from mmuwitness.model.state import Field, OfValue
from mmuwitness.simulate.arrays import Array, ArrayWorld
from mmuwitness.simulate.kernel.huge import PMD_PAGES
from mmuwitness.simulate.kernel.indexed import INDEXED, Kicks, Zone
from mmuwitness.simulate.kernel.ksm import Ksm, RmapItems
from mmuwitness.simulate.kernel.kvm_main import LEFT_OUT
from mmuwitness.simulate.kernel.precise import OpenWindows

CONTENT_MAX = (1 << 32) - 1
COUNT_MAX = (1 << 16) - 1
USERS_MAX = 126

CHUNK = 1 << 18
EVERY = slice(None)

MARGIN = 4
"""Bytes of an array that is read a word at a time."""


class Machine:
    """What all guests share: pages, free ones among them, and ksmd's trees.

    classes: contents that several pages may have; 0 is that of a page of zeros.  high_wmark: so
    many pages are to be free, if somebody sees to it."""

    def __init__(self, pages: int, classes: int, high_wmark: int = 0, **ksm: Any) -> None:
        self.world = ArrayWorld(
            contents=CONTENT_MAX,
            refcounts=COUNT_MAX,
            mapcounts=COUNT_MAX,
            users=USERS_MAX,
            classes=classes,
            addresses=0,
        )
        self.ksm = self.world.add(Ksm, classes=classes, **ksm)[0]
        self.zone = self.world.add(Zone, ksm=self.ksm, high_wmark=high_wmark)[0]
        self.pages = self.world.add(Page, pages, zone=self.zone)
        free = self.world.array(Zone.free)
        free[:] = np.arange(pages, 0, -1, dtype=free.dtype)
        self.zone.nr_free = pages

    def take(self, count: int) -> Array:
        """The numbers of so many free pages, which are free no more."""
        if count > self.zone.nr_free:
            raise ValueError(f"{count} pages are wanted, and {self.zone.nr_free} are free")
        first = self.zone.nr_free - count
        taken: Array = self.world.array(Zone.free)[first : first + count][::-1] - 1
        self.zone.nr_free = first
        return taken

    def used_pages(self) -> int:
        return len(self.pages) - int(self.zone.nr_free)

    def ksm_pages(self) -> tuple[int, int]:
        """pages_shared and pages_sharing, as in /sys/kernel/mm/ksm."""
        merged = self.world.array(Page.ksm) != 0
        mappings = int(self.world.array(Page.mapcount)[merged].sum())
        shared = int(merged.sum())
        return shared, mappings - shared

    def ksm_counters(self) -> dict[str, int]:
        """What /sys/kernel/mm/ksm has, by name.  Pages that a write has taken from a KSM page are
        gone from pages_sharing at once; a kernel knows when ksmd comes to them."""
        shared, sharing = self.ksm_pages()
        unshared = int(self.ksm.pages_unshared)
        return {
            "pages_shared": shared,
            "pages_sharing": sharing,
            "pages_unshared": unshared,
            "pages_volatile": int(self.ksm.rmap_items) - shared - sharing - unshared,
            "pages_scanned": int(self.ksm.pages_scanned),
            "full_scans": int(self.ksm.seqnr),
        }


class Guest(Host):
    """One VM of a machine.  mm, kvm and vCPUs are its own; pages are the machine's.

    mapped: by gfn, 1 once its secondary MMU has mapped it."""

    world: ArrayWorld

    def __init__(
        self,
        machine: Machine,
        number: int,
        era: Era,
        arch: Arch,
        overrides: Mapping[str, Any],
        **sizes: Any,
    ) -> None:
        self.machine = machine
        super().__init__(era, arch, pages=len(machine.pages), **sizes)
        for mm in (self.mm, *self.children):
            mm.zone, mm.ksm = machine.zone, machine.ksm
        self.kvm.windows = self.world.add(OpenWindows)[0]
        self.kvm.kicks = self.world.add(Kicks)[0]
        self.mm.rmap_items = self.world.add(RmapItems)[0]
        self.mm.rmap_items.guest = number
        self.mapped = np.zeros(len(self.kvm.gfns) + MARGIN, np.uint8)
        self.overrides = {**INDEXED, **LEFT_OUT, **overrides}

    def make_world(self, **sizes: int) -> ArrayWorld:  # type: ignore[override]
        world = ArrayWorld(**(sizes | self.machine.world.sizes | {"addresses": sizes["addresses"]}))
        for struct in ("Page", "Zone", "Ksm"):
            world.share(self.machine.world, struct)
        return world

    def populate(self, contents: Array) -> None:
        """Map a page of its own, with its content, at every address: a guest that has run."""
        taken, shared = self.machine.take(len(contents)), self.machine.world
        ptes, pte = self.world.array(MM.pte), Pte(present=True, write=True, dirty=True)
        for part in chunks(len(contents)):
            pages = taken[part]
            shared.array(Page.content)[pages] = contents[part]
            for field in (Page.refcount, Page.mapcount, Page.lru):
                shared.array(field)[pages] = 1
            ptes[part] = packed(self.world, pte, pages)

    def map_all(self, count: int | None = None) -> None:
        """The secondary MMU maps what the primary MMU does, writable: the guest has touched it.
        Or the first so many of its pages."""
        count = self.mm.nr_addresses if count is None else count
        self.mapped[:] = 1
        self.world.array(KVM.table)[:] = 1
        sptes, spte = self.world.array(KVM.spte), Spte(present=True, write=True)
        if self.has_writable_bits():
            spte = spte.replace(host_writable=True, mmu_writable=True)
        for part in chunks(count):
            sptes[part] = packed(self.world, spte, pages_of(self.world, MM.pte, part))


def chunks(count: int) -> Iterator[slice]:
    """Parts of an array that are worked on one after the other: what they take in between is not
    much then."""
    return (slice(at, min(at + CHUNK, count)) for at in range(0, count, CHUNK))


def packed(world: ArrayWorld, value: Any, pages: Array) -> Array:
    """A PTE or SPTE as the array has it, for each of some pages."""
    kind = OfValue(type(value))
    shift = next(s for name, _, s, _ in kind.parts(world.sizes) if name == "page")
    return kind.encode(value, world.sizes) | ((pages.astype(np.int64) + 1) << shift)


def pages_of(world: ArrayWorld, field: Field, part: slice = EVERY) -> Array:
    """The numbers of the pages that an array of PTEs or SPTEs has; -1 for none."""
    parts = field.kind.parts(world.sizes)
    shift, width = next((s, w) for name, _, s, w in parts if name == "page")
    pages: Array = (world.array(field)[part].astype(np.int64) >> shift & (1 << width) - 1) - 1
    return pages


def make_huge(guest: Guest, rng: np.random.Generator, part: float) -> None:
    """Huge PMDs, and huge leaves, over this part of what is mapped already."""
    pmds = guest.mm.nr_addresses // PMD_PAGES
    huge = rng.random(pmds) < part
    guest.world.array(MM.pmd)[:pmds][huge] = PMD_HUGE
    guest.world.array(KVM.huge)[:pmds][huge] = 1
    guest.world.array(KVM.table)[:pmds][huge] = 0
