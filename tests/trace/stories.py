"""Traces made by hand: facts as a kernel with all probes would leave them, one page, one VM."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mmuwitness.model.era import Era
from mmuwitness.trace.conform import RuleChecker
from mmuwitness.trace.facts import Fact
from mmuwitness.trace.kernel import Dialect
from mmuwitness.trace.rules.rule import Departure
from mmuwitness.trace.tracepoints import Kind

VCPU, KSMD = 10, 20
MM, MN, KVM = 0x1000, 0x2000, 0x3000
HVA, GFN = 0x7F0000200000, 0x200
PRESENT = 0x800 | 0x5
FIXED, RETRY = 4, 1


def fact(kind: Kind, pid: int, **fields: object) -> Fact:
    return Fact(
        0,
        0,
        0,
        pid,
        {VCPU: "vcpu", KSMD: "ksmd"}.get(pid, "task"),
        None,
        kind,
        str(fields.pop("function", kind.name.lower().removesuffix("_ret"))),
        **fields,
    )


def spte(pfn: int) -> int:
    return pfn << 12 | PRESENT


def fault(pfn: int, seq: int, *, page: int = 0, old: int = 0, pid: int = VCPU) -> list[Fact]:
    """A guest's read fault that maps a page."""
    gfn, hva = GFN + page, HVA + (page << 12)
    return [
        fact(Kind.EXIT, pid, vcpu=0),
        fact(Kind.PAGE_FAULT, pid, vcpu=0, address=gfn << 12, gfn=gfn),
        fact(Kind.HVA_TO_PFN, pid, address=hva),
        fact(Kind.HVA_TO_PFN_RET, pid, pfn=pfn),
        fact(Kind.MAP, pid, gfn=gfn, pfn=pfn, seq=seq),
        fact(Kind.SPTE_REQUESTED, pid, gfn=gfn, pfn=pfn, level=1),
        fact(Kind.SPTE_CHANGED, pid, gfn=gfn, level=1, old=old, new=spte(pfn)),
        fact(Kind.SET_SPTE, pid, gfn=gfn, level=1, new=spte(pfn)),
        fact(Kind.MAP_RET, pid, ret=FIXED),
        fact(Kind.FAULT_RET, pid, ret=FIXED),
        fact(Kind.ENTRY, pid, vcpu=0),
    ]


def retried_fault(pfn: int, pid: int = VCPU) -> list[Fact]:
    """A guest's fault that goes back without an SPTE."""
    first = fault(pfn, 0, pid=pid)
    return [*first[:4], fact(Kind.FAULT_RET, pid, ret=RETRY), first[-1]]


def start(
    zapped: int | None,
    seq: int,
    *,
    page: int = 0,
    pid: int = KSMD,
    others: int = 0,
    hull: tuple[int, int] = (0, 0),
) -> list[Fact]:
    """invalidate_range_start() of one page; `others`: windows that are open."""
    hva, gfn = HVA + (page << 12), GFN + page
    fields = {"start": hva, "end": hva + 4096, "mm": MM}
    zap = fact(Kind.SPTE_CHANGED, pid, gfn=gfn, level=1, old=spte(zapped or 0), new=0)
    return [
        fact(Kind.MN_START, pid, **fields),
        fact(
            Kind.KVM_START,
            pid,
            mn=MN,
            seq=seq,
            in_progress=others,
            active=others,
            range_start=hull[0],
            range_end=hull[1],
            **fields,
        ),
        fact(Kind.UNMAP_HVA, pid, start=hva, end=hva + 4096),
        fact(Kind.UNMAP_GFN, pid, vm=KVM, gfn=gfn, gfn_end=gfn + 1),
        *([zap] if zapped is not None else []),
        fact(Kind.UNMAP_GFN_RET, pid, ret=int(zapped is not None)),
        fact(Kind.KVM_START_RET, pid, ret=0),
        fact(Kind.MN_START_RET, pid, ret=0),
    ]


def change_pte(pfn: int, seq: int, *, page: int = 0, pid: int = KSMD) -> list[Fact]:
    """A call of change_pte in its window, the only one."""
    hva, gfn = HVA + (page << 12), GFN + page
    fields = {"address": hva, "new": pfn << 12 | 0x25}
    return [
        fact(Kind.CALL, pid, function="ptep_clear_flush", mm=MM, address=hva),
        fact(Kind.MN_CHANGE_PTE, pid, mm=MM, **fields),
        fact(
            Kind.KVM_CHANGE_PTE,
            pid,
            mn=MN,
            mm=MM,
            seq=seq,
            in_progress=1,
            active=1,
            range_start=hva,
            range_end=hva + 4096,
            **fields,
        ),
        fact(Kind.SET_SPTE_HVA, pid, address=hva),
        fact(Kind.SET_SPTE_GFN, pid, vm=KVM, gfn=gfn, gfn_end=gfn + 1, new=fields["new"]),
        fact(Kind.SET_SPTE_GFN_RET, pid, ret=0),
        fact(Kind.KVM_CHANGE_PTE_RET, pid),
        fact(Kind.MN_CHANGE_PTE_RET, pid),
    ]


def end(
    seq: int,
    *,
    page: int = 0,
    pid: int = KSMD,
    open_windows: int = 1,
    hull: tuple[int, int] | None = None,
) -> list[Fact]:
    """invalidate_range_end() of one page; `open_windows` counts this one, too."""
    hva = HVA + (page << 12)
    fields = {"start": hva, "end": hva + 4096, "mm": MM}
    first, last = hull or (hva, hva + 4096)
    return [
        fact(Kind.MN_END, pid, **fields),
        fact(
            Kind.KVM_END,
            pid,
            mn=MN,
            seq=seq,
            in_progress=open_windows,
            active=open_windows,
            range_start=first,
            range_end=last,
            **fields,
        ),
        fact(Kind.KVM_END_RET, pid),
        fact(Kind.MN_END_RET, pid),
    ]


def merge(*, page: int = 0, zapped: int | None = 0x51, pfn: int = 0x52, seq: int = 0) -> list[Fact]:
    """One window of KSM from start to end."""
    return [
        *start(zapped, seq, page=page),
        *change_pte(pfn, seq, page=page),
        *end(seq, page=page),
    ]


def story() -> list[Fact]:
    """The guest reads a page, KSM replaces it, the guest reads it again; then once more."""
    return [
        *fault(0x51, 0),
        *merge(),
        *fault(0x52, 1),
        *merge(zapped=0x52, pfn=0x53, seq=1),
        *fault(0x53, 2),
    ]


def departures(
    facts: Sequence[Fact], arch: str = "x86", mmu: str = "tdp", era: str | None = None
) -> list[Departure]:
    """What the rules say of these facts, in the trace's order."""
    checker = RuleChecker(Dialect(arch, mmu), Era(era) if era else None)
    checker.feed(fact._replace(row=row) for row, fact in enumerate(facts))
    checker.finish()
    return sorted(checker.departures, key=lambda each: each.fact.row)


def nth(facts: Sequence[Fact], kind: Kind, number: int = -1) -> int:
    """The index of a fact of this kind, the last one if not said."""
    return [i for i, each in enumerate(facts) if each.kind == kind][number]


def with_fields(kind: Kind, number: int = -1, **fields: object) -> Callable[[list[Fact]], int]:
    """An edit: it changes one fact, and returns where."""

    def edit(facts: list[Fact]) -> int:
        i = nth(facts, kind, number)
        facts[i] = facts[i]._replace(**fields)
        return i

    return edit


def without(kind: Kind, number: int = -1) -> Callable[[list[Fact]], int]:
    """An edit: it takes one fact out, and returns where."""

    def edit(facts: list[Fact]) -> int:
        i = nth(facts, kind, number)
        del facts[i]
        return i

    return edit
