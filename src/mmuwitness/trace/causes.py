"""Who invalidated guest memory and why, from whatever the trace has.

What is known of a window is a list of frames, innermost first: the functions of its stack trace, or
the one that its probe returns to and the probed functions around it, and then what else the task
was doing (a system call, a migration, a guest's fault), its name, the notifier's event type. A row
of RULES fits if the innermost known function is one of `at` and one of `under` is further out. To
tell another cause, add a row.

Functions are named as in mm/; those of several kernels stand side by side in one row.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, IntEnum, StrEnum
from functools import lru_cache
from typing import NamedTuple


class Cause(StrEnum):
    """Why the primary MMU's page tables were changed."""

    KSM_WRITE_PROTECT = "KSM write-protect"
    KSM_REPLACE = "KSM replace"
    KSM = "KSM, either step"
    UNMERGE = "KSM unmerge"
    COW_GUEST = "COW, guest write"
    COW_HOST = "COW, host write"
    COW_FORK = "COW after fork"
    COW = "COW, guest or host"
    NUMA_SCAN = "NUMA balancing, scan"
    NUMA_MIGRATION = "NUMA balancing, move"
    MIGRATION = "migration"
    COMPACTION = "compaction"
    DEVICE = "device memory"
    DONTNEED = "MADV_DONTNEED"
    FREE = "MADV_FREE"
    PAGEOUT = "MADV_PAGEOUT"
    HOLE = "hole punch, truncate"
    MUNMAP = "munmap"
    MMAP = "mmap over a mapping"
    MREMAP = "mremap"
    EXIT = "process exit"
    MPROTECT = "mprotect"
    USERFAULTFD = "userfaultfd"
    SOFT_DIRTY = "soft-dirty tracking"
    FORK = "fork"
    THP_SPLIT = "THP split"
    THP_COLLAPSE = "THP collapse"
    RECLAIM = "reclaim"
    WRITE_BACK = "write-back"
    MEMORY_FAILURE = "memory failure"
    OOM = "OOM reaper"
    UPROBES = "uprobes"
    MEMSLOT = "memslot change"
    UNKNOWN = "unknown"

    @property
    def group(self) -> str:
        """What it is called in one word."""
        return GROUPS.get(self, str(self))


GROUPS = {
    **dict.fromkeys((Cause.KSM_WRITE_PROTECT, Cause.KSM_REPLACE, Cause.KSM), "KSM"),
    **dict.fromkeys((Cause.COW_GUEST, Cause.COW_HOST, Cause.COW_FORK, Cause.COW), "COW"),
    **dict.fromkeys((Cause.NUMA_SCAN, Cause.NUMA_MIGRATION), "NUMA balancing"),
    **dict.fromkeys((Cause.DONTNEED, Cause.FREE, Cause.PAGEOUT), "madvise"),
    **dict.fromkeys((Cause.MUNMAP, Cause.MMAP), "munmap"),
    **dict.fromkeys((Cause.THP_SPLIT, Cause.THP_COLLAPSE), "THP"),
}


class Confidence(IntEnum):
    """How sure a cause is."""

    GUESS = 1
    LIKELY = 2
    CERTAIN = 3


class Source(Enum):
    """Where a frame comes from, and how sure what it says is."""

    STACK = ("stack trace", Confidence.CERTAIN)
    CALLER = ("return address", Confidence.CERTAIN)
    CALLS = ("probed function", Confidence.CERTAIN)
    BEFORE = ("probe hit before", Confidence.LIKELY)  # of a function whose return is not probed
    SYSCALL = ("system call", Confidence.CERTAIN)
    MIGRATE = ("migration event", Confidence.CERTAIN)
    GUEST = ("guest fault", Confidence.CERTAIN)
    OUTSIDE = ("outside of all guest faults", Confidence.CERTAIN)
    RANGE = ("range", Confidence.CERTAIN)
    HISTORY = ("earlier windows", Confidence.LIKELY)
    TASK = ("task", Confidence.LIKELY)
    ABSENT = ("no such call recorded", Confidence.LIKELY)
    EVENT = ("event type", Confidence.GUESS)


class Frame(NamedTuple):
    """A function, or what stands for one: `sys_munmap`, `task ksmd`, `migrate compaction`."""

    name: str
    source: Source


class Verdict(NamedTuple):
    """A cause, how sure it is, and what said so."""

    cause: Cause
    confidence: Confidence
    why: str


@dataclass(frozen=True)
class Rule:
    """One way to tell a cause."""

    cause: Cause
    at: tuple[str, ...]
    under: tuple[str, ...] = ()
    at_most: Confidence = Confidence.CERTAIN


# What else is known of a window, as frames behind the functions.
WHOLE_STACK, KNOWN_CALLER, KSM_STEP = "whole stack", "known caller", "probed write_protect_page"
NO_GUEST_FAULT, FORKED, ALL_MEMORY = "no guest fault", "page shared by fork", "range of all memory"
LIKELY, GUESS = Confidence.LIKELY, Confidence.GUESS
COW_AT = ("wp_page_copy", "do_wp_page", "do_huge_pmd_wp_page", "hugetlb_wp", "hugetlb_cow")
GUEST_FAULT = (
    "guest fault",
    "hva_to_pfn",
    "kvm_faultin_pfn",
    "kvm_mmu_page_fault",
    "user_mem_abort",
    "kvm_handle_guest_abort",
)
HOST_FAULT = ("do_user_addr_fault", "exc_page_fault", "do_page_fault", "do_mem_abort")
PROTECT_AT = (
    "change_protection",
    "change_prot_numa",
    "change_pud_range",
    "change_pmd_range",
    "hugetlb_change_protection",
)
UNMAP_AT = (
    "unmap_vmas",
    "unmap_region",
    "unmap_single_vma",
    "zap_page_range",
    "unmap_hugepage_range",
    "__unmap_hugepage_range_final",
)
ZAP_AT = (
    "zap_page_range_single",
    "zap_page_range_single_batched",
    "zap_vma_ptes",
    "unmap_mapping_range_vma",
    "unmap_mapping_range_tree",
    *UNMAP_AT,
)
RMAP_AT = ("try_to_migrate_one", "try_to_unmap_one")
SPLIT_AT = (
    "__split_huge_pmd",
    "__split_huge_pud",
    "split_huge_pmd_address",
    "vma_adjust_trans_huge",
)
COLLAPSE_AT = (
    "collapse_huge_page",
    "collapse_pte_mapped_thp",
    "retract_page_tables",
    "collapse_file",
    "hpage_collapse_scan_file",
    "try_collapse_pte_mapped_thp",
)
MOVE_AT = ("move_page_tables", "move_vma", "move_pgt_entry")
HOLE_UNDER = (
    "unmap_mapping_range",
    "unmap_mapping_pages",
    "unmap_mapping_folio",
    "truncate_pagecache",
    "shmem_fallocate",
    "shmem_undo_range",
    "hugetlbfs_fallocate",
    "sys_fallocate",
    "sys_ftruncate",
    "sys_truncate",
    "madvise REMOVE",
)
MUNMAP_UNDER = ("__vm_munmap", "sys_munmap", "sys_brk", "sys_shmdt")
MMAP_UNDER = ("mmap_region", "__mmap_region", "do_mmap", "vm_mmap_pgoff", "sys_mmap")
EXIT_UNDER = ("exit_mmap", "mmput", "do_exit", ALL_MEMORY)
RECLAIM_UNDER = (
    "shrink_folio_list",
    "shrink_page_list",
    "shrink_lruvec",
    "try_to_free_pages",
    "try_to_free_mem_cgroup_pages",
    "balance_pgdat",
    "kswapd",
    "task kswapd",
)
PAGEOUT_UNDER = ("reclaim_pages", "madvise_pageout", "madvise_cold_or_pageout_pte_range")
FAILURE_UNDER = ("memory_failure", "hwpoison_user_mappings", "unmap_poisoned_folio")
NUMA_MOVE_UNDER = (
    "migrate_misplaced_folio",
    "migrate_misplaced_page",
    "migrate_misplaced_transhuge_page",
    "migrate numa_misplaced",
)
COMPACTION_UNDER = ("compact_zone", "kcompactd", "migrate compaction", "task kcompactd")
UNMERGE_UNDER = ("break_ksm", "break_cow", "unmerge_ksm_pages", "madvise UNMERGEABLE")
DEMOTION_UNDER = ("demote_folio_list", "demote_page_list", "migrate demotion")


RULES = (
    Rule(Cause.KSM_WRITE_PROTECT, ("write_protect_page",)),
    Rule(Cause.KSM_REPLACE, ("replace_page",)),
    Rule(Cause.KSM_REPLACE, ("try_to_merge_one_page",), (WHOLE_STACK, KNOWN_CALLER, KSM_STEP)),
    Rule(Cause.KSM, ("try_to_merge_one_page", "try_to_merge_with_ksm_page", "cmp_and_merge_page")),
    Rule(Cause.UPROBES, ("__replace_page", "uprobe_write_opcode", "uprobe_write")),
    Rule(Cause.UNMERGE, COW_AT, UNMERGE_UNDER),
    Rule(Cause.COW_FORK, COW_AT, (FORKED,)),
    Rule(Cause.COW_GUEST, COW_AT, GUEST_FAULT),
    Rule(Cause.COW_HOST, COW_AT, (*HOST_FAULT, WHOLE_STACK, NO_GUEST_FAULT)),
    Rule(Cause.COW, COW_AT),
    Rule(Cause.FORK, ("copy_page_range", "copy_hugetlb_page_range")),
    Rule(Cause.NUMA_SCAN, PROTECT_AT, ("change_prot_numa", "task_numa_work")),
    Rule(Cause.USERFAULTFD, PROTECT_AT, ("uffd_wp_range", "mwriteprotect_range")),
    Rule(Cause.MPROTECT, PROTECT_AT, ("mprotect_fixup", "do_mprotect_pkey", "sys_mprotect")),
    Rule(Cause.MPROTECT, PROTECT_AT, ("sys_pkey_mprotect",)),
    Rule(Cause.NUMA_SCAN, PROTECT_AT, ("no sys_mprotect",)),
    Rule(Cause.NUMA_SCAN, PROTECT_AT, at_most=GUESS),
    Rule(Cause.SOFT_DIRTY, ("clear_refs_write",)),
    Rule(Cause.NUMA_MIGRATION, RMAP_AT, NUMA_MOVE_UNDER),
    Rule(Cause.COMPACTION, RMAP_AT, COMPACTION_UNDER),
    Rule(Cause.MEMORY_FAILURE, RMAP_AT, FAILURE_UNDER),
    Rule(Cause.DEVICE, RMAP_AT, ("migrate_vma_setup", "migrate_vma_unmap", "migrate_device_unmap")),
    Rule(Cause.RECLAIM, RMAP_AT, DEMOTION_UNDER),
    Rule(Cause.PAGEOUT, RMAP_AT, (*PAGEOUT_UNDER, "madvise PAGEOUT")),
    Rule(Cause.THP_SPLIT, RMAP_AT, ("split_huge_page_to_list", "split_huge_page_to_list_to_order")),
    Rule(Cause.RECLAIM, ("try_to_unmap_one",), RECLAIM_UNDER),
    Rule(Cause.MIGRATION, RMAP_AT, ("sys_move_pages", "sys_mbind", "sys_migrate_pages")),
    Rule(Cause.MIGRATION, RMAP_AT, ("migrate syscall_or_cpuset", "migrate mempolicy_mbind")),
    Rule(Cause.MIGRATION, RMAP_AT, ("migrate memory_hotplug", "migrate contig_range")),
    Rule(Cause.MIGRATION, RMAP_AT, ("migrate longterm_pin", "migrate damon", "migrate_pages")),
    Rule(Cause.NUMA_MIGRATION, ("try_to_migrate_one",), ("guest fault",), LIKELY),
    Rule(Cause.MIGRATION, ("try_to_migrate_one", "migrate_pages"), at_most=LIKELY),
    Rule(Cause.RECLAIM, ("try_to_unmap_one",), at_most=LIKELY),
    Rule(Cause.DEVICE, ("migrate_vma_collect", "migrate_vma_setup", "make_device_exclusive")),
    Rule(Cause.DEVICE, ("migrate_vma_insert_page", "page_make_device_exclusive_one")),
    Rule(Cause.WRITE_BACK, ("page_mkclean_one", "page_vma_mkclean_one", "folio_mkclean")),
    Rule(Cause.OOM, ("__oom_reap_task_mm",)),
    Rule(Cause.MREMAP, MOVE_AT),
    Rule(Cause.MREMAP, UNMAP_AT, (*MOVE_AT, "mremap_to", "sys_mremap")),
    Rule(Cause.EXIT, (*UNMAP_AT, "exit_mmap"), EXIT_UNDER),
    Rule(Cause.MUNMAP, UNMAP_AT, MUNMAP_UNDER),
    Rule(Cause.MMAP, UNMAP_AT, MMAP_UNDER),
    Rule(Cause.HOLE, ZAP_AT, HOLE_UNDER),
    Rule(Cause.DONTNEED, ZAP_AT, ("sys_madvise", "sys_process_madvise", "do_madvise")),
    Rule(Cause.DONTNEED, ZAP_AT, ("madvise_dontneed_single_vma", "madvise_dontneed_free")),
    Rule(Cause.MMAP, UNMAP_AT, ("no sys_munmap",)),
    Rule(Cause.MUNMAP, UNMAP_AT, at_most=LIKELY),
    Rule(Cause.DONTNEED, ("zap_page_range_single",), at_most=LIKELY),
    Rule(Cause.HOLE, ZAP_AT, at_most=LIKELY),
    Rule(Cause.FREE, ("madvise_free_single_vma",)),
    Rule(Cause.FREE, ("do_madvise", "madvise_vma_behavior"), ("madvise FREE",)),
    Rule(Cause.THP_SPLIT, SPLIT_AT),
    Rule(Cause.THP_COLLAPSE, COLLAPSE_AT),
)
# Without any function: what the task was doing, then who it is, then the notifier's event type.
CONTEXT = (
    Rule(Cause.EXIT, (ALL_MEMORY,)),
    Rule(Cause.NUMA_MIGRATION, ("migrate numa_misplaced",)),
    Rule(Cause.COMPACTION, ("migrate compaction", "task kcompactd")),
    Rule(Cause.MIGRATION, ("migrate syscall_or_cpuset", "migrate mempolicy_mbind")),
    Rule(Cause.MIGRATION, ("sys_move_pages", "sys_migrate_pages", "sys_mbind"), at_most=LIKELY),
    Rule(Cause.KSM, ("task ksmd",)),
    Rule(Cause.THP_COLLAPSE, ("task khugepaged",)),
    Rule(Cause.RECLAIM, ("task kswapd",)),
    Rule(Cause.OOM, ("task oom_reaper",)),
    Rule(Cause.UNMERGE, ("break_ksm", "madvise UNMERGEABLE"), at_most=LIKELY),
    Rule(Cause.FREE, ("madvise FREE",), at_most=LIKELY),
    Rule(Cause.PAGEOUT, ("madvise PAGEOUT",), at_most=LIKELY),
    Rule(Cause.HOLE, ("madvise REMOVE", "sys_fallocate", "sys_ftruncate"), at_most=LIKELY),
    Rule(Cause.DONTNEED, ("madvise DONTNEED",), at_most=LIKELY),
    Rule(Cause.MUNMAP, ("sys_munmap", "sys_brk"), at_most=LIKELY),
    Rule(Cause.MMAP, ("sys_mmap",), at_most=LIKELY),
    Rule(Cause.MREMAP, ("sys_mremap",), at_most=LIKELY),
    Rule(Cause.MPROTECT, ("sys_mprotect", "sys_pkey_mprotect"), at_most=LIKELY),
    Rule(Cause.FORK, ("sys_clone", "sys_clone3", "sys_fork", "sys_vfork"), at_most=LIKELY),
    Rule(Cause.COW_GUEST, ("guest fault",), ("event CLEAR",), GUESS),
    Rule(Cause.NUMA_SCAN, ("event PROTECTION_VMA",), ("no sys_mprotect",), GUESS),
)
EVENT_TYPES = ("UNMAP", "CLEAR", "PROTECTION_VMA", "PROTECTION_PAGE", "SOFT_DIRTY", "RELEASE")
MADVICES = {4: "DONTNEED", 8: "FREE", 9: "REMOVE", 13: "UNMERGEABLE", 20: "COLD", 21: "PAGEOUT"}
MADVICES |= {24: "DONTNEED_LOCKED", 25: "COLLAPSE"}

# Frames of every stack that say nothing about the cause: the notifier itself and the tracer.
NOTIFIER = re.compile(r"trace_event_raw_event_|__traceiter_|__mmu_notifier_|kvm_mmu_notifier_")
SYSCALL = re.compile(r"__(?:(?:x64|ia32|arm64|se|do)_)?(?:compat_)?sys_(\w+)|ksys_(\w+)")
SYMBOL = re.compile(r"\w+")
KNOWN = frozenset(name for rule in RULES for name in rule.at)


def function_of(symbol: str | None) -> str | None:
    """`write_protect_page.constprop.0+0x4ac/0x540 [kvm]` is write_protect_page; None: no symbol."""
    found = SYMBOL.match(symbol) if symbol else None
    return found[0] if found else None


def stack_frames(stack: Iterable[str]) -> list[Frame]:
    """The frames of a stack trace, system calls under the name `sys_...`."""
    frames = []
    for symbol in stack:
        name = function_of(symbol)
        if name and not NOTIFIER.match(name):
            if call := SYSCALL.match(name):
                name = f"sys_{call[1] or call[2]}"
            frames.append(Frame(name, Source.STACK))
    if frames:
        frames.append(Frame(WHOLE_STACK, Source.STACK))
    return frames


@lru_cache(maxsize=8192)
def decide(frames: tuple[Frame, ...]) -> Verdict:
    """The cause that these frames tell, innermost first; UNKNOWN says what they end at."""
    sources = dict[str, Source]()
    for frame in frames:
        sources.setdefault(frame.name, frame.source)
    for frame in frames:
        if frame.name in KNOWN:
            for rule in RULES:
                if frame.name in rule.at and (verdict := _fit(rule, frame, sources)):
                    return verdict
    functions = [each.name for each in frames if each.source in (Source.STACK, Source.CALLER)]
    if functions:
        return Verdict(Cause.UNKNOWN, GUESS, f"{functions[0]}() is in no rule")
    for rule in CONTEXT:
        for name in rule.at:
            if name in sources and (verdict := _fit(rule, Frame(name, sources[name]), sources)):
                return verdict
    return Verdict(Cause.UNKNOWN, GUESS, "no stack trace, caller or system call recorded")


def _fit(rule: Rule, frame: Frame, sources: dict[str, Source]) -> Verdict | None:
    """What the rule says of this frame, if one of `under` is there too."""
    under = next((name for name in rule.under if name in sources), None)
    if rule.under and under is None:
        return None
    confidence = min(frame.source.value[1], rule.at_most)
    why = f"{frame.source.value[0]} {frame.name}"
    if under is not None:
        confidence = min(confidence, sources[under].value[1])
        why += f", {under}"
    return Verdict(rule.cause, confidence, why)
