"""One kernel and one architecture, wired: mm, kvm, vCPUs, pages."""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import Any

from mmuwitness.model.arch.arch import Arch
from mmuwitness.model.arch.arm64 import Arm64
from mmuwitness.model.arch.loongarch import Loongarch
from mmuwitness.model.arch.mips import Mips
from mmuwitness.model.arch.powerpc import PowerpcE500, PowerpcHv, PowerpcPr
from mmuwitness.model.arch.riscv import Riscv
from mmuwitness.model.arch.s390 import S390
from mmuwitness.model.arch.x86 import X86Shadow, X86Tdp
from mmuwitness.model.era import Era, UnknownName
from mmuwitness.model.kvm.kvm_host import KVM, VCPU, GfnToPfnCache, GuestMemfd, Memslot
from mmuwitness.model.kvm.kvm_main import (
    kvm_mmu_notifier_change_pte,
    kvm_mmu_notifier_invalidate_page,
    kvm_mmu_notifier_invalidate_range_end,
    kvm_mmu_notifier_invalidate_range_start,
)
from mmuwitness.model.mm.mm_types import MM, Page, Pte
from mmuwitness.model.mm.mmu_notifier import MmuNotifier
from mmuwitness.model.state import World

ARCHES: dict[str, Arch] = {
    made.name: made
    for made in (
        *(X86Tdp(), X86Shadow(), Arm64(), Riscv(), Mips(), Loongarch()),
        *(PowerpcHv(), PowerpcPr(), PowerpcE500(), S390()),
    )
}


def find_arch(name: str) -> Arch:
    """The architecture of that name; UnknownName lists what exists."""
    if name not in ARCHES:
        raise UnknownName("arch", name, list(ARCHES))
    return ARCHES[name]


class Host:
    """What a scenario's processes run on.

    addresses: hvas in pages; the memslots cover the first `slot_pages` of them, in equal parts,
    or they are `layout`, (base_gfn, userspace_addr, npages) each.  updates_memslots: somebody
    changes the first one; moved_base_gfn: where it moves to.  caches: the hvas of
    gfn_to_pfn_caches; those outside of the memslots are activated by hva.  private_memory: gfns
    may be private, if KVM has that.  caches_mmio: faults at gfns in no memslot go on to mmu_lock
    where KVM remembers them.  gfns_per_table: 2 if neighbouring gfns share their last-level
    table page, 1 if each has its own.
    read_gfns, written_gfns: the guest reads and writes the first so many (0: reads all).
    """

    def __init__(
        self,
        era: Era,
        arch: Arch,
        *,
        vcpus: int = 1,
        addresses: int = 2,
        slot_pages: int = 2,
        memslots: int = 1,
        layout: Sequence[tuple[int, int, int]] = (),
        updates_memslots: bool = False,
        moved_base_gfn: int = 0,
        caches: Sequence[int] = (),
        private_memory: bool = False,
        caches_mmio: bool = False,
        pages: int = 4,
        gfns_per_table: int = 2,
        read_gfns: int = 0,
        written_gfns: int = 1,
        mergeable: int = 1,
        host_thread: bool = False,
        defers_flushes: bool = False,
    ) -> None:
        self.era, self.arch = era, arch
        self.features_read: set[str] = set()
        each = slot_pages // memslots
        layout = layout or [(n * each, n * each, each) for n in range(memslots)]
        gfns = max(max(base, moved_base_gfn) + npages for base, _, npages in layout)
        tables = -(-gfns // gfns_per_table)
        range_max = max(addresses, gfns)
        self.world = World(
            pages=pages, addresses=addresses, gfns=gfns, tables=tables, range_max=range_max
        )
        self.pages = self.world.add(Page, pages)
        self.mm = self.world.add(
            MM,
            pages=self.pages,
            nr_pages=pages,
            addresses=range(addresses),
            nr_addresses=addresses,
            nr_mergeable=mergeable,
            host_thread=host_thread,
            defers_flushes=defers_flushes,
        )[0]
        slots = self.memslots(layout)
        self.kvm = self.world.add(
            KVM,
            mm=self.mm,
            arch=arch,
            memslots=slots,
            updates_memslots=updates_memslots,
            moved_base_gfn=moved_base_gfn,
            caches_mmio=caches_mmio,
            gfns=range(gfns),
            nr_gfns=gfns,
            read_gfns=read_gfns or gfns,
            written_gfns=written_gfns,
            range_max=range_max,
            table_shift=gfns_per_table - 1,
        )[0]
        self.kvm.last_memslot = slots[-1] if sum(npages for *_, npages in layout) == gfns else None
        self.kvm.gpc_list = self.pfn_caches(caches) if caches else []
        private = private_memory and arch.has_private_mem and self.has_feature("guest_memfd")
        self.kvm.gmem = self.world.add(GuestMemfd)[0] if private else None
        self.vcpus = self.world.add(VCPU, vcpus, kvm=self.kvm)
        self.kvm.vcpus = self.vcpus
        self.mm.notifier_subscriptions = [self.kvm_notifier()]
        self.processes: Sequence[Any] = ()
        self.claims: Sequence[Any] = ()
        self.overrides: dict[str, types.FunctionType] = {}

    def memslots(self, layout: Sequence[tuple[int, int, int]]) -> list[Memslot]:
        slots = self.world.add(Memslot, len(layout))
        for number, slot in enumerate(slots):
            slot.id = number
            slot.base_gfn, slot.userspace_addr, slot.npages = layout[number]
        return slots

    def pfn_caches(self, hvas: Sequence[int]) -> list[GfnToPfnCache]:
        """A cache for each of these hvas."""
        caches = self.world.add(GfnToPfnCache, len(hvas))
        for gpc, uhva in zip(caches, hvas, strict=True):
            offsets = [(uhva - slot.userspace_addr, slot) for slot in self.kvm.memslots]
            gpc.uhva = uhva
            gpc.by_hva = not any(0 <= offset < slot.npages for offset, slot in offsets)
        return caches

    def has_feature(self, name: str) -> bool:
        """Whether this kernel has a feature; what was asked decides what programs it shares."""
        self.features_read.add(name)
        return self.era.has(name, self.arch.kernel_arch)

    def kvm_notifier(self) -> MmuNotifier:
        """kvm_mmu_notifier_ops as this kernel has them."""
        change_pte = self.arch.has_change_pte(self.era)
        self.features_read |= {"change_pte_op", self.arch.change_pte} - {""}
        page = self.has_feature("invalidate_page_op")
        return MmuNotifier(
            self.kvm,
            kvm_mmu_notifier_invalidate_range_start,
            kvm_mmu_notifier_invalidate_range_end,
            kvm_mmu_notifier_invalidate_page if page else None,
            kvm_mmu_notifier_change_pte if change_pte else None,
        )

    def map_page(self, addr: int, page: int, *, content: int = 0, write: bool = True) -> None:
        """Before the run: the primary MMU maps an anonymous page at an address."""
        mapped = self.pages[page]
        mapped.content, mapped.lru = content, True
        mapped.refcount += 1
        mapped.mapcount += 1
        mapped.rmap[addr] = True
        self.mm.written[addr] = content
        self.mm.pte[addr] = Pte(present=True, write=write, dirty=write, page=mapped)

    def map_ksm_page(self, addresses: Sequence[int], page: int) -> None:
        """Before the run: a KSM page is mapped read-only at several addresses."""
        for addr in addresses:
            self.map_page(addr, page, write=False)
        self.pages[page].ksm = True
        self.pages[page].lru = True
