"""What to look at next, and what to record to know what this trace cannot tell."""

from __future__ import annotations

from collections import Counter

from mmuwitness.trace.audit.auditor import Audit
from mmuwitness.trace.causes import Cause, Confidence
from mmuwitness.trace.tracepoints import Kind

LOOK_AT = {
    "KSM": (
        "KSM: /sys/kernel/mm/ksm/{{pages_to_scan,sleep_millisecs,pages_sharing}}. It zapped "
        "{zapped:,} SPTEs of running guests, which cost them {exits:,} exits."
    ),
    "COW": (
        "COW: who shares the pages that are written (KSM, fork, the zero page). A write by a "
        "guest costs two exits a page, the first of them only to break the sharing."
    ),
    "NUMA balancing": (
        "NUMA balancing: kernel.numa_balancing, its scan periods, and whether vCPUs and memory are "
        "pinned. {same:,} of {refaults:,} refaults found the same page: nothing had moved."
    ),
    "migration": "migration: who calls move_pages() or mbind(), or moves cpusets, and how often.",
    "compaction": "compaction: vm.compaction_proactiveness, and who asks for huge pages.",
    "madvise": "madvise: a balloon or free page reporting gives the guest's memory back.",
    "munmap": "munmap: what the VMM unmaps while the guest runs; batch it, or reuse mappings.",
    "mremap": "mremap: what the VMM moves while the guest runs.",
    "mprotect": "mprotect: what the VMM protects while the guest runs (write tracking?).",
    "fork": "fork: a VMM that forks write-protects all of its guest; use vfork or posix_spawn.",
    "THP": "THP: /sys/kernel/mm/transparent_hugepage, and madvise() on parts of huge pages.",
    "reclaim": "reclaim: the memory limit of the VMM's cgroup, swap, vm.swappiness.",
}


def look_at(audit: Audit) -> list[str]:
    """A sentence on each of the two groups that cost most."""
    exits, windows = Counter[str](), Counter[str]()
    for cause, totals in audit.totals.causes.items():
        exits[cause.group] += totals.exits
        windows[cause.group] += totals.windows
    cost = exits if exits.total() else windows
    found = []
    for group, count in cost.most_common(2):
        if count == 0 or group not in LOOK_AT or count * 10 < cost.total():
            continue
        rows = [each for cause, each in audit.totals.causes.items() if cause.group == group]
        numbers = {
            "exits": exits[group],
            "zapped": sum(each.zapped for each in rows),
            "refaults": sum(each.refaults for each in rows),
            "same": sum(each.refaults_same for each in rows),
        }
        found.append(LOOK_AT[group].format(**numbers))
    return found


def record_next(audit: Audit) -> list[str]:
    """What is unknown, and the event or probe that would tell; `record --how` has the commands."""
    counts, totals = audit.counts, audit.totals
    rows = totals.causes.values()
    wanted: list[tuple[bool, str]] = [
        (
            not audit.windows,
            "windows: tracepoint kvm:kvm_unmap_hva_range with a stacktrace trigger",
        ),
        (
            any(totals.causes[cause].windows for cause in totals.causes if cause is Cause.UNKNOWN)
            or any(each.confidence[Confidence.GUESS] for each in rows),
            "their causes: a stacktrace trigger on kvm:kvm_unmap_hva_range, or the return of "
            "__mmu_notifier_invalidate_range_start",
        ),
        (
            bool(audit.windows) and not (counts[Kind.MN_END] or counts[Kind.KVM_END]),
            "how long windows last, and whose window made others retry: a probe on "
            "__mmu_notifier_invalidate_range_end",
        ),
        (
            any(each.slot_unknown for each in rows),
            "whether windows that zapped nothing hit a memslot: a probe on kvm_unmap_gfn_range",
        ),
        (
            any(each.zapped_unknown for each in rows),
            "what was zapped: tracepoint kvmmmu:kvm_tdp_mmu_spte_changed (x86), or probes on "
            "kvm_pgtable_stage2_map and kvm_pgtable_stage2_unmap with their arguments (arm64)",
        ),
        (
            bool(audit.windows) and not counts[Kind.PAGE_FAULT],
            "what guests paid: tracepoint kvm:kvm_page_fault (x86) or kvm:kvm_guest_fault (arm64)",
        ),
        (
            bool(totals.faults_inferred),
            "why faults retried: the return of direct_page_fault or kvm_tdp_page_fault",
        ),
        (
            bool(totals.faults) and not counts[Kind.EXIT],
            "all exits: tracepoint kvm:kvm_exit",
        ),
    ]
    found = [text for missing, text in wanted if missing]
    return [*found, "`mmuwitness record --how` prints the commands."] if found else []
