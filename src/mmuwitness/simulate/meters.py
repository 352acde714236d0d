"""What a run leaves: counters by name, series over guest time, and what a person calls them.

A name with a dot is a model function, and counts how often it was entered. The other names are the
simulator's own:

    lock KVM.mmu_lock          acquired
    wait KVM.mmu_lock          acquired after a wait
    waited ns KVM.mmu_lock     ns of those waits
    exit REASON                page faults of guests: read, or write to what is absent, protected
    fault first|retry|refault  faults that mapped a page for the first time, had nothing mapped
                               because of an invalidation, or mapped again what had been zapped
    window empty               invalidate_range_start() that zapped nothing
    spte zapped                SPTEs that were present
    flush ipi                  vCPUs that a flush interrupted in the guest: an exit, too
    stall below N ns           accesses that a guest had to wait for, less than that and not less
                               than half of it: a distribution
    guest touches              accesses of guests
    ksm read again             exits of reads that came to a merged page
    ksm unmerged               KSM pages that a write, or MADV_UNMERGEABLE, took a mapping from
    memory saved pages         a gauge: pages that need no memory of their own, at the end
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Value = int | float | str | bool

DO_NOTHING = "nothing"
"""The design that leaves out what the workload is about: no ksmd, no NUMA scanner ..."""

EXITS = "kvm.vcpu.handle_exit"
START = "kvm.kvm_main.kvm_mmu_notifier_invalidate_range_start"
MERGES = "mm.ksm.replace_page"
SAVED = "memory saved pages"
PAGE_BYTES = 4096


@dataclass(frozen=True)
class Run:
    """What one run counted: a workload under a design with a seed."""

    workload: str
    design: str
    seed: int
    parameters: Mapping[str, Value]  # as resolved, defaults included
    guest_seconds: float
    counters: Mapping[str, int]  # by name, see above
    cpu_ns: Mapping[str, int]  # CPU time by kind of task: "ksmd", "vcpu exits", "vmm" ...
    stall_ns: int  # guest time lost to exits and to waiting for locks
    series: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """"seconds", and by name what was sampled at those times: "exits", "memory saved pages" ..."""

    def count(self, *names: str) -> int:
        """The sum of these counters; what was never counted is 0."""
        return sum(self.counters.get(name, 0) for name in names)

    @property
    def cpu_total_ns(self) -> int:
        """CPU time of all tasks."""
        return sum(self.cpu_ns.values())


def stall(bits: int) -> str:
    """The counter of stalls whose ns have so many bits."""
    return f"stall below {1 << bits} ns"


def stalls(runs: Sequence[Run]) -> list[tuple[int, int]]:
    """The distribution of stalls over some runs: ns that each is below, and how many."""
    counted = ((1 << bits, sum(run.count(stall(bits)) for run in runs)) for bits in range(64))
    return [(below, count) for below, count in counted if count]


def quantile(distribution: Sequence[tuple[int, int]], share: float) -> int:
    """ns that this share of all stalls is below; a power of two.  0: there were none."""
    left = share * sum(count for _, count in distribution)
    for below, count in distribution:
        left -= count
        if left <= 0:
            return below
    return 0


@dataclass(frozen=True)
class Meter:
    """A row of the report: what people call a sum of counters."""

    name: str
    counters: tuple[str, ...]
    gauge: bool = False  # the state at the end; else it only grows

    def read(self, run: Run) -> int:
        """Its value at the end of the run."""
        return run.count(*self.counters)


METERS = (
    Meter("exits", (EXITS,)),
    Meter("first faults", ("fault first",)),
    Meter("retried faults", ("fault retry",)),
    Meter("refaults", ("fault refault",)),
    Meter("windows", (START,)),
    Meter("windows, empty", ("window empty",)),
    Meter("SPTEs zapped", ("spte zapped",)),
    Meter("change_pte calls", ("kvm.kvm_main.kvm_mmu_notifier_change_pte",)),
    Meter("TLB flushes", ("kvm.kvm_main.kvm_flush_remote_tlbs", "arch.arch.Arch.flush_gfn")),
    Meter("vCPUs interrupted", ("flush ipi",)),
    Meter("mmu_lock taken", ("lock KVM.mmu_lock",)),
    Meter("mmu_lock waits", ("wait KVM.mmu_lock",)),
    Meter("host faults", ("mm.memory.handle_mm_fault",)),
    Meter("pages copied", ("mm.mm_types.copy_page",)),
    Meter("merges", (MERGES,)),
    Meter("unmerges", ("ksm unmerged",)),
    Meter("pages saved", (SAVED,), gauge=True),
)

UNITS = (
    ("merged page that is read again", "ksm read again"),
    ("merge", MERGES),
    ("page copied", "mm.mm_types.copy_page"),
    ("window", START),
)
"""What exits are counted per, first the most telling: words, and the counter."""


def exit_reasons(runs: Sequence[Run]) -> list[Meter]:
    """A meter for every reason that some run had exits for, by name."""
    names = {name for run in runs for name in run.counters if name.startswith("exit ")}
    return [Meter(name.removeprefix("exit "), (name,)) for name in sorted(names)]
