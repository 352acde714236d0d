"""How large a host is, and what it uses: the wired constants that a scenario chooses.

What a scenario does not use folds out of its programs.
"""

from __future__ import annotations

from dataclasses import dataclass

MemslotLayout = tuple[int, int, int]
"""A memslot: base_gfn, userspace_addr, npages; all in pages."""


@dataclass(frozen=True)
class Sizes:
    """The arguments of `Host` besides a kernel and an architecture.

    Numbers
      vcpus: 0 is no VM at all, and KVM does not subscribe.  addresses: hvas, in pages.
      pages: all there are.  slot_pages: the memslots cover the first so many addresses, in equal
      parts; what is over goes to the last one.  layout: the memslots, if not so.
      gfns_per_table: 2 if neighbouring gfns share their last-level table page, 1 if each has its
      own; any power of two.  read_gfns, written_gfns: the guest reads and writes the first so many
      (0: reads all).  second_vm: the memslots of another VM of the same process, created after the
      first; it has one vCPU, and uses nothing of what follows.
      mergeable: ksmd scans the first so many addresses.

    Memslots
      updates_memslots: somebody changes the first one; moved_base_gfn: where it moves to.
      replaces_roots: the x86 TDP MMU replaces its root then.  caches: the hvas of
      gfn_to_pfn_caches; those outside of the memslots are activated by hva.  caches_mmio: faults
      at gfns in no memslot go on to mmu_lock where KVM remembers them.  private_memory: gfns may
      be private, if KVM has that.

    The secondary MMU
      yields: a zap may drop mmu_lock between two leaves.  logs_dirty_pages: somebody turns dirty
      logging on.  tracks_writes: somebody shadows guest page tables.  writable_bits: SPTEs say
      why they are read-only, where the architecture has bits for that.  ages_pages: somebody asks
      whether pages are young.  access_tracking: x86 without the Accessed bit.  delays_flushes:
      somebody zaps and leaves the flush to others.  frees_tables: a VM ends, and with
      it the tables of an architecture that frees them as soon as it is released.  frees_by_rcu:
      somebody walks the tables of the TDP MMU while their pages are replaced.

    The primary MMU
      host_thread: a thread of the VMM uses the TLB of its CPU.  defers_flushes: somebody flushes it
      later than it changes PTEs.  swap_cache: several threads swap in.  zero_page: the first page
      is the zero page.  maps_pfns: a driver maps its pages.  changes_vmas: addresses leave their
      VMA, or it becomes read-only.  frees_lazily: somebody calls MADV_FREE.  writes_back: a file
      is mapped shared.  forks: there is a child.  exits: the process has exited: its vCPUs do not
      run, its mm is being torn down.  unregisters: KVM leaves the list of subscriptions while
      others may go through it.  huge_pages: a PMD may be huge.  shmem: the VMA is of a file of
      shmem.  shares_pmds: a file of hugetlb is mapped twice.
    """

    vcpus: int = 1
    addresses: int = 2
    pages: int = 4
    slot_pages: int = 2
    memslots: int = 1
    layout: tuple[MemslotLayout, ...] = ()
    gfns_per_table: int = 2
    read_gfns: int = 0
    written_gfns: int = 1
    second_vm: tuple[MemslotLayout, ...] = ()
    mergeable: int = 1

    updates_memslots: bool = False
    moved_base_gfn: int = 0
    replaces_roots: bool = False
    caches: tuple[int, ...] = ()
    caches_mmio: bool = False
    private_memory: bool = False

    yields: bool = False
    logs_dirty_pages: bool = False
    tracks_writes: bool = False
    writable_bits: bool = False
    ages_pages: bool = False
    access_tracking: bool = False
    delays_flushes: bool = False
    frees_tables: bool = False
    frees_by_rcu: bool = False

    host_thread: bool = False
    defers_flushes: bool = False
    swap_cache: bool = False
    zero_page: bool = False
    maps_pfns: bool = False
    changes_vmas: bool = False
    frees_lazily: bool = False
    writes_back: bool = False
    forks: bool = False
    exits: bool = False
    unregisters: bool = False
    huge_pages: bool = False
    shmem: bool = False
    shares_pmds: bool = False

    def memslot_layout(self) -> tuple[MemslotLayout, ...]:
        """Base gfn, hva and pages of every memslot."""
        if self.layout:
            return self.layout
        each, over = divmod(self.slot_pages, self.memslots)
        last = self.memslots - 1
        return tuple((n * each, n * each, each + over * (n == last)) for n in range(self.memslots))

    def second(self) -> tuple[Sizes, ...]:
        """Those of a second VM, if there is one."""
        if not self.second_vm:
            return ()
        return (
            Sizes(
                addresses=self.addresses,
                layout=self.second_vm,
                gfns_per_table=self.gfns_per_table,
                written_gfns=self.written_gfns,
            ),
        )

    @property
    def gfns(self) -> int:
        """One more than the highest gfn that a memslot is ever at."""
        layout = self.memslot_layout()
        return max(max(base, self.moved_base_gfn) + npages for base, _, npages in layout)
