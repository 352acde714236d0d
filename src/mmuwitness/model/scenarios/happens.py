"""What has to happen in each scenario for it to be about something: claims that must not hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mmuwitness.model.claims.claim import Claim
from mmuwitness.model.kvm.kvm_host import GONE, INVALID, VALID
from mmuwitness.model.kvm.vcpu import vcpu_access_once, vcpu_run
from mmuwitness.model.mm.mm_types import PMD_HUGE, PMD_TABLE, VM_READ

if TYPE_CHECKING:
    from mmuwitness.model.host import Host
    from mmuwitness.model.scenarios.scenario import Scenario

NEVER = "never_"
"""Begins the names of these claims."""


def never_read(host):
    read = False
    for gfn in host.kvm.gfns:
        read = read or host.vcpus[0].tlb[gfn].present
    return not read


def never_written(host):
    written = False
    for gfn in host.kvm.gfns:
        written = written or host.vcpus[0].tlb[gfn].write
    return not written


def never_merged(host):
    pte = host.mm.pte[0]
    return not pte.present or not pte.page.ksm


def never_of_its_own(host):
    pte = host.mm.pte[0]
    return not pte.present or pte.page.ksm


def never_replaced(host):
    pte = host.mm.pte[0]
    return not pte.present or pte.page is host.pages[0]


def never_both_of_their_own(host):
    one = host.mm.pte[0]
    two = host.mm.pte[1]
    return not one.present or not two.present or one.page.ksm or two.page.ksm


def never_shared(host):
    pte = host.mm.pte[0]
    return not pte.present or not pte.page.ksm or pte.page.mapcount < 2


def never_merged_in_place(host):
    pte = host.mm.pte[0]
    return not pte.present or not pte.page.ksm or pte.page is not host.pages[0]


def never_none(host):
    pte = host.mm.pte[0]
    return pte.present or pte.migration or pte.swap


def never_freed_lazily(host):
    return not host.pages[0].lazyfree


def never_kept(host):
    """Reclaim finds a page that was freed lazily, and then written to."""
    pte = host.mm.pte[0]
    return not pte.present or pte.dirty or pte.page.lazyfree or not pte.page.dirty


def never_cleaned(host):
    pte = host.mm.pte[0]
    return not pte.present or pte.dirty or pte.write


def never_written_to_disk(host):
    return host.mm.disk[0] != 1


def never_migrating(host):
    return not host.mm.pte[0].migration


def never_a_ksm_page_moved(host):
    pte = host.mm.pte[0]
    return not pte.present or not pte.page.ksm or pte.page is host.pages[0]


def never_a_new_page_migrating(host):
    pte = host.mm.pte[0]
    return not pte.migration or pte.page is host.pages[0]


def never_swapped_out(host):
    return not host.mm.pte[0].swap


def never_two_windows(host):
    return host.mm.open_windows[0] < 2


def never_breakpoint(host):
    pte = host.mm.pte[0]
    return not pte.present or pte.write or pte.page is host.pages[0]


def never_split(host):
    return host.mm.pmd[0] != PMD_TABLE or not host.mm.pte[0].present


def never_collapsed(host):
    return host.mm.pmd[0] != PMD_HUGE or host.mm.pte[0].page is host.pages[0]


def never_huge_leaf(host):
    return not host.kvm.huge[0]


def never_small_leaf(host):
    return host.kvm.huge[0] or not host.kvm.spte[0].present


def never_out_of_the_cache(host):
    return host.mm.cache[0] is not None


def never_dropped_with_the_table(host):
    pte = host.mm.pte[0]
    page = host.pages[0]
    return pte.present or page.refcount != 1 or page.mapcount != 0 or host.mm.cache[0] is not page


def never_unshared(host):
    return host.mm.pmd_shared


def never_shared_again(host):
    return not host.mm.pmd_shared or host.mm.pte[0].page is host.pages[0]


def never_being_deleted(host):
    return host.kvm.active_memslots != INVALID


def never_without_memslot(host):
    return host.kvm.active_memslots != GONE


def never_created_again(host):
    """Each set of memslots turns kvm->srcu: an even number of them was active before this one, if
    it is that of the start."""
    return host.kvm.active_memslots != VALID or host.kvm.srcu_idx == 0


def never_dropped_between(host):
    """Under a window mmu_lock is free, and one leaf is gone, the other not."""
    if host.mm.invalidating == 0 or host.mm.open_windows[0] != 0:
        return True
    return host.kvm.spte[0].present or not host.kvm.spte[1].present


def never_none_beside(host):
    return host.mm.pte[1].present


def never_an_invalid_root(host):
    return not host.kvm.invalid_spte[1].present


def never_sent(host):
    return host.kvm.sent[0] == 0


def never_logged(host):
    return not host.kvm.dirty_bitmap[0]


def never_going_through_the_log(host):
    return not host.kvm.dirty_log[0]


def never_write_protected(host):
    spte = host.kvm.spte[0]
    return not spte.present or spte.write or host.kvm.sent[0] == 0


def never_written_since_it_was_sent(host):
    sent = host.kvm.sent[0]
    return sent == 0 or sent == 1 + host.mm.written[0]


def never_aged(host):
    return not host.kvm.spte[0].aged


MIGRATES = (
    never_sent,
    never_logged,
    never_going_through_the_log,
    never_write_protected,
    never_written_since_it_was_sent,
)


def never_swapped(host):
    return host.kvm.srcu_idx == 0


def never_elsewhere(host):
    return not host.kvm.spte[1].present


def never_dropped_beside(host):
    return host.mm.pte[1].present and host.mm.pte[2].present


def never_cached(host):
    return not host.kvm.gpc_list[0].valid


def never_cached_another(host):
    gpc = host.kvm.gpc_list[0]
    return not gpc.valid or gpc.page is host.mm.pages[gpc.uhva]


def never_private(host):
    return not host.kvm.mem_attr_array[0] or not host.kvm.spte[0].present


def never_from_file(host):
    if host.kvm.gmem is None:
        return True
    spte = host.kvm.spte[0]
    return not spte.present or host.kvm.gmem.page[0] is not spte.page


def never_a_hole_under_a_fault(host):
    """A page that is in the file no more, and that a fault still refers to."""
    if host.kvm.gmem is None:
        return True
    page = host.pages[1]
    return page.refcount == 0 or page.mapcount > 0 or host.kvm.gmem.page[0] is page


def never_read_by_device(host):
    return not host.devices[0].pt[0].present


def never_written_by_device(host):
    return not host.devices[0].pt[0].write


def never_deferred(host):
    return not host.devices[0].notifier.deferred


def never_reaped(host):
    return host.mm.pte[0].present


def never_released(host):
    return host.mm.hashed[0]


BY_DEVICE = (never_read_by_device, never_written_by_device)


def never_protected(host):
    return host.mm.vm_flags[0] != VM_READ


def never_read_only(host):
    pte = host.mm.pte[0]
    return not pte.present or pte.write


def never_protnone(host):
    return not host.mm.pte[0].protnone


def never_a_pinned_page_in_its_window(host):
    return host.mm.open_windows[1] == 0 or host.mm.pte[0].present or not host.mm.pte[1].present


def never_shared_with_a_child(host):
    pte = host.mm.pte[0]
    return not pte.present or pte.page.mapcount < 2


def never_a_child_on_its_own(host):
    pte = host.children[0].pte[0]
    return not pte.present or pte.page is host.mm.pte[0].page


def never_pinned(host):
    return host.pages[0].pincount == 0


def never_moved(host):
    return not host.mm.pte[1].present


def never_truncated(host):
    return host.mm.pte[0].present or host.mm.pte[1].present


def never_copied_for_a_child(host):
    pte = host.children[0].pte[0]
    return not pte.present or not pte.write


def never_swapped_in(host):
    return not host.mm.pte[0].present


def never_zero_page(host):
    pte = host.mm.pte[0]
    return not pte.present or pte.page is not host.mm.zero_page


def never_uncounted(host):
    pte = host.mm.pte[0]
    return not pte.present or not pte.page.tail


def never_a_window_beside(host):
    return host.mm.open_windows[1] == 0


def never_faulting(host):
    return not host.vcpus[0].faulting


def never_refreshing(host):
    return not host.kvm.refreshing


def never_unregistered(host):
    return not host.mm.gone[0]


def never_unregistered_second(host):
    return not host.mm.gone[1]


def never_left_in_a_window(host):
    """KVM will not be told of the end."""
    return host.mm.hashed[0] or host.kvm.mmu_invalidate_in_progress == 0


def never_in_both(host):
    first, second = host.kvms[0], host.kvms[1]
    return not first.spte[0].present or not second.spte[0].present


def never_told_apart(host):
    """One of two subscribers has been told of a window, and the other has not."""
    first, second = host.kvms[0], host.kvms[1]
    return first.mmu_invalidate_in_progress == second.mmu_invalidate_in_progress


MERGES = (
    never_merged,
    never_merged_in_place,
    never_shared,
    never_of_its_own,
    never_replaced,
)
FORKS = (never_shared_with_a_child, never_a_child_on_its_own)
MOVES = (never_a_new_page_migrating, never_a_ksm_page_moved)
DELETED = (never_being_deleted, never_without_memslot, never_created_again)
HAPPENS: dict[str, tuple[Callable[[Any], Any], ...]] = {
    "ksm": MERGES,
    "ksm_alone": MERGES,
    "ksm_both": MERGES,
    "ksm_one": MERGES,
    "ksm_thread": MERGES,
    "ksm_dma": (*MERGES, never_pinned),
    "merge_once": (never_merged, never_shared, never_faulting),
    "unmerge_once": (never_of_its_own, never_both_of_their_own, never_faulting),
    "permission_once": (never_none_beside, never_faulting),
    "log_once": (never_logged, never_faulting),
    "merge_first_once": (never_merged, never_of_its_own, never_faulting),
    "cow_once": (never_of_its_own, never_two_windows, never_faulting),
    "lru_once": (never_swapped_out, never_migrating, never_merged, never_replaced),
    "drop_once": (never_none, never_replaced, never_faulting),
    "zero_page_once": (never_zero_page, never_none, never_faulting),
    "mprotect_once": (never_protected, never_read_only, never_faulting),
    "numa_once": (never_protnone, never_faulting),
    "reclaim_once": (never_swapped_out, never_faulting),
    "migrate_once": (never_migrating, never_replaced, never_faulting),
    "migrate_thread": (never_migrating, never_replaced),
    "migrate_dma": (never_migrating, never_replaced, never_pinned),
    "ksm_first": (never_merged, never_shared),
    "cow": (never_of_its_own, never_both_of_their_own, never_two_windows),
    "cow_smp": (never_of_its_own, never_replaced),
    "cow_migrate": (never_of_its_own, never_two_windows, *MOVES),
    "cow_reclaim": (never_of_its_own, never_swapped_out, never_two_windows),
    "unmerge": (never_of_its_own, never_both_of_their_own),
    "unmerge_uprobe": (never_of_its_own, never_both_of_their_own),
    "uprobe": (never_breakpoint, never_replaced),
    "uprobe_one": (never_breakpoint, never_replaced),
    "dontneed": (never_none, never_replaced),
    "dontneed_one": (never_none, never_replaced),
    "dontneed_smp": (never_none, never_replaced),
    "reclaim": (never_swapped_out, never_replaced),
    "reclaim_one": (never_swapped_out, never_replaced),
    "migrate": (never_migrating, never_replaced),
    "migrate_one": (never_migrating, never_replaced),
    "memslot_delete": (never_merged, never_replaced, *DELETED),
    "dontneed_both": (never_none, never_replaced, never_dropped_between),
    "memslot_roots": (never_none_beside, never_being_deleted, never_without_memslot),
    "mprotect": (never_protected, never_read_only),
    "mprotect_thread": (never_protected, never_read_only),
    "numa": (never_protnone, never_a_pinned_page_in_its_window),
    "numa_dontneed": (never_protnone, never_none, never_replaced),
    "fork": (*FORKS, never_replaced),
    "fork_thread": (never_shared_with_a_child, never_replaced),
    "fork_dma": (*FORKS, never_copied_for_a_child, never_pinned),
    "mremap": (never_moved, never_none),
    "mremap_truncate": (never_moved, never_none, never_truncated),
    "reclaim_thread": (never_swapped_out, never_replaced),
    "reclaim_mprotect": (never_swapped_out, never_protected),
    "swapin": (never_swapped_out, never_swapped_in),
    "writeback": (never_cleaned, never_written_to_disk),
    "madv_free": (never_none, never_replaced, never_freed_lazily, never_kept),
    "madv_free_dio": (never_none, never_replaced, never_freed_lazily, never_kept),
    "zero_page": (never_zero_page, never_none, never_replaced),
    "pfnmap": (never_none, never_uncounted),
    "memslot_dontneed": (never_none, never_replaced, *DELETED),
    "thp": (never_none, never_split, never_collapsed, never_huge_leaf, never_small_leaf),
    "mmap_hugetlb": (never_none, never_replaced, never_huge_leaf, never_small_leaf),
    "collapse_shmem": (never_none, never_out_of_the_cache, never_dropped_with_the_table),
    "hugetlb_shared": (never_migrating, never_replaced, never_unshared, never_shared_again),
    "fault_once": (never_none, never_replaced, never_faulting),
    "fault_once_smp": (never_none, never_replaced, never_faulting),
    "fault_beside_window": (never_a_window_beside, never_faulting),
    "fault_in_storm": (never_none_beside, never_faulting),
    "memslot_in_storm": (never_two_windows, never_being_deleted, never_without_memslot),
    "memslot_fault": (never_being_deleted, never_without_memslot, never_faulting),
    "memslot_beside_storm": (never_none_beside, never_being_deleted, never_faulting),
    "cache_once": (never_none, never_cached),
    "cache_beside_window": (never_a_window_beside, never_refreshing),
    "cache_in_storm": (never_none_beside, never_cached),
    "dirty_log": MIGRATES,
    "dirty_log_neighbour": MIGRATES,
    "aging": (never_none, never_replaced, never_aged),
    "reclaim_aging": (never_swapped_out, never_replaced, never_aged),
    "memslot_move": (never_none, never_replaced, never_elsewhere),
    "memslot_flags": (never_none, never_replaced, never_swapped),
    "memslot_alias": (never_none, never_replaced, never_elsewhere),
    "memslot_spaces": (never_none, never_elsewhere, never_being_deleted, never_without_memslot),
    "memslot_range": (never_none, never_dropped_beside, never_elsewhere),
    "memslot_mmio": (never_none, never_replaced, never_elsewhere),
    "pfncache": (never_none, never_replaced, never_cached, never_cached_another),
    "pfncache_two": (never_none, never_replaced, never_cached, never_cached_another),
    "pfncache_hva": (never_cached, never_cached_another),
    "private_convert": (never_private, never_from_file),
    "private_punch": (never_private, never_from_file, never_a_hole_under_a_fault),
    "private_dontneed": (never_none, never_replaced, never_private, never_from_file),
    "private_both": (never_private, never_from_file, never_a_hole_under_a_fault),
    "hmm_dontneed": (never_none, never_replaced, *BY_DEVICE),
    "hmm_migrate": (never_migrating, never_replaced, *BY_DEVICE),
    "hmm_ksm": (*MERGES, *BY_DEVICE),
    "hmm_open": (never_none, never_replaced, never_deferred, *BY_DEVICE),
    "hmm_guest": (never_none, never_replaced, *BY_DEVICE),
    "exit_reclaim": (never_swapped_out, never_none, never_released),
    "exit_destroy": (never_swapped_out, never_none, never_released, never_unregistered),
    "mmap_aging": (never_none, never_huge_leaf, never_small_leaf, never_aged),
    "exit_aging": (never_swapped_out, never_none, never_released, never_aged),
    "vm_tables": (never_none, never_dropped_between, never_unregistered, never_left_in_a_window),
    "vm_lifetime": (never_none, never_replaced, never_unregistered, never_left_in_a_window),
    "vm_beside": (never_none, never_unregistered_second, never_in_both),
    "two_vms": (never_none, never_replaced, never_in_both),
    "two_vms_ksm": (never_merged, never_shared, never_of_its_own, never_replaced, never_in_both),
    "two_vms_cow": (never_of_its_own, never_in_both, never_told_apart),
    "oom_reap": (never_reaped,),
    "oom_hmm": (never_reaped, *BY_DEVICE),
}


def what_happens(scenario: Scenario, host: Host) -> list[Claim]:
    """Each says that something never happens; on a host where it can, it has to be wrong."""
    predicates = list(HAPPENS.get(scenario.name, ()))
    if host.vcpus and not host.mm.exits and scenario.guest in (vcpu_run, vcpu_access_once):
        predicates.append(never_read)
        if host.kvm.written_gfns > 0:
            predicates.append(never_written)
    return [Claim(each.__name__, "always", "", function=each) for each in predicates]
