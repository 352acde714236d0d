"""Each cause is told by its stack, and a changed stack tells another one or none."""

import pytest

from mmuwitness.trace import causes
from mmuwitness.trace.causes import Cause, Confidence, Frame, Source, Verdict, decide, stack_frames
from tests.trace.audited import audited, windows_of

GUP = "__handle_mm_fault handle_mm_fault __get_user_pages get_user_pages_unlocked hva_to_pfn "
GUEST = GUP + "kvm_faultin_pfn direct_page_fault kvm_mmu_page_fault __x64_sys_ioctl"
HOST = "__handle_mm_fault handle_mm_fault do_user_addr_fault exc_page_fault"
RMAP = "rmap_walk_anon try_to_migrate migrate_pages_batch migrate_pages "
SHRINK = "rmap_walk_anon try_to_unmap shrink_folio_list shrink_lruvec shrink_node "
MUNMAP = "unmap_region do_mas_align_munmap "
MADVISE = "do_madvise __x64_sys_madvise do_syscall_64"
# cause: a stack as kernels print it, innermost first; then what is changed in it; then what it
# tells instead.
STACKS = [
    (Cause.KSM_WRITE_PROTECT, "write_protect_page try_to_merge_one_page", "write_protect_page -",
     Cause.KSM_REPLACE),
    (Cause.KSM_REPLACE, "try_to_merge_one_page ksm_scan_thread kthread",
     "try_to_merge_one_page wp_page_copy", Cause.COW_HOST),
    (Cause.KSM_REPLACE, "replace_page try_to_merge_one_page", "replace_page write_protect_page",
     Cause.KSM_WRITE_PROTECT),
    (Cause.UNMERGE, "wp_page_copy __handle_mm_fault break_ksm unmerge_ksm_pages",
     "break_ksm,unmerge_ksm_pages -", Cause.COW_HOST),
    (Cause.UNMERGE, "do_wp_page handle_mm_fault break_ksm ksm_madvise", "break_ksm -",
     Cause.COW_HOST),
    (Cause.COW_GUEST, f"wp_page_copy {GUEST}", "hva_to_pfn,kvm_faultin_pfn,kvm_mmu_page_fault -",
     Cause.COW_HOST),
    (Cause.COW_GUEST, "do_wp_page handle_mm_fault hva_to_pfn user_mem_abort kvm_handle_guest_abort",
     "do_wp_page write_protect_page", Cause.KSM_WRITE_PROTECT),
    (Cause.COW_HOST, f"wp_page_copy {HOST}", "do_user_addr_fault hva_to_pfn", Cause.COW_GUEST),
    (Cause.UPROBES, "__replace_page uprobe_write_opcode install_breakpoint",
     "__replace_page,uprobe_write_opcode -", Cause.UNKNOWN),
    (Cause.FORK, "copy_page_range dup_mm copy_process", "copy_page_range -", Cause.UNKNOWN),
    (Cause.NUMA_SCAN, "change_protection change_prot_numa task_numa_work",
     "change_prot_numa,task_numa_work mprotect_fixup", Cause.MPROTECT),
    (Cause.MPROTECT, "change_protection mprotect_fixup do_mprotect_pkey __x64_sys_mprotect",
     "mprotect_fixup,do_mprotect_pkey,__x64_sys_mprotect task_numa_work", Cause.NUMA_SCAN),
    (Cause.USERFAULTFD, "change_protection uffd_wp_range mwriteprotect_range userfaultfd_ioctl",
     "uffd_wp_range,mwriteprotect_range mprotect_fixup", Cause.MPROTECT),
    (Cause.SOFT_DIRTY, "clear_refs_write vfs_write", "clear_refs_write -", Cause.UNKNOWN),
    (Cause.NUMA_MIGRATION, f"try_to_migrate_one {RMAP} migrate_misplaced_page {GUEST}",
     "migrate_misplaced_page compact_zone", Cause.COMPACTION),
    (Cause.COMPACTION, f"try_to_migrate_one {RMAP} compact_zone kcompactd",
     "compact_zone,kcompactd __x64_sys_move_pages", Cause.MIGRATION),
    (Cause.MIGRATION, f"try_to_migrate_one {RMAP} __x64_sys_move_pages",
     "__x64_sys_move_pages migrate_misplaced_folio", Cause.NUMA_MIGRATION),
    (Cause.DEVICE, "try_to_migrate_one rmap_walk_anon migrate_vma_setup",
     "migrate_vma_setup compact_zone", Cause.COMPACTION),
    (Cause.DEVICE, "migrate_vma_collect migrate_vma_setup svm_migrate",
     "migrate_vma_collect,migrate_vma_setup -", Cause.UNKNOWN),
    (Cause.MEMORY_FAILURE, "try_to_unmap_one rmap_walk_anon try_to_unmap memory_failure",
     "memory_failure shrink_folio_list", Cause.RECLAIM),
    (Cause.RECLAIM, f"try_to_unmap_one {SHRINK} balance_pgdat kswapd kthread",
     "try_to_unmap_one -", Cause.UNKNOWN),
    (Cause.PAGEOUT, f"try_to_unmap_one {SHRINK} reclaim_pages madvise_pageout {MADVISE}",
     "reclaim_pages,madvise_pageout -", Cause.RECLAIM),
    (Cause.WRITE_BACK, "page_vma_mkclean_one rmap_walk_file folio_mkclean",
     "page_vma_mkclean_one,folio_mkclean -", Cause.UNKNOWN),
    (Cause.OOM, "__oom_reap_task_mm oom_reaper kthread", "__oom_reap_task_mm -", Cause.UNKNOWN),
    (Cause.MREMAP, "move_page_tables move_vma __do_sys_mremap", "move_page_tables,move_vma -",
     Cause.UNKNOWN),
    (Cause.MREMAP, f"unmap_vmas {MUNMAP} move_vma __do_sys_mremap",
     "move_vma,__do_sys_mremap __x64_sys_munmap", Cause.MUNMAP),
    (Cause.EXIT, "unmap_vmas exit_mmap mmput do_exit", "exit_mmap,mmput,do_exit sys_brk",
     Cause.MUNMAP),
    (Cause.MUNMAP, f"unmap_vmas {MUNMAP} __vm_munmap __x64_sys_munmap",
     "__vm_munmap,__x64_sys_munmap mmap_region", Cause.MMAP),
    (Cause.MMAP, f"unmap_vmas {MUNMAP} mmap_region do_mmap vm_mmap_pgoff",
     "mmap_region,do_mmap,vm_mmap_pgoff __x64_sys_munmap", Cause.MUNMAP),
    (Cause.DONTNEED, f"zap_page_range_single {MADVISE}",
     "do_madvise,__x64_sys_madvise shmem_fallocate", Cause.HOLE),
    (Cause.FREE, f"madvise_free_single_vma {MADVISE}",
     "madvise_free_single_vma zap_page_range_single", Cause.DONTNEED),
    (Cause.HOLE, "zap_page_range_single unmap_mapping_range shmem_fallocate __x64_sys_fallocate",
     "unmap_mapping_range,shmem_fallocate,__x64_sys_fallocate do_madvise", Cause.DONTNEED),
    (Cause.THP_SPLIT, "__split_huge_pmd vma_adjust_trans_huge __split_vma",
     "__split_huge_pmd,vma_adjust_trans_huge -", Cause.UNKNOWN),
    (Cause.THP_SPLIT, "try_to_migrate_one rmap_walk_anon split_huge_page_to_list",
     "split_huge_page_to_list compact_zone", Cause.COMPACTION),
    (Cause.THP_COLLAPSE, "collapse_huge_page hpage_collapse_scan_pmd khugepaged",
     "collapse_huge_page -", Cause.UNKNOWN),
]  # fmt: skip
# Without any function: what the task was doing, who it is, what kind of event.
CONTEXTS = [
    (Cause.EXIT, [Frame(causes.ALL_MEMORY, Source.RANGE)], Confidence.CERTAIN),
    (Cause.NUMA_MIGRATION, [Frame("migrate numa_misplaced", Source.MIGRATE)], Confidence.CERTAIN),
    (Cause.COMPACTION, [Frame("migrate compaction", Source.MIGRATE)], Confidence.CERTAIN),
    (Cause.COMPACTION, [Frame("task kcompactd", Source.TASK)], Confidence.LIKELY),
    (Cause.MIGRATION, [Frame("migrate syscall_or_cpuset", Source.MIGRATE)], Confidence.CERTAIN),
    (Cause.MIGRATION, [Frame("sys_move_pages", Source.SYSCALL)], Confidence.LIKELY),
    (Cause.KSM, [Frame("task ksmd", Source.TASK)], Confidence.LIKELY),
    (Cause.THP_COLLAPSE, [Frame("task khugepaged", Source.TASK)], Confidence.LIKELY),
    (Cause.RECLAIM, [Frame("task kswapd", Source.TASK)], Confidence.LIKELY),
    (Cause.OOM, [Frame("task oom_reaper", Source.TASK)], Confidence.LIKELY),
    (Cause.UNMERGE, [Frame("madvise UNMERGEABLE", Source.SYSCALL)], Confidence.LIKELY),
    (Cause.FREE, [Frame("madvise FREE", Source.SYSCALL)], Confidence.LIKELY),
    (Cause.PAGEOUT, [Frame("madvise PAGEOUT", Source.SYSCALL)], Confidence.LIKELY),
    (Cause.HOLE, [Frame("madvise REMOVE", Source.SYSCALL)], Confidence.LIKELY),
    (Cause.DONTNEED, [Frame("madvise DONTNEED", Source.SYSCALL)], Confidence.LIKELY),
    (Cause.MUNMAP, [Frame("sys_munmap", Source.SYSCALL)], Confidence.LIKELY),
    (Cause.MMAP, [Frame("sys_mmap", Source.SYSCALL)], Confidence.LIKELY),
    (Cause.MREMAP, [Frame("sys_mremap", Source.SYSCALL)], Confidence.LIKELY),
    (Cause.MPROTECT, [Frame("sys_mprotect", Source.SYSCALL)], Confidence.LIKELY),
    (Cause.FORK, [Frame("sys_clone", Source.SYSCALL)], Confidence.LIKELY),
    (
        Cause.COW_GUEST,
        [Frame("guest fault", Source.GUEST), Frame("event CLEAR", Source.EVENT)],
        Confidence.GUESS,
    ),
    (
        Cause.NUMA_SCAN,
        [Frame("no sys_mprotect", Source.ABSENT), Frame("event PROTECTION_VMA", Source.EVENT)],
        Confidence.GUESS,
    ),
]
PREFIX = "trace_event_raw_event_kvm_unmap_hva_range kvm_mmu_notifier_invalidate_range_start "
PREFIX += "__mmu_notifier_invalidate_range_start "


def told(stack: str) -> Verdict:
    return decide(tuple(stack_frames((PREFIX + stack).split())))


def edited(stack: str, change: str) -> str:
    """`a,b c` puts c in place of a and leaves b out; `-` in place of c leaves both out."""
    old, new = change.split()
    first, *others = old.split(",")
    frames = [frame for frame in stack.split() if frame not in others]
    return " ".join(
        new if frame == first else frame for frame in frames if (frame, new) != (first, "-")
    )


@pytest.mark.parametrize(("cause", "stack", "change", "instead"), STACKS)
def test_stack_tells_cause(cause: Cause, stack: str, change: str, instead: Cause) -> None:
    assert told(stack).cause is cause
    assert told(stack).confidence is Confidence.CERTAIN
    other = edited(stack, change)
    assert other != stack
    assert told(other).cause is instead


@pytest.mark.parametrize(("cause", "frames", "confidence"), CONTEXTS)
def test_context_tells_cause(cause: Cause, frames: list[Frame], confidence: Confidence) -> None:
    verdict = decide(tuple(frames))
    assert (verdict.cause, verdict.confidence) == (cause, confidence)
    assert decide(tuple(frames[1:])).cause is not cause
    # A function that no rule knows is not explained by what else the task does.
    assert decide((Frame("new_thing", Source.CALLER), *frames)).cause is Cause.UNKNOWN


def test_every_cause_has_a_stack() -> None:
    tested = {cause for cause, *_ in STACKS} | {cause for cause, *_ in CONTEXTS}
    others = {Cause.UNKNOWN, Cause.MEMSLOT, Cause.KSM, Cause.COW, Cause.COW_FORK}
    assert tested | others == set(Cause)
    assert {rule.cause for rule in causes.RULES} | {Cause.MEMSLOT, Cause.UNKNOWN} == set(Cause)


@pytest.mark.parametrize("rule", [*causes.RULES, *causes.CONTEXT], ids=str)
def test_no_rule_is_hidden_by_an_earlier_one(rule: causes.Rule) -> None:
    """In each row, some function tells that row's cause, and none of it without `under`."""
    source = Source.STACK if rule in causes.RULES else Source.SYSCALL
    unders = [[Frame(name, source)] for name in rule.under] or [[]]
    pairs = [(Frame(at, source), under) for at in rule.at for under in unders]
    assert any(decide((at, *under)).cause is rule.cause for at, under in pairs)
    others = [row for row in (*causes.RULES, *causes.CONTEXT) if row.cause is rule.cause]
    if rule.under and not any(set(row.at) & set(rule.at) and not row.under for row in others):
        alone = [at for at, _ in pairs if at.name not in rule.under]
        assert all(decide((at,)).cause is not rule.cause for at in alone)


def test_unknown_says_what_it_saw() -> None:
    assert told("invalidate_new_thing do_new_thing").why == "invalidate_new_thing() is in no rule"
    assert "no stack trace" in decide(()).why


def test_callers_are_functions_whatever_is_around_their_names() -> None:
    symbol = "write_protect_page.constprop.0+0x4ac/0x540 [kvm]"
    assert causes.function_of(symbol) == "write_protect_page"
    assert causes.function_of("[unknown/kretprobe'd]") is None


def test_a_caller_alone_does_not_tell_whose_write_it_was() -> None:
    caller = (Frame("wp_page_copy", Source.CALLER), Frame(causes.KNOWN_CALLER, Source.CALLER))
    assert decide(caller).cause is Cause.COW
    guest = (*caller, Frame("guest fault", Source.GUEST))
    assert decide(guest).cause is Cause.COW_GUEST
    host = (*caller, Frame(causes.NO_GUEST_FAULT, Source.OUTSIDE))
    assert decide(host).cause is Cause.COW_HOST
    forked = (*caller, Frame(causes.FORKED, Source.HISTORY), Frame("guest fault", Source.GUEST))
    assert decide(forked)[:2] == (Cause.COW_FORK, Confidence.LIKELY)


def test_an_enclosing_probe_does_not_tell_the_step_of_ksm() -> None:
    inside = (Frame("try_to_merge_one_page", Source.CALLS),)
    assert decide(inside).cause is Cause.KSM
    assert decide((*inside, Frame(causes.KSM_STEP, Source.CALLS))).cause is Cause.KSM_REPLACE


def test_ksm_merge() -> None:
    """N write-protected and N - 1 replaced of 32 pages, then 4 of each: 71 windows."""
    for name in ("6.1-tdp-ksm-merge", "6.12-tdp-ksm-merge", "6.1-stock-ksm-merge"):
        found = windows_of(audited(f"x86/{name}.txt.xz"))
        ksm = {cause: count for cause, count in found.items() if cause.group == "KSM"}
        assert ksm == {Cause.KSM_WRITE_PROTECT: 36, Cause.KSM_REPLACE: 35}


PAIRS = [
    ("6.1-tdp-ksm-merge.txt", "6.1-stock-ksm-merge.txt", set()),
    ("6.1-tdp-cow-break.txt", "6.1-stock-cow-break.txt", set()),
    ("6.1-tdp-cow-break.txt", "6.1-stock-cow-break.dat", set()),
    ("6.1-tdp-madvise.txt", "6.1-stock-madvise.txt", set()),
    # How often a huge page of its own is split differs from run to run of the hypervisor.
    ("6.12-tdp-cow-break.txt", "6.12-stock-cow-break.txt", {Cause.THP_SPLIT}),
    ("6.12-tdp-cow-break.txt", "6.12-stock-cow-break.dat", {Cause.THP_SPLIT}),
]


@pytest.mark.parametrize(("probed", "stock", "but"), PAIRS)
def test_stacks_and_probes_tell_the_same_causes(probed: str, stock: str, but: set[Cause]) -> None:
    left, right = (windows_of(audited(f"x86/{name}.xz")) for name in (probed, stock))
    assert {k: n for k, n in left.items() if k not in but} == {
        k: n for k, n in right.items() if k not in but
    }


def test_numa_causes_from_stacks_and_probes() -> None:
    """Other runs, of other lengths: the same causes, and the 64 pages that were moved once."""
    left, right = audited("x86/6.1-tdp-numa.txt.xz"), audited("x86/6.1-stock-numa.txt.xz")
    assert windows_of(left).keys() == windows_of(right).keys()
    for audit in (left, right):
        assert audit.totals.causes[Cause.MIGRATION].windows == 64
        assert audit.totals.migrated["syscall_or_cpuset"] == 64
    assert left.totals.causes[Cause.NUMA_MIGRATION].in_slot == 64
