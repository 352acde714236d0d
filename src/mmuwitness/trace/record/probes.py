"""What `record --probes full` probes, and the probe lines that fit a kernel's own types.

One row of PROBES is one function. What a probe fetches is said as in C, and BTF says where that
lies: `start=range.start` becomes `start=+8($arg1):x64` in v6.12 and `start=+16($arg1):x64` in v6.1.

    name=WHAT      name of the field in the trace; several WHAT between | are tried in order
    a.b.c          parameter a, its member b (-> and . are the same here), its member c
    kvm(mn).x      the struct kvm whose member mmu_notifier the parameter mn points to
    :x             hexadecimal; else decimal, signed or not as its type says
    ?              may be absent; a probe is not set whose other fields cannot be had, since an
                   event without its range would be taken for one that has none
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from mmuwitness.trace.record.btf import Btf

# The kernel's own name of an argument's register, at the entry of a function ($arg1 is the first).
ARGUMENT = "$arg{}"
# The events of a kretprobe that can be under way at once: more than a host has processors at work.
RETURNS_AT_ONCE = 256
CONTAINERS = {"kvm": "mmu_notifier"}
FETCH = re.compile(r"(?P<name>\w+)=(?P<what>[\w.()|]+?)(?P<hex>:x)?(?P<optional>\?)?")
WHAT = re.compile(
    r"(?:(?P<container>\w+)\((?P<inner>\w+)\)|(?P<parameter>\w+))(?P<members>(\.\w+)*)"
)


@dataclass(frozen=True)
class Probe:
    """A function to probe: `event` at its entry, `event`_ret at its return."""

    event: str
    function: str
    fetches: str | None = None  # None: no probe at its entry
    returns: str | None = None  # name of the returned value; "": at its return, without a value


RANGE = "mm=range.mm:x start=range.start:x end=range.end:x flags=range.flags? event=range.event?"
VM = (
    " seq=kvm(mn).mmu_invalidate_seq|kvm(mn).mmu_notifier_seq"
    " inprog=kvm(mn).mmu_invalidate_in_progress|kvm(mn).mmu_notifier_count"
    " rs=kvm(mn).mmu_invalidate_range_start|kvm(mn).mmu_notifier_range_start:x?"
    " re=kvm(mn).mmu_invalidate_range_end|kvm(mn).mmu_notifier_range_end:x?"
    " active=kvm(mn).mn_active_invalidate_count?"
)
GFNS = "kvm=kvm:x slot=range.slot.id? start=range.start:x end=range.end:x"
SPAN = "mm=mm:x start=start:x end=end:x"
AT = "mm=vma.vm_mm:x addr=address|addr|haddr:x"
FAULT = "mm=vmf.vma.vm_mm:x addr=vmf.address:x flags=vmf.flags:x"
MERGE = "mm=vma.vm_mm:x page=page|folio:x kpage=kpage:x?"

PROBES = (
    # mm/mmu_notifier.c
    Probe("mn_start", "__mmu_notifier_invalidate_range_start", RANGE, "ret"),
    Probe("mn_end", "__mmu_notifier_invalidate_range_end", f"{RANGE} only_end=only_end?", ""),
    Probe("mn_inval", "__mmu_notifier_invalidate_range", SPAN),
    Probe("mn_inval2", "__mmu_notifier_arch_invalidate_secondary_tlbs", SPAN),
    Probe("mn_change_pte", "__mmu_notifier_change_pte", "mm=mm:x addr=address:x pte=pte:x", ""),
    # virt/kvm/kvm_main.c
    Probe("kvm_start", "kvm_mmu_notifier_invalidate_range_start", f"mn=mn:x {RANGE}{VM}", "ret"),
    Probe("kvm_end", "kvm_mmu_notifier_invalidate_range_end", f"mn=mn:x {RANGE}{VM}", ""),
    Probe(
        "kvm_change_pte",
        "kvm_mmu_notifier_change_pte",
        f"mn=mn:x mm=mm:x addr=address:x pte=pte:x{VM}",
        "",
    ),
    Probe("hva_to_pfn", "hva_to_pfn", "addr=addr|kfp.hva:x", "pfn:x"),
    # an architecture's part of KVM
    Probe("kvm_unmap_gfn", "kvm_unmap_gfn_range", f"{GFNS} may_block=range.may_block?", "ret"),
    Probe("kvm_set_spte_gfn", "kvm_set_spte_gfn", f"{GFNS} pte=range.pte|range.arg.pte:x", "ret"),
    # arch/x86/kvm/mmu
    Probe("tdp_unmap_gfn", "kvm_tdp_mmu_unmap_gfn_range", GFNS, "ret"),
    Probe("tdp_set_spte_gfn", "kvm_tdp_mmu_set_spte_gfn", GFNS, "ret"),
    Probe(
        "tdp_map",
        "kvm_tdp_mmu_map",
        "vcpu=vcpu:x gfn=fault.gfn:x pfn=fault.pfn:x mmu_seq=fault.mmu_seq?"
        " map_writable=fault.map_writable? write=fault.write?",
        "ret",
    ),
    Probe("faultin", "kvm_faultin_pfn", returns="ret"),
    Probe("faultin", "kvm_mmu_faultin_pfn", returns="ret"),
    Probe("dpf", "direct_page_fault", returns="ret"),
    Probe("tdpf", "kvm_tdp_page_fault", returns="ret"),
    Probe("p64pf", "paging64_page_fault", "vcpu=vcpu:x addr=fault.addr:x?", "ret"),
    Probe("p32pf", "paging32_page_fault", returns="ret"),
    Probe("nonpf", "nonpaging_page_fault", returns="ret"),
    Probe("eptpf", "ept_page_fault", returns="ret"),
    # arch/arm64/kvm
    Probe("gabort", "kvm_handle_guest_abort", returns="ret"),
    Probe(
        "s2map",
        "kvm_pgtable_stage2_map",
        "ipa=addr:x size=size:x phys=phys:x prot=prot:x mc=mc:x",
        "ret",
    ),
    Probe("s2unmap", "kvm_pgtable_stage2_unmap", "ipa=addr:x size=size:x", "ret"),
    Probe("relax", "kvm_pgtable_stage2_relax_perms", "ipa=addr:x prot=prot:x", "ret"),
    Probe(
        "leaf",
        "stage2_map_walk_leaf",
        "ipa=addr|ctx.addr:x level=level|ctx.level old=ctx.old:x? mc=data.memcache:x?",
        "ret",
    ),
    # what invalidates: mm/memory.c, ksm.c, rmap.c, huge_memory.c, mprotect.c ...
    Probe("do_wp_page", "do_wp_page", FAULT, "ret:x"),
    Probe("wp_page_copy", "wp_page_copy", FAULT, "ret:x"),
    Probe("try_merge_one", "try_to_merge_one_page", MERGE, "ret"),
    Probe("wrprot_page", "write_protect_page", MERGE, "ret"),
    Probe("replace_page", "replace_page", MERGE, "ret"),
    Probe("break_ksm", "break_ksm", AT),
    Probe("ptep_clear_flush", "ptep_clear_flush", AT),
    Probe("split_pmd", "__split_huge_pmd", AT),
    Probe("collapse", "collapse_huge_page", "mm=mm:x addr=address|start_addr:x"),
    Probe("migrate_one", "try_to_migrate_one", AT),
    Probe("unmap_one", "try_to_unmap_one", AT),
    Probe(
        "zap_single", "zap_page_range_single", "mm=vma.vm_mm:x start=address|start:x size=size:x"
    ),
    Probe("unmap_vmas", "unmap_vmas", ""),
    Probe("copy_page_range", "copy_page_range", "mm=src_vma.vm_mm:x"),
    Probe("change_prot", "change_protection", "mm=vma.vm_mm:x start=start:x end=end:x"),
)


@dataclass(frozen=True)
class ProbeLine:
    """One line for kprobe_events."""

    event: str
    function: str
    text: str


@dataclass(frozen=True)
class Place:
    """A value that is reached: `expression` is fetched, or lies `offset` from what is fetched."""

    expression: str
    type: int
    offset: int | None = None

    def fetched(self) -> str:
        if self.offset is None:
            return self.expression
        return f"{self.offset:+d}({self.expression})"


def probe_lines(
    group: str, btf: Btf, symbols: Collection[str], probes: Iterable[Probe] = PROBES
) -> tuple[list[ProbeLine], list[str]]:
    """The lines for those functions that the kernel has, and a sentence for each left out."""
    lines, notes = [], []
    for probe in probes:
        if probe.function not in symbols:
            continue
        prototype = btf.prototype(probe.function)
        if prototype is None:
            notes.append(f"{probe.function}: not probed, BTF does not say what it takes")
            continue
        if probe.fetches is not None:
            fetches, missing = entry_fetches(btf, probe)
            if missing:
                notes.append(f"{probe.function}: not probed, it has no {', '.join(missing)}")
                continue
            text = " ".join([f"p:{group}/{probe.event} {probe.function}", *fetches])
            lines.append(ProbeLine(probe.event, probe.function, text))
        if probe.returns is not None:
            event = f"{probe.event}_ret"
            value = return_fetch(btf, probe.returns, prototype.returns)
            text = f"r{RETURNS_AT_ONCE}:{group}/{event} {probe.function}{value}"
            lines.append(ProbeLine(event, probe.function, text))
    return lines, notes


def entry_fetches(btf: Btf, probe: Probe) -> tuple[list[str], list[str]]:
    """The fetch arguments of a probe, and what of it this kernel does not have."""
    found, missing = [], []
    for text in (probe.fetches or "").split():
        match = FETCH.fullmatch(text)
        assert match, f"{probe.event}: {text!r} is no fetch"
        places = (reach(btf, probe.function, what) for what in match["what"].split("|"))
        place = next((each for each in places if each and btf.scalar(each.type)), None)
        if place:
            suffix = type_suffix(btf, place.type, bool(match["hex"]))
            found.append(f"{match['name']}={place.fetched()}{suffix}")
        elif not match["optional"]:
            missing.append(match["what"].replace("|", " or "))
    return found, missing


def return_fetch(btf: Btf, returns: str, of_type: int) -> str:
    name, _, base = returns.partition(":")
    if not name or not btf.scalar(of_type):
        return ""
    return f" {name}=$retval{type_suffix(btf, of_type, base == 'x')}"


def type_suffix(btf: Btf, of_type: int, is_hex: bool) -> str:
    scalar = btf.scalar(of_type)
    assert scalar
    letter = "x" if is_hex else "s" if scalar.is_signed else "u"
    return f":{letter}{8 * scalar.size}"


def reach(btf: Btf, function: str, what: str) -> Place | None:
    """Where the value lies when the function is entered; None if this kernel has no such value."""
    match = WHAT.fullmatch(what)
    assert match, f"{what!r} is no parameter with members"
    place = parameter(btf, function, match["inner"] or match["parameter"])
    if place and match["container"]:
        place = container(btf, place, match["container"])
    for name in match["members"].split(".")[1:]:
        place = step(btf, place, name) if place else None
    return place


def parameter(btf: Btf, function: str, name: str) -> Place | None:
    prototype = btf.prototype(function)
    for index, (each, of_type) in enumerate(prototype.parameters if prototype else ()):
        if not btf.scalar(of_type):
            return None  # it takes more than one register, or none: those after it are elsewhere
        if each == name:
            return Place(ARGUMENT.format(index + 1), of_type)
    return None


def container(btf: Btf, place: Place, name: str) -> Place | None:
    whole = btf.struct(name)
    inner = btf.member(whole, CONTAINERS[name]) if whole else None
    return Place(place.fetched(), whole, -inner.offset) if inner else None


def step(btf: Btf, place: Place, name: str) -> Place | None:
    """The member of what the place is, or points to."""
    target = btf.target(place.type)
    held = Place(place.fetched(), target, 0) if target else place
    member = btf.member(btf.bare(held.type), name) if held.offset is not None else None
    if not member or member.is_bits:
        return None
    return Place(held.expression, member.type, (held.offset or 0) + member.offset)
