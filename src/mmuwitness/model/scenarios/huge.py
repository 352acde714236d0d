"""Scenarios of huge pages.  A PMD is over two base pages, and so is a huge leaf of KVM.

x86, arm64 and RISC-V map huge pages by huge leaves here; the others map each half by itself."""

from __future__ import annotations

from typing import Any

from mmuwitness.model.arch.x86_tdp import tdp_mmu_free_sp_rcu_callback
from mmuwitness.model.host import Host
from mmuwitness.model.mm import khugepaged, memory, migrate_hugetlb, mmap, page_idle, shmem
from mmuwitness.model.scenarios.scenario import Actor, Scenario, mm_actor


def one_huge_page(host: Host) -> None:
    """A huge PMD over the first two addresses."""
    host.map_huge_page(0, 0)


def hugetlb_page(host: Host) -> None:
    """As one_huge_page, in a VMA of hugetlb."""
    one_huge_page(host)
    host.mm.vma_huge = True


def shmem_page(host: Host) -> None:
    """A huge page of shmem: it is in the page cache, and PTEs map both halves."""
    for addr in range(2):
        host.map_page(addr, addr)
        host.mm.cache[addr] = host.pages[addr]
        host.pages[addr].refcount += 1


def shared_hugetlb_pages(host: Host) -> None:
    """Two pages of a file that is mapped twice, through one table: each counts as mapped once."""
    for addr in range(2):
        host.map_page(addr, addr)
        host.mm.pte[addr + 2] = host.mm.pte[addr]
    host.mm.pmd_shared = True


def look_at_the_first(mm: Any) -> None:
    while True:
        page_idle.page_idle_clear_pte_refs_one(mm, 0)


def callbacks_of_rcu(host: Host) -> list[Actor]:
    """Where some are waited for."""
    if not host.kvm.frees_by_rcu:
        return []
    return [Actor("rcu", tdp_mmu_free_sp_rcu_callback, (host.kvm,))]


HUGE_PAGES = {"pages": 4, "huge_pages": True}

HUGE = (
    Scenario(
        "thp",
        "khugepaged makes a huge page of guest pages; the VMM drops the first, which splits the"
        " huge PMD first.",
        "1 vCPU, 2 gfns in one table page or under one huge leaf, 4 pages, of which two are a huge"
        " one, any number of collapses and of calls",
        one_huge_page,
        lambda host: [
            Actor("khugepaged", khugepaged.khugepaged, (host.mm,)),
            Actor("madvise", memory.madvise_dontneed_first, (host.mm,)),
        ],
        HUGE_PAGES,
    ),
    Scenario(
        "mmap_hugetlb",
        "The VMM maps small pages over huge ones of hugetlb, and huge ones over those.",
        "1 vCPU, 2 gfns in one table page or under one huge leaf, 2 pages, which are a huge one,"
        " any number of calls",
        hugetlb_page,
        mm_actor("vmm", mmap.mmap),
        {**HUGE_PAGES, "pages": 2},
    ),
    Scenario(
        "mmap_aging",
        "As mmap_hugetlb, while user space looks which pages are used: the walk for that may be in"
        " a table page in whose place a fault puts a huge leaf.  RCU frees those of the TDP MMU.",
        "1 vCPU that reads, 2 gfns in one table page or under one huge leaf, 2 pages, which are a"
        " huge one, any number of calls and of looks",
        hugetlb_page,
        lambda host: [
            Actor("vmm", mmap.mmap, (host.mm,)),
            Actor("idle", look_at_the_first, (host.mm,)),
            *callbacks_of_rcu(host),
        ],
        {
            **{**HUGE_PAGES, "pages": 2, "written_gfns": 0, "read_gfns": 1},
            **{"ages_pages": True, "frees_by_rcu": True},
        },
    ),
    Scenario(
        "collapse_shmem",
        "khugepaged drops the PTEs of a huge page of shmem, to map it huge, while kswapd reclaims"
        " the page.",
        "1 vCPU, 2 gfns in one table page, 2 pages, any number of collapses and of reclaims",
        shmem_page,
        lambda host: [
            Actor("khugepaged", khugepaged.khugepaged_shmem, (host.mm,)),
            Actor("kswapd", shmem.shrink_shmem, (host.mm,)),
        ],
        {"pages": 2, "shmem": True},
    ),
    Scenario(
        "hugetlb_shared",
        "Pages of hugetlb move while the guest runs on one mapping of their file, which shares its"
        " PMD table with another.  Each page stands for a huge one.",
        "1 vCPU, 2 gfns in one table page, 2 addresses in no memslot, 3 pages, any number of"
        " migrations",
        shared_hugetlb_pages,
        mm_actor("kcompactd", migrate_hugetlb.migrate_hugetlb),
        {"addresses": 4, "pages": 3, "shares_pmds": True},
    ),
)
