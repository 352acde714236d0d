"""Scenarios of what has to happen in the end: guests that make one access, windows that are
finitely many, or that others wait for."""

from __future__ import annotations

from mmuwitness.model.kvm.dirty_log import kvm_mmu_slot_apply_flags, kvm_vm_ioctl_get_dirty_log
from mmuwitness.model.kvm.memslots import KVM_MR_CREATE, KVM_MR_DELETE, kvm_set_memory_region
from mmuwitness.model.kvm.pfncache import kvm_gpc_refresh, kvm_gpc_write
from mmuwitness.model.kvm.vcpu import vcpu_access_once
from mmuwitness.model.mm.ksm import break_ksm, ksm_do_scan
from mmuwitness.model.mm.memory import (
    handle_mm_fault,
    host_access,
    madvise_dontneed,
    unmap_mapping_pages,
    zap_page_range,
    zap_page_range_single,
)
from mmuwitness.model.mm.migrate import migrate_pages_batch
from mmuwitness.model.mm.mm_types import VM_READ, VM_WRITE
from mmuwitness.model.mm.mmu_notifier import (
    mmu_notifier_invalidate_range_end,
    mmu_notifier_invalidate_range_start,
)
from mmuwitness.model.mm.mprotect import change_prot_numa, mprotect_fixup
from mmuwitness.model.mm.rmap import shrink_active_list, shrink_inactive_list
from mmuwitness.model.primitives import feature, read_lock, wait_until, write_lock
from mmuwitness.model.scenarios.scenario import (
    ONE_GFN,
    Actor,
    Scenario,
    mm_actor,
    one_ksm_page,
    private_beside_ksm_page,
    two_private_pages,
    zero_pages,
)


def looping_faults(host):
    """As two_private_pages; faults that are retried stay in the host, where they do."""
    two_private_pages(host)
    host.kvm.loops_in_host = True


def looping_zero_pages(host):
    """As zero_pages, and as looping_faults."""
    zero_pages(host)
    host.kvm.loops_in_host = True


def mapped_read_only(host):
    """As two_private_pages; the guest has read the first page when its PTE was read-only."""
    two_private_pages(host)
    host.map_guest_page(0, 0)


def mapped_writable(host):
    """As two_private_pages; the guest has written to the first page."""
    two_private_pages(host)
    host.map_guest_page(0, 0, write=True)


def everybody_ends(setup):
    """As the setup says, and everybody is done in the end."""

    def set_up(host):
        setup(host)
        host.kvm.loops_in_host = True
        host.mm.ends = True

    return set_up


def ksmd_twice(mm):
    ksm_do_scan(mm, 0)
    ksm_do_scan(mm, 0)


def unmerge_once(mm):
    with write_lock(mm.mmap_lock):
        for addr in mm.addresses:
            break_ksm(mm, addr)


def kswapd_twice(mm):
    shrink_inactive_list(mm, False)
    shrink_inactive_list(mm, False)


def kcompactd_twice(mm):
    migrate_pages_batch(mm, False)
    migrate_pages_batch(mm, False)


def numa_pass(mm):
    with read_lock(mm.mmap_lock):
        change_prot_numa(mm, 0, mm.nr_addresses)


def dontneed_twice(mm):
    zap_page_range_single(mm, 0)
    zap_page_range_single(mm, 0)


def zap_range_once(mm):
    zap_page_range(mm, 0, mm.nr_addresses)


def mprotect_twice(mm):
    """PROT_READ, and PROT_READ | PROT_WRITE again."""
    with write_lock(mm.mmap_lock):
        mprotect_fixup(mm, VM_READ)
    with write_lock(mm.mmap_lock):
        mprotect_fixup(mm, VM_WRITE)


def kswapd_once(mm):
    """A look at a page of the active list, and a page of the inactive list reclaimed."""
    shrink_active_list(mm)
    shrink_inactive_list(mm, False)


def host_writes_once(mm):
    """A thread of the VMM makes one write, again and again until it has made it."""
    written = host_access(mm, 0, True)
    while not written:
        with read_lock(mm.mmap_lock):
            handle_mm_fault(mm, 0, True)
        written = host_access(mm, 0, True)


def log_once(kvm):
    """Dirty logging is turned on, and the log is read once."""
    kvm_mmu_slot_apply_flags(kvm, True)
    kvm_vm_ioctl_get_dirty_log(kvm)


def preempted_invalidator(host):
    """Opens a window over the second page, and is not scheduled before the guest has its page: who
    is preempted there, or sleeps, may be so for any time."""
    mmu_notifier_invalidate_range_start(host.mm, 1, 2)
    wait_until(host.kvm.spte[0].present)
    mmu_notifier_invalidate_range_end(host.mm, 1, 2)


def zap_elsewhere(mm):
    """The second page is dropped, again and again."""
    while True:
        zap_page_range_single(mm, 1)


def zap_elsewhere_once(mm):
    zap_page_range_single(mm, 1)


def set_memory_region_twice(kvm):
    kvm.updating = True
    kvm_set_memory_region(kvm, KVM_MR_DELETE)
    kvm_set_memory_region(kvm, KVM_MR_CREATE)
    kvm.updating = False


def xen_update_once(kvm, gpc):
    """As kvm_xen_update, once."""
    if feature.pfncache:
        written = kvm_gpc_write(kvm, gpc)
        while not written:
            kvm.refreshing = True
            kvm_gpc_refresh(kvm, gpc)
            written = kvm_gpc_write(kvm, gpc)
        kvm.refreshing = False


def preempted_beside_cache(host):
    """As preempted_invalidator; it is KVM's cache that gets its page before."""
    mmu_notifier_invalidate_range_start(host.mm, 1, 2)
    if feature.pfncache:
        wait_until(host.kvm.gpc_list[0].valid)
    mmu_notifier_invalidate_range_end(host.mm, 1, 2)


def xen(host):
    return Actor("xen", xen_update_once, (host.kvm, host.kvm.gpc_list[0]))


def halted(vcpu):
    """A guest that does nothing: faults would only add states."""
    return


FIRST_GFN = {"pages": 3, "read_gfns": 1, "written_gfns": 0}

LIVENESS = (
    Scenario(
        "fault_once",
        "A guest accesses a page that the VMM drops twice.",
        "1 vCPU, 1 access, 1 gfn, 2 pages, 2 calls",
        everybody_ends(two_private_pages),
        mm_actor("madvise", dontneed_twice),
        ONE_GFN,
        guest=vcpu_access_once,
    ),
    Scenario(
        "fault_once_smp",
        "Two vCPUs read a page that the VMM drops twice.",
        "2 vCPUs, 1 read each, 1 gfn, 3 pages, 2 calls",
        everybody_ends(two_private_pages),
        mm_actor("madvise", dontneed_twice),
        {**ONE_GFN, "pages": 3, "vcpus": 2, "written_gfns": 0},
        guest=vcpu_access_once,
    ),
    Scenario(
        "permission_once",
        "A guest accesses a page that it has mapped read-only; the VMM drops another one.",
        "1 vCPU, 1 access, 1 gfn, 1 address in no memslot, 2 pages, 1 call",
        everybody_ends(mapped_read_only),
        mm_actor("madvise", zap_elsewhere_once),
        {"pages": 2, "slot_pages": 1},
        guest=vcpu_access_once,
    ),
    Scenario(
        "log_once",
        "A guest accesses a page that it has mapped writable while the VMM turns dirty logging on"
        " and reads the log.",
        "1 vCPU, 1 access, 1 gfn, 1 page, 1 read of the log",
        everybody_ends(mapped_writable),
        lambda host: [Actor("migration", log_once, (host.kvm,))],
        {**ONE_GFN, "pages": 1, "logs_dirty_pages": True},
        guest=vcpu_access_once,
    ),
    Scenario(
        "merge_once",
        "A guest accesses a page that ksmd scans twice, and merges with a KSM page.",
        "1 vCPU, 1 access, 1 gfn, 1 address in no memslot, 3 pages, 2 scans",
        everybody_ends(private_beside_ksm_page),
        mm_actor("ksmd", ksmd_twice),
        {"pages": 3, "slot_pages": 1},
        guest=vcpu_access_once,
    ),
    Scenario(
        "merge_first_once",
        "A guest accesses a page that ksmd makes a KSM page in place.",
        "1 vCPU, 1 access, 1 gfn, 2 pages, 2 scans",
        everybody_ends(two_private_pages),
        mm_actor("ksmd", ksmd_twice),
        ONE_GFN,
        guest=vcpu_access_once,
    ),
    Scenario(
        "cow_once",
        "A guest accesses a KSM page, and a thread of the VMM writes to it.",
        "1 vCPU, 1 access, 1 host thread, 1 write, 1 gfn, 1 address in no memslot, 3 pages",
        everybody_ends(one_ksm_page),
        mm_actor("vmm", host_writes_once),
        {"pages": 3, "slot_pages": 1, "host_thread": True},
        guest=vcpu_access_once,
    ),
    Scenario(
        "unmerge_once",
        "A guest accesses a page whose sharing MADV_UNMERGEABLE breaks.",
        "1 vCPU, 1 access, 1 gfn, 1 address in no memslot, 3 pages, 1 call",
        everybody_ends(one_ksm_page),
        mm_actor("madvise", unmerge_once),
        {"pages": 3, "slot_pages": 1},
        guest=vcpu_access_once,
    ),
    Scenario(
        "reclaim_once",
        "A guest accesses a page that kswapd reclaims.",
        "1 vCPU, 1 access, 1 gfn, 2 pages, 2 reclaims",
        everybody_ends(two_private_pages),
        mm_actor("kswapd", kswapd_twice),
        ONE_GFN,
        guest=vcpu_access_once,
    ),
    Scenario(
        "migrate_once",
        "A guest accesses a page that compaction moves.",
        "1 vCPU, 1 access, 1 gfn, 2 pages, 2 migrations",
        everybody_ends(two_private_pages),
        mm_actor("kcompactd", kcompactd_twice),
        ONE_GFN,
        guest=vcpu_access_once,
    ),
    Scenario(
        "lru_once",
        "kswapd looks at a page and reclaims it while compaction moves it and ksmd makes it a KSM"
        " page.",
        "1 vCPU that is halted, 1 gfn, 2 pages, 1 look, 1 reclaim, 1 migration, 1 scan",
        everybody_ends(two_private_pages),
        lambda host: [
            Actor("kswapd", kswapd_once, (host.mm,)),
            Actor("kcompactd", migrate_pages_batch, (host.mm, False)),
            Actor("ksmd", ksm_do_scan, (host.mm, 0)),
        ],
        {**ONE_GFN, "ages_pages": True},
        guest=halted,
    ),
    Scenario(
        "drop_once",
        "A guest accesses a page that the VMM drops, and whose file is truncated.",
        "1 vCPU, 1 access, 1 gfn, 2 pages, 1 call, 1 truncation",
        everybody_ends(two_private_pages),
        lambda host: [
            Actor("madvise", zap_range_once, (host.mm,)),
            Actor("truncate", unmap_mapping_pages, (host.mm,)),
        ],
        ONE_GFN,
        guest=vcpu_access_once,
    ),
    Scenario(
        "zero_page_once",
        "A guest accesses memory that was never written to, and that the VMM drops twice.",
        "1 vCPU, 1 access, 1 gfn, 2 pages, 2 calls",
        looping_zero_pages,
        mm_actor("madvise", dontneed_twice),
        {**ONE_GFN, "zero_page": True},
        guest=vcpu_access_once,
    ),
    Scenario(
        "mprotect_once",
        "A guest accesses a page that the VMM makes read-only, and writable again.",
        "1 vCPU, 1 access, 1 gfn, 2 pages, 2 calls",
        everybody_ends(two_private_pages),
        mm_actor("mprotect", mprotect_twice),
        {**ONE_GFN, "changes_vmas": True},
        guest=vcpu_access_once,
    ),
    Scenario(
        "numa_once",
        "A guest accesses a page that NUMA balancing makes inaccessible.",
        "1 vCPU, 1 access, 1 gfn, 2 pages, 1 pass",
        looping_faults,
        mm_actor("numa", numa_pass),
        ONE_GFN,
        guest=vcpu_access_once,
    ),
    Scenario(
        "fault_beside_window",
        "A guest reads a page while a window over another page stays open until it has.",
        "1 vCPU, 1 read, 2 gfns in one table page, 3 pages, 1 window",
        looping_faults,
        lambda host: [Actor("preempted", preempted_invalidator, (host,))],
        FIRST_GFN,
        guest=vcpu_access_once,
    ),
    Scenario(
        "fault_in_storm",
        "A guest reads a page while the VMM drops another one, again and again.",
        "1 vCPU, 1 read, 2 gfns in one table page, 3 pages, any number of calls",
        looping_faults,
        mm_actor("madvise", zap_elsewhere),
        FIRST_GFN,
        guest=vcpu_access_once,
    ),
    Scenario(
        "memslot_in_storm",
        "The VMM deletes a memslot and creates it again while two threads of it drop a page, again"
        " and again.",
        "1 vCPU that is halted, 1 gfn, 2 pages, 1 deletion, any number of calls by two threads",
        looping_faults,
        lambda host: [
            Actor("madvise0", madvise_dontneed, (host.mm,)),
            Actor("madvise1", madvise_dontneed, (host.mm,)),
            Actor("ioctl", set_memory_region_twice, (host.kvm,)),
        ],
        {**ONE_GFN, "updates_memslots": True},
        guest=halted,
    ),
    Scenario(
        "memslot_fault",
        "The VMM deletes a memslot and creates it again while a guest accesses it and the page is"
        " dropped twice.",
        "1 vCPU, 1 access, 1 gfn, 2 pages, 1 deletion, 2 calls",
        looping_faults,
        lambda host: [
            Actor("madvise", dontneed_twice, (host.mm,)),
            Actor("ioctl", set_memory_region_twice, (host.kvm,)),
        ],
        {**ONE_GFN, "updates_memslots": True},
        guest=vcpu_access_once,
    ),
    Scenario(
        "memslot_beside_storm",
        "The VMM deletes a memslot and creates it again while a guest reads a page of it, and"
        " another page is dropped again and again.",
        "1 vCPU, 1 read, 2 gfns in one table page, 3 pages, 1 deletion, any number of calls",
        looping_faults,
        lambda host: [
            Actor("madvise", zap_elsewhere, (host.mm,)),
            Actor("ioctl", set_memory_region_twice, (host.kvm,)),
        ],
        {**FIRST_GFN, "updates_memslots": True},
        guest=vcpu_access_once,
    ),
    Scenario(
        "cache_once",
        "KVM writes once to a guest page through a gfn_to_pfn_cache while the VMM drops it twice.",
        "1 vCPU that is halted, 1 gfn, 1 cache, 2 pages, 1 write, 2 calls",
        two_private_pages,
        lambda host: [Actor("madvise", dontneed_twice, (host.mm,)), xen(host)],
        {**ONE_GFN, "caches": (0,)},
        guest=halted,
    ),
    Scenario(
        "cache_beside_window",
        "KVM writes once to a guest page through a gfn_to_pfn_cache while a window over another"
        " page stays open until the cache has its page.",
        "1 vCPU that is halted, 2 gfns in one table page, 1 cache, 3 pages, 1 write, 1 window",
        two_private_pages,
        lambda host: [Actor("preempted", preempted_beside_cache, (host,)), xen(host)],
        {"pages": 3, "caches": (0,)},
        guest=halted,
    ),
    Scenario(
        "cache_in_storm",
        "KVM writes once to a guest page through a gfn_to_pfn_cache while the VMM drops another"
        " page, again and again.",
        "1 vCPU that is halted, 2 gfns in one table page, 1 cache, 3 pages, 1 write, any number of"
        " calls",
        two_private_pages,
        lambda host: [Actor("madvise", zap_elsewhere, (host.mm,)), xen(host)],
        {"pages": 3, "caches": (0,)},
        guest=halted,
    ),
)
