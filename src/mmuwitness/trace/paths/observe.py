"""Where a trace shows the model's process code: kernel functions, tracepoints, their arguments.

A row of `CALLS` says which function of the kernel a function of the model stands for (the names are
mostly the same) and which arguments both have. To make another function observable, add a row.
What the fault handler of x86 shows besides, `Observer.at` says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from mmuwitness.model.state import Kind
from mmuwitness.trace.paths.graph import Mark, Word

Fields = Mapping[str, tuple[str, tuple[str, ...]]]
"""Path in the model -> (role, the names that the event's field may have)."""


@dataclass(frozen=True)
class Call:
    """model: a function of it. kernel: the functions that it stands for, outermost first.

    inlined: others that may be around what it calls; `Observer` says where they begin and end.
    tail_called: its frame may be missing in a stack although it was called.
    callers: functions that the model does not have, and may be around this one."""

    model: str
    enter: Fields = field(default_factory=dict)
    leave: Fields = field(default_factory=dict)
    kernel: tuple[str, ...] = ()
    inlined: tuple[str, ...] = ()
    tail_called: bool = False
    callers: tuple[str, ...] = ()


ADDRESS = ("addr", "address", "hva")
RET = ("ret", "retval")
PAGE: Fields = {"page": ("pointer", ("page",))}
PAGES: Fields = {"page": ("pointer", ("page",)), "kpage": ("pointer", ("kpage",))}
ADDR: Fields = {"addr": ("hva", ADDRESS)}
PTE: Fields = {"addr": ("hva", ADDRESS), "pte": ("pte", ("pte",))}
RANGE: Fields = {"start": ("hva", ("start",)), "end": ("hva_end", ("end",))}
GFNS: Fields = {
    "range.start": ("gfn", ("start", "gfn")),
    "range.end": ("gfn_end", ("end", "gend")),
}
DONE: Fields = {"result": ("errno", RET)}
CHANGED: Fields = {"result": ("flag", RET)}
NO_ERROR: Fields = {"start": ("zero", RET)}
LOOKED_UP: Fields = {"fault.gfn": ("hva", ADDRESS)}
FOUND: Fields = {"fault.page": ("pfn", ("pfn", *RET))}
MAPPED: Fields = {
    "fault.gfn": ("gfn", ("gfn",)),
    "fault.page": ("pfn", ("pfn",)),
    "fault.map_writable": ("flag", ("map_writable",)),
    "fault.write": ("flag", ("write",)),
}
FAULT: Fields = {"fault.gfn": ("faulting", ADDRESS)}
SPTE_GFN: Fields = {**GFNS, "range.arg_pte": ("pte", ("pte",))}

LOOK_UP = (
    *("handle_mm_fault", "hva_to_pfn", "kvm_faultin_pfn"),
    *("direct_page_fault", "kvm_tdp_page_fault", "paging64_page_fault"),
)

MADVISE = ("do_madvise", "madvise_vma_behavior")
MKCLEAN = ("page_mkclean_one",)
CALLERS_ONLY = frozenset((*MADVISE, *MKCLEAN))
"""Known as callers, where what they call is inlined: a call of theirs is no part of a process."""

# fmt: off
ROWS = (
    # mm/ksm.c
    Call("try_to_merge_with_ksm_page", PAGES, DONE, ("try_to_merge_with_ksm_page",)),
    Call("try_to_merge_one_page", PAGES, DONE, ("try_to_merge_one_page",)),
    Call("write_protect_page", PAGE, {"result.0": ("errno", RET)}, ("write_protect_page",)),
    Call("replace_page", PAGES, DONE, ("replace_page",)),
    # mm/memory.c
    Call("handle_mm_fault", ADDR, {}, ("handle_mm_fault",), tail_called=True),
    Call("do_wp_page", ADDR, {}, ("do_wp_page",), tail_called=True),
    Call("wp_page_copy", ADDR, {}, ("wp_page_copy",)),
    Call("zap_page_range_single", kernel=("zap_page_range_single",), callers=("do_madvise",)),
    Call("unmap_vmas", kernel=("unmap_vmas",), callers=("unmap_region", "exit_mmap")),
    # the last user of the address space may be any task, which a probe's filter hides
    Call("exit_mmap", inlined=("unmap_vmas",)),
    Call("copy_page_range", kernel=("copy_page_range",), callers=("dup_mmap",)),
    # mm/madvise.c, mm/khugepaged.c
    Call("madvise_free_single_vma", kernel=("madvise_free_single_vma",), inlined=MADVISE),
    Call("collapse_huge_page", ADDR, {}, ("collapse_huge_page",)),
    # mm/mprotect.c, mm/mremap.c, mm/huge_memory.c, mm/rmap.c
    Call("change_protection", kernel=("change_protection",), inlined=("change_pmd_range",),
         callers=("change_prot_numa", "task_numa_work")),
    Call("move_page_tables", kernel=("move_page_tables",)),
    Call("__split_huge_pmd", kernel=("__split_huge_pmd",)),
    Call("try_to_unmap_one", ADDR, {}, ("try_to_unmap_one",)),
    Call("page_vma_mkclean_one", kernel=("page_vma_mkclean_one",), inlined=MKCLEAN),
    Call("try_to_migrate_one", ADDR, {}, ("try_to_migrate_one",), callers=LOOK_UP),
    # mm/mmu_notifier.c, mm/pgtable-generic.c
    Call("mmu_notifier_invalidate_range_start", RANGE, NO_ERROR,
         ("__mmu_notifier_invalidate_range_start",)),
    Call("mmu_notifier_invalidate_range_end", RANGE, {}, ("__mmu_notifier_invalidate_range_end",)),
    Call("mmu_notifier_change_pte", PTE, {}, ("__mmu_notifier_change_pte",)),
    Call("ptep_clear_flush", ADDR, {}, ("ptep_clear_flush",)),
    # virt/kvm/kvm_main.c
    Call("kvm_mmu_notifier_invalidate_range_start", RANGE, NO_ERROR,
         ("kvm_mmu_notifier_invalidate_range_start",)),
    Call("kvm_mmu_notifier_invalidate_range_end", RANGE, {},
         ("kvm_mmu_notifier_invalidate_range_end",)),
    Call("kvm_mmu_notifier_change_pte", PTE, {}, ("kvm_mmu_notifier_change_pte",)),
    Call("kvm_mmu_invalidate_end", {}, {}, ("kvm_mmu_invalidate_end",)),
    Call("hva_to_pfn", LOOKED_UP, FOUND, ("hva_to_pfn",)),
    # arch/x86/kvm/mmu/
    Call("kvm_unmap_gfn_range", GFNS, CHANGED,
         ("kvm_unmap_gfn_range", "kvm_tdp_mmu_unmap_gfn_range")),
    Call("kvm_set_spte_gfn", SPTE_GFN, CHANGED, ("kvm_set_spte_gfn", "kvm_tdp_mmu_set_spte_gfn")),
    Call("page_fault", FAULT, {},
         ("paging64_page_fault", "kvm_tdp_page_fault", "direct_page_fault"),
         inlined=("kvm_faultin_pfn",), tail_called=True),
    Call("tdp_mmu_map_handle_target_level", MAPPED, {}, ("kvm_tdp_mmu_map",)),
    Call("kvm_mmu_notifier_release",
         callers=("kvm_mmu_zap_all", "kvm_destroy_vm", "kvm_arch_flush_shadow_memslot")),
    Call("direct_pte_prefetch", inlined=("paging64_pte_prefetch", "paging64_prefetch_gpte")),
)
# fmt: on
CALLS = {row.model: row for row in ROWS}

SPTE_REQUESTED: Fields = {"fault.gfn": ("gfn", ("gfn",)), "fault.page": ("pfn", ("pfn",))}
"""kvm_mmu_spte_requested: what a fault is about to install."""

INSTALLED_BEFORE: Fields = {
    "fault.gfn": ("gfn", ("gfn",)),
    "fault.page": ("spte_page", ("spte",)),
}
"""kvm_mmu_set_spte of a fault that finds what it wants installed."""

STORED: Fields = {"element": ("gfn", ("gfn",)), "value": ("spte", ("new_spte", "spte"))}
"""A leaf that is stored: its number, its value."""

TOLD_BY_CALLER = frozenset(
    (
        *("zap_page_range_single", "unmap_vmas", "copy_page_range", "change_protection"),
        *("change_pmd_range", "move_page_tables", "__split_huge_pmd", "try_to_migrate_one"),
        *("madvise_free_single_vma", "collapse_huge_page", "try_to_unmap_one"),
        *("page_vma_mkclean_one", *CALLERS_ONLY),
    )
)
"""Functions that open windows which differ in little else."""

WINDOWS_OF = TOLD_BY_CALLER.union(
    ("write_protect_page", "replace_page", "try_to_merge_one_page", "wp_page_copy")
)
"""Functions of the model that open windows."""

CLEAR = 1
EVENTS = {
    "unmap_vmas": 0,
    "exit_mmap": 0,
    "move_page_tables": 0,
    "change_protection": 2,
    "copy_page_range": 3,
    "page_vma_mkclean_one": 3,
}
"""enum mmu_notifier_event of the windows of a function: UNMAP, PROTECTION_VMA, PROTECTION_PAGE; of
all others CLEAR."""

WANTED: dict[str, tuple[str, ...]] = {
    **{name: (*row.enter, *row.leave) for name, row in CALLS.items()},
    "map": ("fault.gfn", "fault.page"),
    "install": ("fault.gfn", "fault.page", "fault.map_writable", "fault.permission"),
    "get_user_page_fast_only": ("addr", "result"),
}

TRACEPOINTS: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "kvm_page_fault": (("faulting", ("fault_address", "address")),),
    "kvm_unmap_hva_range": (("hva", ("start",)), ("hva_end", ("end",))),
    "kvm_set_spte_hva": (("hva", ADDRESS),),
    "mm_collapse_huge_page": (("flag", ("isolated",)),),
}
"""Roles of the arguments of trace() in the model."""

SPTE_TRACEPOINTS = ("kvm_mmu_spte_requested", "kvm_tdp_mmu_spte_changed", "kvm_mmu_set_spte")

GUEST_FAULT, ABORT = "kvm_guest_fault", "kvm_handle_guest_abort"
UNMAP = "kvm_pgtable_stage2_unmap"

STAGE2 = frozenset(
    ("kvm_pgtable_stage2_map", UNMAP, "kvm_pgtable_stage2_relax_perms", ABORT),
)
"""Functions of arm64 that `observe_arm64` shows."""

FUNCTIONS = STAGE2.union(n for row in CALLS.values() for n in (*row.kernel, *row.inlined))
"""The kernel functions that the model has."""

CALLERS = {name: row.callers for row in ROWS for name in (row.model, *row.kernel)}
"""Functions that the model does not have, by those of the kernel that they may call."""

OUTSIDE = frozenset(name for callers in CALLERS.values() for name in callers) - FUNCTIONS

MODELLED = FUNCTIONS | TRACEPOINTS.keys() | {*SPTE_TRACEPOINTS, GUEST_FAULT}


class Check(NamedTuple):
    """A field that the event and the model both have, if the event has it."""

    role: str
    names: tuple[str, ...]
    word: Word | str
    kind: Kind | None


@dataclass(frozen=True)
class Label:
    """What the trace has to show next; frames: the kernel functions around, outermost first."""

    what: str  # "enter", "leave", "trace"
    name: str
    checks: tuple[Check, ...]
    frames: tuple[str, ...]
    repeats: int = 0  # it and what comes behind it, so many labels, may come again and again

    def __str__(self) -> str:
        return {"enter": "{}()", "leave": "return from {}()", "trace": "{}"}[self.what].format(
            self.name
        )


Observed = tuple[tuple[Label, ...], str]
"""Labels in their order, and the outcome of the fault behind them."""


class Observer:
    """What a mark shows on one MMU: "tdp", "rmap" (on nested paging) or "shadow"."""

    def __init__(self, mmu: str, sizes: dict[str, int]) -> None:
        self.mmu, self.sizes = mmu, sizes

    def at(
        self, mark: Mark, value: Callable[[Any], Word], outcome: str
    ) -> Iterator[tuple[tuple[Label, ...], str]]:
        """The ways in which this mark may show, each with the outcome behind it."""
        words = {n: (value(w), kind) for n, (w, kind) in mark.fields.items()}
        frames = tuple(name for f in mark.frames for name in kernel_names(f))
        special = getattr(self, f"{mark.what}_{mark.name.replace('.', '_')}", None)
        if special is not None:
            yield from special(mark, words, frames, outcome)
        elif mark.what == "trace":
            yield (self.tracepoint(mark, words, frames),), outcome
        elif mark.what in ("enter", "leave") and mark.name in CALLS:
            yield self.call(mark, words), outcome
        else:
            yield (), outcome

    # -- functions and tracepoints -------------------------------------------------------------

    def call(self, mark: Mark, words: Any) -> tuple[Label, ...]:
        """The labels of a call or a return: its wrappers, too."""
        row = CALLS[mark.name]
        fields = row.enter if mark.what == "enter" else row.leave
        outer = tuple(name for f in mark.frames[:-1] for name in kernel_names(f))
        checks = tuple(Check(r, n, *words[p]) for p, (r, n) in fields.items() if p in words)
        if mark.what == "enter" and mark.name.endswith("invalidate_range_start"):
            event = next((EVENTS[f] for f in mark.frames if f in EVENTS), CLEAR)
            checks += (Check("number", ("event", "ev"), event, None),)
        labels = [
            Label(mark.what, name, checks, outer + row.kernel[:depth])
            for depth, name in enumerate(row.kernel)
        ]
        return tuple(labels if mark.what == "enter" else reversed(labels))

    def tracepoint(self, mark: Mark, words: Any, frames: tuple[str, ...]) -> Label:
        roles = TRACEPOINTS.get(mark.name, ())
        checks = tuple(
            Check(role, names, *words[str(position)])
            for position, (role, names) in enumerate(roles)
        )
        return Label("trace", mark.name, checks, frames)

    # -- the fault handlers of x86 --------------------------------------------------------------

    def enter_page_fault(self, mark: Mark, words: Any, frames: Any, _: str) -> Iterator[Observed]:
        yield self.call(mark, words), ""

    def leave_hva_to_pfn(self, mark: Mark, words: Any, frames: Any, _: str) -> Iterator[Observed]:
        page = words["fault.page"][0]
        yield self.call(mark, words), "error" if page == 0 else ""

    def enter_direct_page_fault(
        self, mark: Mark, words: Any, frames: Any, _: str
    ) -> Iterator[Observed]:
        """kvm_faultin_pfn() is behind: the pfn is known, and no window was seen to be open."""
        yield (leaves("kvm_faultin_pfn", "continue", frames),), "retry"

    def leave_page_fault(
        self, mark: Mark, words: Any, frames: Any, outcome: str
    ) -> Iterator[Observed]:
        known = outcome or "retry"
        row = CALLS["page_fault"]
        labels = []
        if outcome in ("", "error"):
            faulted = "failed" if outcome else "retry"
            labels.append(leaves("kvm_faultin_pfn", faulted, frames))
        labels += [leaves(name, known, frames) for name in reversed(row.kernel)]
        yield tuple(labels), ""

    def enter_tdp_mmu_map_handle_target_level(
        self, mark: Mark, words: Any, frames: Any, _: str
    ) -> Iterator[Observed]:
        requested = self.spte_label("kvm_mmu_spte_requested", SPTE_REQUESTED, words, frames)
        yield (*self.call(mark, words), requested), "retry"

    def leave_tdp_mmu_map_handle_target_level(
        self, mark: Mark, words: Any, frames: Any, outcome: str
    ) -> Iterator[Observed]:
        """Installed; or another vCPU was faster: the cmpxchg failed, or it installed the same."""
        last = leaves("kvm_tdp_mmu_map", outcome, frames)
        if outcome == "fixed":
            yield (last,), outcome
            return
        yield (leaves("kvm_tdp_mmu_map", "retry", frames),), "retry"
        installed = self.spte_label("kvm_mmu_set_spte", INSTALLED_BEFORE, words, frames)
        yield (installed, leaves("kvm_tdp_mmu_map", "spurious", frames)), "spurious"

    def enter_map(self, mark: Mark, words: Any, frames: Any, outcome: str) -> Iterator[Observed]:
        if self.mmu == "tdp":
            yield (), outcome
        else:
            label = self.spte_label("kvm_mmu_spte_requested", SPTE_REQUESTED, words, frames)
            yield (label,), outcome

    def enter_get_user_page_fast_only(
        self, mark: Mark, words: Any, frames: Any, outcome: str
    ) -> Iterator[Observed]:
        """Prefetching shadow pages looks each neighbour up by hva_to_pfn(atomic)."""
        checks = (Check("hva", ADDRESS, *words["addr"]),)
        yield self.prefetch(mark, Label("enter", "hva_to_pfn", checks, frames)), outcome

    def leave_get_user_page_fast_only(
        self, mark: Mark, words: Any, frames: Any, outcome: str
    ) -> Iterator[Observed]:
        checks = (Check("pfn", ("pfn", *RET), *words["result"]),)
        yield self.prefetch(mark, Label("leave", "hva_to_pfn", checks, frames)), outcome

    def prefetch(self, mark: Mark, label: Label) -> tuple[Label, ...]:
        inside = self.mmu == "shadow" and mark.frames[-2] == "direct_pte_prefetch"
        return (label,) if inside else ()

    def store_KVM_spte(
        self, mark: Mark, words: Any, frames: Any, outcome: str
    ) -> Iterator[Observed]:
        """A leaf is stored: the TDP MMU traces every change, the others what a fault installs."""
        changed = self.spte_label("kvm_tdp_mmu_spte_changed", STORED, words, frames)
        installed = self.spte_label("kvm_mmu_set_spte", STORED, words, frames)
        labels = (changed,) if self.mmu == "tdp" else ()
        if mark.frames[-1] == "map":
            yield (*labels, installed), "fixed"
            if self.mmu != "tdp":
                yield (), "spurious"  # the SPTE was that already
        elif mark.frames[-1] == "direct_pte_prefetch":
            yield (installed,), outcome
        else:
            yield labels, outcome

    def spte_label(self, name: str, fields: Fields, words: Any, frames: Any) -> Label:
        checks = tuple(Check(role, names, *words[path]) for path, (role, names) in fields.items())
        return Label("trace", name, checks, frames)


def kernel_names(model: str) -> tuple[str, ...]:
    """The kernel's names for a function of the model."""
    row = CALLS.get(model)
    return (*row.kernel, *row.inlined) if row else (model,)


EXIT = "exit"
"""The process whose window is over the whole address space."""

EMULATED = "access outside of every memslot (MMIO)"
"""The process of a guest whose accesses go to the VMM."""

RELEASE = "page tables freed: the VM's end, a memslot"
"""The process that zaps outside of every window."""

RUN_ROLES = {
    "hva": "run_hva",
    "hva_end": "run_hva_end",
    "gfn": "run_gfn",
    "gfn_end": "run_gfn_end",
    "ipa": "run_ipa",
    "pages": "run_pages",
}


def of_run(label: Label, process: str) -> Label:
    """The label where an address stands for a run of pages, and a leaf for theirs."""
    stored = label.name == "kvm_tdp_mmu_spte_changed"
    roles = RUN_ROLES | ({"gfn": "run_leaf"} if stored else {})
    if process == EXIT:
        roles["hva_end"] = "address_max"
    around = (*label.frames, label.name)
    window = ("of", next((f for f in reversed(around) if f in WINDOWS_OF), ""))
    checks = tuple(
        Check(roles[c.role], c.names, window, None) if c.role in roles else c for c in label.checks
    )
    repeats = 1 if stored else 2 if label.name == UNMAP and label.what == "enter" else 0
    return replace(label, checks=checks, repeats=repeats)


def leaves(name: str, outcome: str, frames: tuple[str, ...]) -> Label:
    """The return of a function of the fault handler with what the fault came to."""
    return Label("leave", name, (Check("outcome", RET, outcome, None),), frames)
