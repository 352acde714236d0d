"""Why claims are violated in what is pinned: the bugs that kernels of that time had."""

from __future__ import annotations

from dataclasses import dataclass

HPT = "powerpc-hpt"
ARCHES = ("x86-tdp", "x86-shadow", "arm64")


@dataclass(frozen=True)
class Bug:
    """Why claims are violated.  since and until: the first kernels with it, and without it again.

    mended: a mutant, or changed features; with it every claim holds."""

    text: str
    claims: str
    arches: tuple[str, ...]
    scenarios: tuple[str, ...]
    since: str
    until: str
    mended: str


STALE = "I1 I3 I4 I6"
RMAP_WALKS = (
    "cow_migrate",
    "cow_reclaim",
    "reclaim",
    "reclaim_one",
    "migrate",
    "migrate_one",
    "collapse_shmem",
    "reclaim_aging",
    "exit_reclaim",
    "reclaim_thread",
    "reclaim_mprotect",
    "swapin",
    "writeback",
    "exit_destroy",
    "exit_aging",
    "migrate_dma",
    "reclaim_once",
    "migrate_once",
    "migrate_thread",
)
EVERYWHERE = ("x86-tdp", "x86-shadow", "arm64")
ALONE = "change_pte wants its window to be the only one"

BUGS = {
    "H1": Bug(
        "The new PTE is there before change_pte: commit 48af0d7cb3c8 in v3.7.",
        claims="I6",
        arches=("x86-shadow",),
        scenarios=("cow_smp", "two_vms_cow"),
        since="v2.6.32",
        until="v3.7",
        mended="+change_pte_before_set_pte",
    ),
    "I13": Bug(
        "Two windows over one page are open while change_pte installs a leaf: the rule of the"
        " commit that made it so, 6bdb913f0a70 in v3.7.  No harm by itself.",
        claims="I13",
        arches=("arm64",),
        scenarios=("ksm", "ksm_both", "cow"),
        since="v3.11",
        until="v6.10",
        mended=ALONE,
    ),
    "R1": Bug(
        "The second window is that of a rmap walk, whose start() came before change_pte: what it"
        " unmaps stays in the SPTE.",
        claims="I1 I2 I3 I4 I5 I6 I13",
        arches=("arm64",),
        scenarios=("cow_migrate", "cow_reclaim"),
        since="v4.13",
        until="v6.10",
        mended=ALONE,
    ),
    "H2": Bug(
        "change_pte maps into a memslot that was flushed and is about to go: commit 2230f9e1171a in"
        " v6.4.  Later windows do not hit the memslot, so the leaf outlives what it maps.",
        claims="I1 I3 I4 I11",
        arches=("arm64",),
        scenarios=("memslot_delete",),
        since="v3.11",
        until="v6.4",
        mended="+change_pte_skips_invalid_slot",
    ),
    "H14": Bug(
        "The VMA says that a leaf is to be huge, and is gone by the time of the snapshot: commit"
        " 13ec9308a857 in v6.3.",
        claims=STALE,
        arches=("arm64",),
        scenarios=("mmap_hugetlb", "mmap_aging"),
        since="v3.13",
        until="v6.3",
        mended="+arm64_snapshot_before_mmap_unlock",
    ),
    "H18": Bug(
        "khugepaged drops a table of PTEs without a window: commit f268f6cf875f in v6.1.",
        claims=STALE,
        arches=ARCHES,
        scenarios=("collapse_shmem",),
        since="v5.4",
        until="v6.1",
        mended="+collapse_file_bracketed",
    ),
    "H19": Bug(
        "One of two mappings that share a PMD table is forgotten: commit 017b1660df89 in v4.19.",
        claims=STALE,
        arches=("x86-shadow", "arm64"),
        scenarios=("hugetlb_shared",),
        since="v2.6.32",
        until="v4.19",
        mended="+hugetlb_shared_pmd_range",
    ),
    "H35": Bug(
        "H14 on x86: commit 83f06fa7a6fd in v5.6 asks the page tables instead.",
        claims=STALE,
        arches=("x86-shadow",),
        scenarios=("mmap_hugetlb", "mmap_aging"),
        since="v2.6.32",
        until="v5.6",
        mended="+x86_hugetlb_from_page_tables",
    ),
    "H8": Bug(
        "A root that is invalid and not zapped yet is passed over by start(): commit d62007edf01f"
        " in v5.18.  Until v5.16 faults mapped into it (H11), and a yield left some of it (H9).",
        claims="I4 obsolete_root_unmapped",
        arches=("x86-tdp",),
        scenarios=("memslot_roots",),
        since="v5.13",
        until="v5.18",
        mended="+x86_tdp_unmaps_invalid_roots +x86_fault_checks_root"
        " +x86_tdp_iter_restarts_in_place",
    ),
    "H36": Bug(
        "A memslot that moves is not zapped, or (since v3.1) only once it is there: commit"
        " 12d6e7538e2d in v3.7.",
        claims="I1 I2 I3 I4 I6 I11",
        arches=("x86-shadow",),
        scenarios=("memslot_move",),
        since="v2.6.32",
        until="v3.7",
        mended="+memslot_move_invalidates +memslots_srcu",
    ),
    "P3": Bug(
        "Nothing unmaps a memslot that goes: commit dfe49dbd1fc7 in v3.8.  Nor when an mm exits or"
        " a VM is destroyed, which is the same function in this model.",
        claims=STALE + " I2 I11",
        arches=(HPT,),
        scenarios=(
            *("memslot_delete", "memslot_dontneed", "memslot_fault"),
            *("exit_reclaim", "vm_lifetime"),
        ),
        since="v3.4",
        until="v3.8",
        mended="+powerpc_hv_flushes_memslot",
    ),
    "H17": Bug(
        "A window outside every memslot does not bump the sequence that a cache's refresh looks at:"
        " commit da260bcb56fe, in v7.3.4.",
        claims="I4 I6 cache_names_mapped_page",
        arches=("x86-tdp", "x86-shadow"),
        scenarios=("pfncache_hva",),
        since="v6.9",
        until="v7.3",
        mended="+gpc_invalidate_seq",
    ),
    "H32": Bug(
        "MMIO faults are retried like any: commit 5f8a7cf25a7d in v5.12.",
        claims="mmio_not_retried",
        arches=("x86-tdp", "x86-shadow"),
        scenarios=("memslot_mmio",),
        since="v2.6.32",
        until="v5.12",
        mended="+mmio_fault_skips_retry",
    ),
    "H46": Bug(
        "Reclaim drops a page that MADV_FREE has made clean while a disk is read into it: commit"
        " 6c8e2a256915 in v5.18.",
        claims="I6 I6f",
        arches=ARCHES,
        scenarios=("madv_free_dio",),
        since="v4.5",
        until="v5.18",
        mended="+lazyfree_counts_references",
    ),
    "H4": Bug(
        "When an mm exits, KVM leaves the list of subscribers before it drops its SPTEs: commit"
        " 3ad3d901bbcf in v3.6.  So it does when a VM is destroyed.",
        claims="I1 I2 I3 I4",
        arches=("x86-shadow",),
        scenarios=(
            "exit_reclaim",
            "exit_aging",
            "exit_destroy",
            "vm_lifetime",
            "vm_tables",
            "vm_beside",
        ),
        since="v2.6.32",
        until="v3.6",
        mended="+release_before_unlink +unlinked_once",
    ),
    "H29": Bug(
        "A VM's tables are freed under who walks them, three ways: commits 6c0d706b563a and"
        " 0c428a6a9256 in v4.12, 7e5a672289c9 in v4.13.",
        claims="walks_freed",
        arches=("arm64",),
        scenarios=("exit_aging", "vm_tables"),
        since="v3.11",
        until="v4.13",
        mended="+arm64_pgd_reset_under_lock +arm64_walk_rechecks_pgd +arm64_aging_checks_pgd",
    ),
    "H51": Bug(
        "Who unregisters takes KVM off the list after an exiting mm has: commit 751efd8610d3 in"
        " v3.9.",
        claims="unlinked_twice",
        arches=("x86-shadow",),
        scenarios=("exit_destroy",),
        since="v3.6",
        until="v3.9",
        mended="+unlinked_once",
    ),
    "H37": Bug(
        "remove() returns while the last window still works off the list that the subscription is"
        " on: commit 319561669a59 in v5.18.",
        claims="D11",
        arches=ARCHES,
        scenarios=("hmm_open",),
        since="v5.5",
        until="v5.18",
        mended="+interval_remove_takes_lock",
    ),
    "H3": Bug(
        "Of two who zap, the second finds the SPTE gone and does not wait for the flush of the"
        " first: commit 565f3be21746 in v3.4.  change_pte is one of them, too.",
        claims="I3 I4 I6",
        arches=("x86-shadow",),
        scenarios=(
            "numa_dontneed",
            "mremap_truncate",
            "zero_page",
            "reclaim_mprotect",
            "drop_once",
        ),
        since="v2.6.32",
        until="v3.4",
        mended="+flush_before_unlock",
    ),
    "H25": Bug(
        "Faults keep their references to the zero page: commit 7df003c85218 in v5.6.",
        claims="I4r",
        arches=("x86-shadow", "arm64", HPT),
        scenarios=("zero_page", "zero_page_once"),
        since="v2.6.32",
        until="v5.6",
        mended="+zero_page_is_put",
    ),
    "H26": Bug(
        "KVM frees a page of a driver that nobody counts: v4.8 to commit f8be156be163 in v5.13.",
        claims="I4",
        arches=EVERYWHERE,
        scenarios=("pfnmap",),
        since="v4.8",
        until="v5.13",
        mended="+uncounted_pfn_refused",
    ),
    "H38": Bug(
        "A page is pinned while fork write-protects it: commit 57efa1fe5957 in v5.11.",
        claims="I6 I6c",
        arches=EVERYWHERE,
        scenarios=("fork_dma",),
        since="v5.9",
        until="v5.11",
        mended="+fork_write_protect_seq",
    ),
    "H39": Bug(
        "Fork shares a pinned page: commit 70e806e4e645 in v5.9, which leaves H38.",
        claims="I6 I6c",
        arches=("x86-shadow", "arm64"),
        scenarios=("fork_dma",),
        since="v2.6.32",
        until="v5.9",
        mended="+fork_copies_pinned +fork_write_protect_seq",
    ),
    "H40": Bug(
        "mremap() flushes after it has dropped ptl: v3.2 to commit eb66ae030829 in v4.19.",
        claims="I4h",
        arches=("x86-shadow", "arm64"),
        scenarios=("mremap_truncate",),
        since="v3.2",
        until="v4.19",
        mended="+mremap_flushes_under_ptl",
    ),
    "H42": Bug(
        "Two swap in from zram, and one maps what is old: v4.15 to commit 13ddaf26be32 in v6.8.",
        claims="I6",
        arches=EVERYWHERE,
        scenarios=("swapin", "reclaim_thread"),
        since="v4.15",
        until="v6.8",
        mended="+swapin_exclusive",
    ),
    "2ec74c3ef2d8": Bug(
        "Rmap walks drop ptl before invalidate_page, v3.7 to v4.10: for a while the PTE is gone"
        " and the SPTE is not.  No harm by itself: till then the page is locked and referenced.",
        claims="I1 I3",
        arches=("x86-shadow", "arm64", HPT),
        scenarios=RMAP_WALKS,
        since="v3.7",
        until="v4.11",
        mended="-invalidate_page_after_ptl",
    ),
}
