"""One kernel and one architecture, wired: mm, kvm, vCPUs, pages."""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

from mmuwitness.model.arch.arch import Arch
from mmuwitness.model.arch.arm64 import Arm64
from mmuwitness.model.arch.loongarch import Loongarch
from mmuwitness.model.arch.mips import Mips
from mmuwitness.model.arch.powerpc import PowerpcE500, PowerpcHv, PowerpcPr
from mmuwitness.model.arch.powerpc_hpt import PowerpcHpt
from mmuwitness.model.arch.riscv import Riscv
from mmuwitness.model.arch.s390 import S390
from mmuwitness.model.arch.x86 import X86Shadow, X86Tdp
from mmuwitness.model.era import Era, UnknownName
from mmuwitness.model.kvm.aging import (
    kvm_mmu_notifier_clear_flush_young,
    kvm_mmu_notifier_clear_young,
)
from mmuwitness.model.kvm.kvm_host import (
    KVM,
    VCPU,
    GfnToPfnCache,
    GuestMemfd,
    Hpte,
    KvmMmuPage,
    Memslot,
    Rcu,
    Spte,
)
from mmuwitness.model.kvm.kvm_main import (
    kvm_mmu_notifier_change_pte,
    kvm_mmu_notifier_invalidate_page,
    kvm_mmu_notifier_invalidate_range_end,
    kvm_mmu_notifier_invalidate_range_start,
    kvm_mmu_notifier_release,
)
from mmuwitness.model.mm.mm_types import (
    MM,
    PMD_HUGE,
    REFCOUNT_MAX,
    VM_WRITE,
    Page,
    Pte,
    Seqcount,
)
from mmuwitness.model.mm.mmu_interval_notifier import MmuIntervalNotifier, MmuNotifierSubscriptions
from mmuwitness.model.mm.mmu_notifier import MmuNotifier
from mmuwitness.model.sizes import Sizes
from mmuwitness.model.state import Struct, World

ARCHES: dict[str, Arch] = {
    made.name: made
    for made in (
        *(X86Tdp(), X86Shadow(), Arm64(), Riscv(), Mips(), Loongarch()),
        *(PowerpcHv(), PowerpcHpt(), PowerpcPr(), PowerpcE500(), S390()),
    )
}


def wire_memslot(slot: Any, number: int, base_gfn: int, userspace_addr: int, npages: int) -> Any:
    slot.id, slot.base_gfn = number, base_gfn
    slot.userspace_addr, slot.npages = userspace_addr, npages
    return slot


def find_arch(name: str) -> Arch:
    """The architecture of that name; UnknownName lists what exists."""
    if name not in ARCHES:
        raise UnknownName("arch", name, list(ARCHES))
    return ARCHES[name]


class Host:
    """What a scenario's processes run on.  sizes: those of `Sizes`."""

    make_world = World

    def __init__(self, era: Era, arch: Arch, **sizes: Any) -> None:
        self.era, self.arch, self.sizes = era, arch, Sizes(**sizes)
        self.features_read: set[str] = set()
        self.world = self.wire_world()
        self.pages = self.world.add(Page, self.sizes.pages)
        self.mm, *self.children = self.wire_mm()
        self.kvms = self.wire_kvms()
        self.kvm = self.kvms[0]
        self.vcpus = self.wire_vcpus()
        newest_first = reversed(self.kvms) if self.vcpus else ()
        self.mm.notifier_subscriptions = [self.kvm_notifier(kvm) for kvm in newest_first]
        self.devices: list[Any] = []
        self.processes: Sequence[Any] = ()
        self.claims: Sequence[Any] = ()
        self.overrides: dict[str, types.FunctionType] = {}

    def wire_world(self) -> World:
        sizes = self.sizes
        gfns = max(each.gfns for each in (sizes, *sizes.second()))
        return self.make_world(
            pages=sizes.pages,
            addresses=sizes.addresses,
            pmds=-(-sizes.addresses // 2),
            gfns=gfns,
            tables=-(-gfns // sizes.gfns_per_table),
            range_max=max(sizes.addresses, gfns),
            contents=1,
            refcounts=REFCOUNT_MAX,
            mapcounts=3,
            users=4,
            writable_bits=int(self.has_writable_bits()),
            young_bits=int(sizes.ages_pages),
            KvmMmuPage=0,
        )

    def has_writable_bits(self) -> bool:
        used = self.sizes.writable_bits or self.sizes.logs_dirty_pages
        return used and self.arch.kernel_arch == "x86"

    def wire_mm(self) -> list[Any]:
        """The VMM's mm, and that of its child."""
        sizes = self.sizes
        mm, *children = self.world.add(
            MM,
            2 if sizes.forks else 1,
            pages=self.pages,
            nr_pages=len(self.pages),
            addresses=range(sizes.addresses),
            nr_addresses=sizes.addresses,
            nr_mergeable=sizes.mergeable,
            interval_sub=None,
            host_thread=sizes.host_thread,
            defers_flushes=sizes.defers_flushes,
            swap_cache=sizes.swap_cache,
            zero_page=self.pages[0] if sizes.zero_page else None,
            maps_pfns=sizes.maps_pfns,
            changes_vmas=sizes.changes_vmas,
            frees_lazily=sizes.frees_lazily,
            writes_back=sizes.writes_back,
            forks=sizes.forks,
            exits=sizes.exits,
            unregisters=sizes.unregisters,
            has_srcu=sizes.unregisters,
            huge_pages=sizes.huge_pages,
            shmem=sizes.shmem,
            shares_pmds=sizes.shares_pmds,
            ages_pages=sizes.ages_pages,
        )
        for child in children:
            child.host_thread, child.notifier_subscriptions = True, []
            mm.write_protect_seq = self.world.add(Seqcount)[0]
        mm.vm_flags.fill(VM_WRITE)
        if sizes.zero_page:
            self.pages[0].refcount = 1
        return [mm, *children]

    def wire_kvms(self) -> list[Any]:
        """The VMs, in the order of their registration."""
        each = [self.sizes, *self.sizes.second()]
        kvms = self.world.add(KVM, len(each), mm=self.mm, arch=self.arch)
        gfns = sum(sizes.gfns for sizes in each)
        hptes = iter(self.world.add(Hpte, gfns) if self.arch.has_hptes else ())
        layouts = [sizes.memslot_layout() for sizes in each]
        slots = iter(self.world.add(Memslot, sum(map(len, layouts))))
        for kvm, sizes, layout in zip(kvms, each, layouts, strict=True):
            self.wire_kvm(
                kvm, sizes, [wire_memslot(next(slots), n, *a) for n, a in enumerate(layout)]
            )
            kvm.hptes = list(islice(hptes, sizes.gfns))
        return kvms

    def wire_kvm(self, kvm: Any, sizes: Sizes, slots: list[Any]) -> None:
        gfns = sizes.gfns
        constants = {
            "memslots": slots,
            "last_memslot": slots[-1] if sum(slot.npages for slot in slots) == gfns else None,
            "has_srcu": (sizes.updates_memslots or sizes.logs_dirty_pages)
            and self.has_feature("memslots_srcu"),
            "updates_memslots": sizes.updates_memslots,
            "moved_base_gfn": sizes.moved_base_gfn,
            "replaces_roots": sizes.replaces_roots,
            "caches_mmio": sizes.caches_mmio,
            "yields": sizes.yields,
            "logs_dirty_pages": sizes.logs_dirty_pages,
            "tracks_writes": sizes.tracks_writes,
            "writable_bits": self.has_writable_bits(),
            "ages_pages": sizes.ages_pages,
            "access_tracking": sizes.access_tracking,
            "delays_flushes": sizes.delays_flushes,
            "frees_tables": sizes.frees_tables and self.arch.frees_tables,
            "frees_by_rcu": sizes.frees_by_rcu and self.arch.frees_by_rcu,
            "gfns": range(gfns),
            "nr_gfns": gfns,
            "read_gfns": sizes.read_gfns or gfns,
            "written_gfns": sizes.written_gfns,
            "range_max": max(sizes.addresses, gfns),
            "table_shift": sizes.gfns_per_table.bit_length() - 1,
        }
        for name, value in constants.items():
            setattr(kvm, name, value)
        kvm.gpc_list = self.wire_caches(slots) if sizes.caches else []
        if kvm.frees_by_rcu:
            kvm.rcu = self.world.add(Rcu, has_srcu=True)[0]
            kvm.mmu_pages = self.world.add(KvmMmuPage, 2)
            for sp in kvm.mmu_pages:
                sp.freed = True
        private = sizes.private_memory and self.arch.has_private_mem
        private = private and self.has_feature("guest_memfd")
        kvm.gmem = self.world.add(GuestMemfd)[0] if private else None

    def wire_vcpus(self) -> list[Any]:
        """Those of the first VM; a second one has one."""
        owners = [self.kvm] * self.sizes.vcpus + self.kvms[1:]
        vcpus = self.world.add(VCPU, len(owners)) if owners else []
        for vcpu, kvm in zip(vcpus, owners, strict=True):
            vcpu.kvm = kvm
        for kvm in self.kvms:
            kvm.vcpus = [vcpu for vcpu in vcpus if vcpu.kvm is kvm]
        return vcpus

    def wire_caches(self, slots: Sequence[Any]) -> list[Any]:
        """A cache for each of the hvas."""
        caches = self.world.add(GfnToPfnCache, len(self.sizes.caches))
        for gpc, uhva in zip(caches, self.sizes.caches, strict=True):
            offsets = [(uhva - slot.userspace_addr, slot) for slot in slots]
            gpc.uhva = uhva
            gpc.by_hva = not any(0 <= offset < slot.npages for offset, slot in offsets)
        return caches

    def has_feature(self, name: str) -> bool:
        """Whether this kernel has a feature; what was asked decides what programs it shares."""
        self.features_read.add(name)
        return self.era.has(name, self.arch.kernel_arch)

    def kvm_notifier(self, kvm: Any) -> MmuNotifier:
        """kvm_mmu_notifier_ops as this kernel has them."""
        change_pte = self.arch.has_change_pte(self.era)
        self.features_read |= {"change_pte_op", self.arch.change_pte} - {""}
        page = self.has_feature("invalidate_page_op")
        self.mm.hashed[kvm.index] = True
        subscription = MmuNotifier(
            kvm,
            kvm_mmu_notifier_invalidate_range_start,
            kvm_mmu_notifier_invalidate_range_end,
            kvm_mmu_notifier_invalidate_page if page else None,
            kvm_mmu_notifier_change_pte if change_pte else None,
            kvm_mmu_notifier_clear_flush_young,
            kvm_mmu_notifier_clear_young,
            kvm_mmu_notifier_release,
            kvm.index,
        )
        kvm.mmu_notifier = subscription
        return subscription

    def add_device(self, struct: type[Struct], invalidate: Callable[..., Any]) -> Any:
        """A driver that mirrors the whole mm, with one device: an instance of its struct, which
        has a `mutex` and a page table `pt`, one entry an address.  `invalidate(device, start, end,
        blockable)` is what its interval subscription calls."""
        subscriptions = self.world.add(MmuNotifierSubscriptions)[0]
        device = self.world.add(struct, mm=self.mm)[0]
        self.mm.interval_sub = device.notifier = self.world.add(
            MmuIntervalNotifier,
            subscriptions=subscriptions,
            start=0,
            end=len(self.mm.addresses),
            owner=device,
            invalidate=invalidate,
        )[0]
        device.notifier.inserted = True
        self.devices.append(device)
        return device

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

    def map_guest_page(self, gfn: int, page: int, *, write: bool = False) -> None:
        """Before the run: the guest has used a page, and KVM maps it still."""
        self.kvm.spte[gfn] = Spte(present=True, write=write, page=self.pages[page])
        self.kvm.table[gfn >> self.kvm.table_shift] = True
        if self.kvm.hptes:
            self.kvm.hptes[gfn].rmap_present = True

    def map_zero_page(self, addr: int) -> None:
        """Before the run: an address that was read and never written to."""
        self.mm.pte[addr] = Pte(present=True, page=self.mm.zero_page)
        self.mm.written[addr] = 0

    def map_ksm_page(self, addresses: Sequence[int], page: int) -> None:
        """Before the run: a KSM page is mapped read-only at several addresses."""
        for addr in addresses:
            self.map_page(addr, page, write=False)
        self.pages[page].ksm = True
        self.pages[page].lru = True
