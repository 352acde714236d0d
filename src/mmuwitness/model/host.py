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
from mmuwitness.model.kvm.kvm_host import KVM, VCPU, Memslot
from mmuwitness.model.kvm.kvm_main import (
    kvm_mmu_notifier_change_pte,
    kvm_mmu_notifier_invalidate_page,
    kvm_mmu_notifier_invalidate_range_end,
    kvm_mmu_notifier_invalidate_range_start,
)
from mmuwitness.model.mm.mm_types import MM, PMD_HUGE, Page, Pte
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

    addresses: hvas in pages; the memslots cover the first `slot_pages` of them, in equal parts;
    what is over goes to the last one.
    updates_memslots: somebody deletes the first one; replaces_roots: the x86 TDP MMU replaces its
    root then.  yields: a zap may drop mmu_lock between two leaves.
    gfns_per_table: 2 if neighbouring gfns share their last-level table page, 1 if each has its own.
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
        updates_memslots: bool = False,
        replaces_roots: bool = False,
        yields: bool = False,
        pages: int = 4,
        gfns_per_table: int = 2,
        read_gfns: int = 0,
        written_gfns: int = 1,
        mergeable: int = 1,
        host_thread: bool = False,
        defers_flushes: bool = False,
        huge_pages: bool = False,
        shmem: bool = False,
        shares_pmds: bool = False,
    ) -> None:
        self.era, self.arch = era, arch
        self.features_read: set[str] = set()
        tables = -(-slot_pages // gfns_per_table)
        self.world = World(
            pages=pages,
            addresses=addresses,
            pmds=-(-addresses // 2),
            gfns=slot_pages,
            tables=tables,
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
            huge_pages=huge_pages,
            shmem=shmem,
            shares_pmds=shares_pmds,
        )[0]
        slots = self.world.add(Memslot, memslots, npages=slot_pages // memslots)
        for number, slot in enumerate(slots):
            slot.id = number
            slot.userspace_addr = slot.base_gfn = number * slot.npages
        slots[-1].npages += slot_pages % memslots
        self.kvm = self.world.add(
            KVM,
            mm=self.mm,
            arch=arch,
            memslots=slots,
            updates_memslots=updates_memslots,
            replaces_roots=replaces_roots,
            yields=yields,
            gfns=range(slot_pages),
            nr_gfns=slot_pages,
            read_gfns=read_gfns or slot_pages,
            written_gfns=written_gfns,
            nr_addresses=addresses,
            table_shift=gfns_per_table - 1,
        )[0]
        self.vcpus = self.world.add(VCPU, vcpus, kvm=self.kvm)
        self.kvm.vcpus = self.vcpus
        self.mm.notifier_subscriptions = [self.kvm_notifier()]
        self.processes: Sequence[Any] = ()
        self.claims: Sequence[Any] = ()
        self.overrides: dict[str, types.FunctionType] = {}

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

    def map_huge_page(self, addr: int, page: int) -> None:
        """Before the run: a huge PMD maps the huge page that begins with this one."""
        self.map_page(addr, page)
        self.map_page(addr + 1, page + 1)
        self.mm.pmd[addr // 2] = PMD_HUGE

    def map_ksm_page(self, addresses: Sequence[int], page: int) -> None:
        """Before the run: a KSM page is mapped read-only at several addresses."""
        for addr in addresses:
            self.map_page(addr, page, write=False)
        self.pages[page].ksm = True
        self.pages[page].lru = True
