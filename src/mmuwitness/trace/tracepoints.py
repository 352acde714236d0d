"""The tracepoints and probed functions that say something about MMU notifiers, one a row.

To read another one, add a row. A tracepoint is found by its name, a probe by the function that it
is on: the event of a probe is named as its author liked. `prints` is how the kernel prints the
event in text (TP_printk of include/trace/events/, arch/x86/kvm/mmu/mmutrace.h ...); the first one
that fits the whole payload counts.

    {gfn:hex}     UInt64, hexadecimal digits, with or without 0x
    {ret:dec}     Int64, decimal
    {level:udec}  UInt64, decimal: of an unsigned type in the format file
    {mode:word}   String without blanks
    {role:text}   String up to the literal that follows, or to the end
    {reason:symbol}  a number in the ring buffer, printed by name (__print_symbolic, __print_flags):
                  String as printed, may hold blanks or be empty
    {:word}       printed, and not kept: it can be had from the other fields

Field names are those of the format files. `facts` says which of them mean what in `facts.py`; names
that mean the same everywhere are in `NAMES`. `ipa>>12` is the field `ipa` shifted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, auto


class Kind(IntEnum):
    """What an event tells."""

    # mm/mmu_notifier.c, called by whoever changes page tables
    MN_START = auto()
    MN_START_RET = auto()
    MN_END = auto()
    MN_END_RET = auto()
    MN_INVALIDATE = auto()  # invalidate_range(), arch_invalidate_secondary_tlbs()
    MN_CHANGE_PTE = auto()
    MN_CHANGE_PTE_RET = auto()
    # virt/kvm/kvm_main.c, what KVM does about it
    KVM_START = auto()
    KVM_START_RET = auto()
    KVM_END = auto()
    KVM_END_RET = auto()
    KVM_INVALIDATE = auto()
    KVM_CHANGE_PTE = auto()
    KVM_CHANGE_PTE_RET = auto()
    UNMAP_HVA = auto()  # tracepoint kvm_unmap_hva_range: in every start of KVM
    SET_SPTE_HVA = auto()  # tracepoint kvm_set_spte_hva: in every change_pte of KVM
    AGE_HVA = auto()
    # arch/*/kvm, per memslot
    UNMAP_GFN = auto()
    UNMAP_GFN_RET = auto()  # x86: whether something was zapped
    SET_SPTE_GFN = auto()
    SET_SPTE_GFN_RET = auto()
    TDP_UNMAP_GFN = auto()
    TDP_UNMAP_GFN_RET = auto()
    TDP_SET_SPTE_GFN = auto()
    TDP_SET_SPTE_GFN_RET = auto()
    STAGE2_UNMAP = auto()
    STAGE2_UNMAP_RET = auto()
    SPTE_CHANGED = auto()  # x86 TDP MMU: any SPTE, by anyone
    SET_SPTE = auto()  # x86: a fault installed a leaf
    SPTE_STORE = auto()  # arm64: a probe on the instruction that stores a leaf
    SPTE_REQUESTED = auto()
    ZAP_PAGE_TABLE = auto()  # x86 kvm_mmu_prepare_zap_page
    ZAP_ALL = auto()  # x86 kvm_mmu_zap_all_fast: a memslot is deleted or moved
    # a guest's fault
    EXIT = auto()
    ENTRY = auto()
    USER_EXIT = auto()
    PAGE_FAULT = auto()
    FAULT = auto()  # the handler is entered
    FAULT_RET = auto()
    FAST_FAULT = auto()
    FAULTIN = auto()
    FAULTIN_RET = auto()
    HVA_TO_PFN = auto()
    HVA_TO_PFN_RET = auto()
    MAP = auto()
    MAP_RET = auto()
    STAGE2_MAP = auto()  # of a fault or, with memcache 0, of change_pte
    STAGE2_MAP_RET = auto()
    RELAX = auto()
    RELAX_RET = auto()
    # who and why
    CALL = auto()  # a function of mm/ or kvm that has no kind of its own
    RETURN = auto()
    KSM_MERGE = auto()
    KSM_SCAN = auto()
    MIGRATE_START = auto()
    MIGRATE_END = auto()
    SET_MIGRATION_PTE = auto()
    REMOVE_MIGRATION_PTE = auto()
    COLLAPSE = auto()
    SYSCALL_ENTER = auto()
    SYSCALL_EXIT = auto()
    HOST_FAULT = auto()
    MARK = auto()  # what user space wrote into trace_marker


@dataclass(frozen=True)
class Tracepoint:
    """An event of the kernel's own."""

    name: str
    kind: Kind | None  # None: read and kept in its table, tells no fact
    prints: tuple[str, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Probe:
    """A function that people put kprobes, kretprobes or fprobes on; arguments go by name."""

    function: str
    entry: Kind = Kind.CALL
    returns: Kind = Kind.RETURN
    facts: Mapping[str, str] = field(default_factory=dict)


# What a field of this name is in any probe or tracepoint; a row's own `facts` come first.
NAMES: Mapping[str, tuple[str, ...]] = {
    "start": ("start",),
    "end": ("end",),
    "mm": ("mm",),
    "mn": ("mn", "subscription"),
    "vm": ("kvm", "vm"),
    "address": ("addr", "address", "hva"),
    "gfn": ("gfn",),
    "gfn_end": ("gend", "gfn_end"),
    "pfn": ("pfn",),
    "old": ("old", "old_spte", "old_pte"),
    "new": ("new", "new_spte", "new_pte", "pte"),
    "level": ("level",),
    "ret": ("ret", "retval"),
    "flags": ("flags",),
    "event_type": ("event", "ev", "event_type"),
    "seq": ("seq", "mmu_seq", "mmu_invalidate_seq", "mmu_notifier_seq"),
    "in_progress": ("inprog", "in_progress", "mmu_invalidate_in_progress", "mmu_notifier_count"),
    "active": ("active", "mn_active", "mn_active_invalidate_count"),
    "range_start": ("rs", "range_start", "mmu_invalidate_range_start"),
    "range_end": ("re", "range_end", "mmu_invalidate_range_end"),
    "memcache": ("mc", "memcache"),
    "slot": ("slot",),
    "size": ("size",),
    "vcpu": ("vcpu_id",),
    "reason": ("reason", "exit_reason"),
    "error_code": ("error_code",),
    "fixed": ("fixed",),
    "text": ("text",),
}
_GFNS = {"gfn": "start", "gfn_end": "end", "start": "", "end": ""}
_IPA = {"gfn": "ipa>>12", "pfn": "phys>>12"}
_PAGE_ROLE = "sp gen {mmu_valid_gen:udec} gfn {gfn:hex} l{:word} {:text} root {root_count:udec}"

TRACEPOINTS = (
    # include/trace/events/kvm.h
    Tracepoint(
        "kvm_unmap_hva_range",
        Kind.UNMAP_HVA,
        ("mmu notifier unmap range: {start:hex} -- {end:hex}",),
    ),
    Tracepoint(
        "kvm_set_spte_hva",  # until v6.9
        Kind.SET_SPTE_HVA,
        ("mmu notifier set pte hva: {hva:hex}",),
    ),
    Tracepoint("kvm_age_hva", Kind.AGE_HVA, ("mmu notifier age hva: {start:hex} -- {end:hex}",)),
    Tracepoint("kvm_test_age_hva", Kind.AGE_HVA, ("mmu notifier test age hva: {hva:hex}",)),
    Tracepoint("kvm_userspace_exit", Kind.USER_EXIT, ("reason {reason:symbol} ({:text})",)),
    Tracepoint(
        "kvm_mmio", None, ("mmio {type:symbol} len {len:udec} gpa {gpa:hex} val {val:hex}",)
    ),
    Tracepoint("kvm_dirty_ring_exit", None, ("vcpu {vcpu_id:dec}",)),
    Tracepoint("kvm_try_async_get_page", None, ("gva = {gva:hex}, gfn = {gfn:hex}",)),
    Tracepoint("kvm_async_pf_not_present", None, ("token {token:hex} gva {gva:hex}",)),
    Tracepoint("kvm_async_pf_ready", None, ("token {token:hex} gva {gva:hex}",)),
    Tracepoint("kvm_async_pf_completed", None, ("gva {gva:hex} address {address:hex}",)),
    # arch/x86/kvm/trace.h, arch/arm64/kvm/trace_arm.h
    Tracepoint(
        "kvm_entry",
        Kind.ENTRY,
        (
            "vcpu {vcpu_id:udec}, rip {rip:hex}",
            "vcpu {vcpu_id:udec}, rip {rip:hex}[immediate exit]",
            "vcpu {vcpu_id:udec}",  # until v5.9
            "PC: {vcpu_pc:hex}",
        ),
    ),
    Tracepoint(
        "kvm_exit",
        Kind.EXIT,
        (
            "vcpu {vcpu_id:udec} reason {exit_reason:symbol} rip {guest_rip:hex} info1 {info1:hex} "
            "info2 {info2:hex} intr_info {intr_info:hex} error_code {error_code:hex}",
            "reason {exit_reason:symbol} rip {guest_rip:hex} info {info1:hex} {info2:hex}",
            "{ret:symbol}: HSR_EC: {esr_ec:hex} ({:text}), PC: {vcpu_pc:hex}",
        ),
    ),
    Tracepoint(
        "kvm_page_fault",
        Kind.PAGE_FAULT,
        (
            "vcpu {vcpu_id:udec} rip {guest_rip:hex} address {fault_address:hex} "
            "error_code {error_code:hex}",
            "address {fault_address:hex} error_code {error_code:hex}",  # until v5.18
        ),
        {"address": "fault_address", "gfn": "fault_address>>12"},
    ),
    Tracepoint(
        "kvm_guest_fault",
        Kind.PAGE_FAULT,
        ("ipa {ipa:hex}, hsr {hsr:hex}, hxfar {hxfar:hex}, pc {vcpu_pc:hex}",),
        {"address": "ipa", "gfn": "ipa>>12", "error_code": "hsr"},
    ),
    Tracepoint("kvm_access_fault", None, ("IPA: {ipa:hex}",)),
    Tracepoint(
        "kvm_apicv_inhibit_changed",
        None,
        ("{set:symbol} reason={reason:dec}, inhibits={inhibits:hex}{:text}",),
    ),
    # arch/x86/kvm/mmu/mmutrace.h
    Tracepoint(
        "kvm_mmu_spte_requested",
        Kind.SPTE_REQUESTED,
        ("gfn {gfn:hex} pfn {pfn:hex} level {level:udec}",),
    ),
    Tracepoint(
        "kvm_mmu_set_spte",
        Kind.SET_SPTE,
        ("gfn {gfn:hex} spte {spte:hex} ({:word}) level {level:udec} at {sptep:hex}",),
        {"new": "spte"},
    ),
    Tracepoint(
        "kvm_tdp_mmu_spte_changed",
        Kind.SPTE_CHANGED,
        (
            "as id {as_id:udec} gfn {gfn:hex} level {level:udec} old_spte {old_spte:hex} "
            "new_spte {new_spte:hex}",
        ),
        {"slot": "as_id"},
    ),
    Tracepoint(
        "fast_page_fault",
        Kind.FAST_FAULT,
        (
            "vcpu {vcpu_id:dec} gva {cr2_or_gpa:hex} error_code {error_code:symbol} "
            "sptep {sptep:hex} old {old_spte:hex} new {new_spte:hex} "
            "spurious {spurious:dec} fixed {fixed:dec}",
        ),
        {"address": "cr2_or_gpa", "gfn": "cr2_or_gpa>>12", "error_code": ""},
    ),
    Tracepoint("kvm_mmu_get_page", None, (_PAGE_ROLE + " {:text}",)),
    Tracepoint("kvm_mmu_sync_page", None, (_PAGE_ROLE + " {:text}",)),
    Tracepoint("kvm_mmu_unsync_page", None, (_PAGE_ROLE + " {:text}",)),
    Tracepoint("kvm_mmu_prepare_zap_page", Kind.ZAP_PAGE_TABLE, (_PAGE_ROLE + " {:text}",)),
    Tracepoint(
        "kvm_mmu_zap_all_fast",
        Kind.ZAP_ALL,
        ("kvm-mmu-valid-gen {mmu_valid_gen:udec} used_pages {mmu_used_pages:hex}",),
    ),
    Tracepoint(
        "kvm_mmu_split_huge_page",
        None,
        ("gfn {gfn:hex} spte {spte:hex} level {level:dec} errno {errno:dec}",),
    ),
    Tracepoint(
        "mark_mmio_spte",
        None,
        ("sptep:{sptep:hex} gfn {gfn:hex} access {access:hex} gen {gen:hex}",),
    ),
    Tracepoint(
        "handle_mmio_page_fault", None, ("addr:{addr:hex} gfn {gfn:hex} access {access:hex}",)
    ),
    Tracepoint(
        "check_mmio_spte",
        None,
        ("spte {spte:hex} kvm_gen {kvm_gen:hex} spte-gen {spte_gen:hex} valid {:dec}",),
    ),
    Tracepoint("kvm_mmu_pagetable_walk", None, ("addr {addr:hex} pferr {pferr:hex} {:text}",)),
    Tracepoint("kvm_mmu_paging_element", None, ("pte {pte:hex} level {level:udec}",)),
    Tracepoint("kvm_mmu_walker_error", None, ("pferr {pferr:hex} {:text}",)),
    Tracepoint("kvm_mmu_set_accessed_bit", None, ("gpa {gpa:hex}",)),
    Tracepoint("kvm_mmu_set_dirty_bit", None, ("gpa {gpa:hex}",)),
    # include/trace/events/ksm.h, since v6.4
    Tracepoint("ksm_start_scan", Kind.KSM_SCAN, ("seq {seq:dec} rmap size {rmap_entries:udec}",)),
    Tracepoint("ksm_stop_scan", Kind.KSM_SCAN, ("seq {seq:dec} rmap size {rmap_entries:udec}",)),
    Tracepoint("ksm_enter", None, ("mm {mm:hex}",)),
    Tracepoint("ksm_exit", None, ("mm {mm:hex}",)),
    Tracepoint(
        "ksm_merge_one_page",
        Kind.KSM_MERGE,
        ("ksm pfn {pfn:udec} rmap_item {rmap_item:hex} mm {mm:hex} error {err:dec}",),
        {"ret": "err"},
    ),
    Tracepoint(
        "ksm_merge_with_ksm_page",
        Kind.KSM_MERGE,
        (
            "pfn {pfn:udec} rmap_item {rmap_item:hex} mm {mm:hex} error {err:dec}",
            "ksm pfn {pfn:udec} rmap_item {rmap_item:hex} mm {mm:hex} error {err:dec}",
        ),
        {"ret": "err"},
    ),
    Tracepoint("ksm_remove_ksm_page", None, ("pfn {pfn:udec}",)),
    Tracepoint(
        "ksm_remove_rmap_item", None, ("pfn {pfn:udec} rmap_item {rmap_item:hex} mm {mm:hex}",)
    ),
    Tracepoint(
        "ksm_advisor",
        None,
        (
            "ksm scan time {scan_time:dec} pages_to_scan {pages_to_scan:udec} "
            "cpu percent {cpu_percent:udec}",
        ),
    ),
    # include/trace/events/migrate.h, huge_memory.h
    Tracepoint(
        "mm_migrate_pages_start", Kind.MIGRATE_START, ("mode={mode:symbol} reason={reason:symbol}",)
    ),
    Tracepoint(
        "mm_migrate_pages",
        Kind.MIGRATE_END,
        (
            "nr_succeeded={succeeded:udec} nr_failed={failed:udec} "
            "nr_thp_succeeded={thp_succeeded:udec} nr_thp_failed={thp_failed:udec} "
            "nr_thp_split={thp_split:udec} mode={mode:symbol} reason={reason:symbol}",
            "nr_succeeded={succeeded:udec} nr_failed={failed:udec} "
            "nr_thp_succeeded={thp_succeeded:udec} nr_thp_failed={thp_failed:udec} "
            "nr_thp_split={thp_split:udec} nr_split={large_folio_split:udec} "
            "mode={mode:symbol} reason={reason:symbol}",
        ),
        {"ret": "succeeded"},
    ),
    Tracepoint(
        "set_migration_pte",
        Kind.SET_MIGRATION_PTE,
        ("addr={addr:hex}, pte={pte:hex} order={order:dec}",),
    ),
    Tracepoint(
        "remove_migration_pte",
        Kind.REMOVE_MIGRATION_PTE,
        ("addr={addr:hex}, pte={pte:hex} order={order:dec}",),
    ),
    Tracepoint(
        "mm_khugepaged_scan_pmd",
        None,
        (
            "mm={mm:hex}, scan_pfn={pfn:hex}, writable={writable:udec}, "
            "referenced={referenced:dec}, none_or_zero={none_or_zero:dec}, "
            "status={status:symbol}, unmapped={unmapped:dec}",
        ),
    ),
    Tracepoint(
        "mm_collapse_huge_page",
        Kind.COLLAPSE,
        ("mm={mm:hex}, isolated={isolated:dec}, status={status:symbol}",),
    ),
    # arch/x86/include/asm/trace/exceptions.h
    Tracepoint(
        "page_fault_user",
        Kind.HOST_FAULT,
        ("address={address:hex} ip={ip:hex} error_code={error_code:hex}",),
    ),
    # kernel/trace: what user space writes to trace_marker; trace-cmd calls it `print`
    Tracepoint("tracing_mark_write", Kind.MARK),
    Tracepoint("print", Kind.MARK, (), {"text": "buf"}),
)

PROBES = (
    # mm/mmu_notifier.c
    Probe("__mmu_notifier_invalidate_range_start", Kind.MN_START, Kind.MN_START_RET),
    Probe("__mmu_notifier_invalidate_range_end", Kind.MN_END, Kind.MN_END_RET),
    Probe("__mmu_notifier_invalidate_range", Kind.MN_INVALIDATE),  # until v6.5
    Probe("__mmu_notifier_arch_invalidate_secondary_tlbs", Kind.MN_INVALIDATE),
    Probe("__mmu_notifier_change_pte", Kind.MN_CHANGE_PTE, Kind.MN_CHANGE_PTE_RET),
    # virt/kvm/kvm_main.c
    Probe("kvm_mmu_notifier_invalidate_range_start", Kind.KVM_START, Kind.KVM_START_RET),
    Probe("kvm_mmu_notifier_invalidate_range_end", Kind.KVM_END, Kind.KVM_END_RET),
    Probe("kvm_mmu_notifier_invalidate_range", Kind.KVM_INVALIDATE),
    Probe("kvm_mmu_notifier_change_pte", Kind.KVM_CHANGE_PTE, Kind.KVM_CHANGE_PTE_RET),
    Probe("hva_to_pfn", Kind.HVA_TO_PFN, Kind.HVA_TO_PFN_RET),
    # arch/*/kvm
    Probe("kvm_unmap_gfn_range", Kind.UNMAP_GFN, Kind.UNMAP_GFN_RET, _GFNS),
    Probe("kvm_set_spte_gfn", Kind.SET_SPTE_GFN, Kind.SET_SPTE_GFN_RET, _GFNS),
    Probe("kvm_tdp_mmu_unmap_gfn_range", Kind.TDP_UNMAP_GFN, Kind.TDP_UNMAP_GFN_RET, _GFNS),
    Probe("kvm_tdp_mmu_set_spte_gfn", Kind.TDP_SET_SPTE_GFN, Kind.TDP_SET_SPTE_GFN_RET, _GFNS),
    Probe("kvm_age_gfn", facts=_GFNS),
    # the handlers of a guest's fault; kvm_tdp_page_fault() calls direct_page_fault()
    Probe("kvm_tdp_page_fault", Kind.FAULT, Kind.FAULT_RET),
    Probe("direct_page_fault", Kind.FAULT, Kind.FAULT_RET),
    Probe("paging64_page_fault", Kind.FAULT, Kind.FAULT_RET),
    Probe("paging32_page_fault", Kind.FAULT, Kind.FAULT_RET),
    Probe("nonpaging_page_fault", Kind.FAULT, Kind.FAULT_RET),
    Probe("ept_page_fault", Kind.FAULT, Kind.FAULT_RET),
    Probe("kvm_handle_guest_abort", Kind.FAULT, Kind.FAULT_RET),
    Probe("kvm_faultin_pfn", Kind.FAULTIN, Kind.FAULTIN_RET),
    Probe("kvm_mmu_faultin_pfn", Kind.FAULTIN, Kind.FAULTIN_RET),
    Probe("kvm_tdp_mmu_map", Kind.MAP, Kind.MAP_RET),
    # arch/arm64/kvm/hyp/pgtable.c
    Probe("kvm_pgtable_stage2_unmap", Kind.STAGE2_UNMAP, Kind.STAGE2_UNMAP_RET, _IPA),
    Probe("kvm_pgtable_stage2_map", Kind.STAGE2_MAP, Kind.STAGE2_MAP_RET, _IPA),
    Probe("kvm_pgtable_stage2_relax_perms", Kind.RELAX, Kind.RELAX_RET, _IPA),
    Probe("stage2_map_walk_leaf", facts=_IPA),
)
"""Any other probed function is a CALL and a RETURN: the ones that tell causes are in causes.py."""

TRACEPOINT = {row.name: row for row in TRACEPOINTS}
PROBE = {row.function: row for row in PROBES}
