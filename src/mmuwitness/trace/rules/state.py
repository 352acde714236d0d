"""What the rules know of windows, faults, VMs and tasks while they follow a trace."""

from __future__ import annotations

from dataclasses import dataclass, field

from mmuwitness.trace.facts import Fact

PAGE_SHIFT = 12


@dataclass(slots=True, eq=False)
class Window:
    """One invalidate_range_start() .. end(), as mm opened it or as one VM's notifier saw it."""

    fact: Fact  # entry of start()
    start: int | None
    end: int | None
    parent: Window | None = None  # mm's, of a VM's
    vm: Vm | None = None
    children: list[Window] = field(default_factory=list)  # the VMs', of mm's
    entered: bool = True  # start() has not returned
    told: bool = False  # its kvm_unmap_hva_range was seen
    armed: Fact | None = None
    hit: bool | None = None  # a memslot; None: not known
    gfns: list[tuple[int, int]] = field(default_factory=list)
    closing: Fact | None = None
    closed: bool = False
    shared: bool = False  # another one of its VM was open at some time
    outlived: Fact | None = None  # its task closed a window elsewhere, opened behind it

    def same_range(self, fact: Fact) -> bool:
        return self.start == fact.start and self.end == fact.end

    def covers_hva(self, hva: int) -> bool:
        return self.start is not None and self.end is not None and self.start <= hva < self.end

    def overlaps(self, other: Window) -> bool:
        if None in (self.start, self.end, other.start, other.end):
            return True
        return self.start < other.end and other.start < self.end  # type: ignore[operator]

    def covers_gfn(self, gfn: int, pages: int = 1) -> bool:
        return any(start < gfn + pages and gfn < end for start, end in self.gfns)


@dataclass(slots=True, eq=False)
class Lookup:
    """hva_to_pfn() of a fault."""

    fact: Fact
    returned: Fact | None = None


@dataclass(slots=True, eq=False)
class Fault:
    """A guest fault, from kvm_page_fault to the next entry or fault of its task."""

    fact: Fact
    lookups: list[Lookup] = field(default_factory=list)
    map: Fact | None = None
    requested: Fact | None = None  # the last kvm_mmu_spte_requested
    installed: Fact | None = None
    fixed_fast: bool = False
    mapped: bool = False  # kvm_tdp_mmu_map() has returned
    contended: bool = False  # kvm_tdp_mmu_map() met another task's change
    returned: bool = False


@dataclass(slots=True, eq=False)
class Vm:
    """One VM, or all that the trace does not tell apart."""

    mm: int | None = None
    windows: list[Window] = field(default_factory=list)  # open or closing
    all_known: bool = False  # windows: none is open from before the recording
    moved: int = -1  # row of the last fact of a window's opening or closing
    hvas: dict[int, int] = field(default_factory=dict)  # gfn -> hva, where the trace showed it
    slots: list[tuple[int, int, int]] = field(default_factory=list)  # gfn, pages, hva

    def slot_hva(self, gfn: int) -> int | None:
        for first, pages, hva in self.slots:
            if first <= gfn < first + pages:
                return hva + ((gfn - first) << PAGE_SHIFT)
        return None

    def hva_of(self, gfn: int) -> int | None:
        known = self.slot_hva(gfn)
        return self.hvas.get(gfn) if known is None else known


@dataclass(slots=True, eq=False)
class Task:
    """One thread; `windows` are mm's and `notified` the VMs', innermost last."""

    pid: int
    name: str | None
    windows: list[Window] = field(default_factory=list)
    notified: list[Window] = field(default_factory=list)
    ending: list[Window] = field(default_factory=list)  # the VMs' of a window in mm's end()
    fault: Fault | None = None
    vm: Vm | None = None  # of a vCPU's thread, where it was learned
    mm_change_pte: Fact | None = None
    kvm_change_pte: Fact | None = None
    set_spte_gfn: Fact | None = None
    stage2_map: Fact | None = None
    spte_changed: Fact | None = None  # the last one
    unmapping: Fact | None = None  # kvm_unmap_gfn_range()
    last_start: Fact | None = None  # the last kvm_unmap_hva_range
    # Rows where it was seen outside of any window, or to open one of mm's; of a VM's; and where it
    # came in from user space or its guest: what it calls from there on, its probes record.
    settled: int = -1
    notified_settled: int = -1
    came_in: int = -1
    facts: int = 0  # so far, the present one included
    started_at: int = 0  # of these, the last kvm_unmap_hva_range
