"""What to record on a host, and the writes to tracefs that do it.

The same steps are carried out by `record` and printed by `record --how`.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field

from mmuwitness.trace.record.host import Host
from mmuwitness.trace.record.probes import ProbeLine, probe_lines
from mmuwitness.trace.record.tracefs import RecordError

NAME = "mmuwitness"
WINDOW = "kvm/kvm_unmap_hva_range"
CHANGE_PTE = "kvm/kvm_set_spte_hva"
# All CPUs' time stamps agree in these clocks, which those of `local` need not; mono is also what
# user space reads by clock_gettime(CLOCK_MONOTONIC), so that a VMM's own log can be laid beside.
CLOCKS = ("mono", "boot", "global")
BUFFER_KB_MAX = 16384  # per processor
BUFFERS_PER_MEMORY = 32  # all of them together take at most this part of the memory
PIDS_A_WRITE = 200
BY_HAND = "by_hand"  # the owner of what `--how` prints: no recorder takes it for a leftover


@dataclass(frozen=True)
class Event:
    path: str
    lack: str = ""  # what is unknown without it; "": kernels or architectures go without it
    machine: str = ""  # only expected there


EVENTS = (
    Event(WINDOW, "who invalidates guest memory"),
    Event(CHANGE_PTE),  # until v6.9
    Event("kvm/kvm_exit", "how often guests exit"),
    Event("kvm/kvm_entry"),
    Event("kvm/kvm_page_fault", "guest faults", "x86_64"),
    Event("kvm/kvm_guest_fault", "guest faults", "aarch64"),
    Event("kvmmmu/kvm_tdp_mmu_spte_changed", "which SPTEs are zapped and set", "x86_64"),
    Event("kvmmmu/kvm_mmu_set_spte", "which SPTEs faults set", "x86_64"),
    Event("kvmmmu/kvm_mmu_spte_requested"),
    Event("kvmmmu/fast_page_fault"),
    Event("kvmmmu/kvm_mmu_prepare_zap_page"),
    Event("kvmmmu/kvm_mmu_zap_all_fast"),
    Event("kvmmmu/kvm_mmu_split_huge_page"),
    Event("ksm/ksm_start_scan"),  # all of KSM's: since v6.4
    Event("ksm/ksm_stop_scan"),
    Event("ksm/ksm_merge_one_page"),
    Event("ksm/ksm_merge_with_ksm_page"),
    Event("ksm/ksm_remove_ksm_page"),
    Event("migrate/mm_migrate_pages"),
    Event("migrate/mm_migrate_pages_start"),
    Event("migrate/set_migration_pte"),
    Event("migrate/remove_migration_pte"),
    Event("huge_memory/mm_collapse_huge_page"),
)
# What every process of a host does all the time: bearable only of chosen ones. Elsewhere the stacks
# say which system call, or whose fault, a window comes from.
OF_CHOSEN = (
    Event("exceptions/page_fault_user"),
    *(
        Event(f"syscalls/sys_{side}_{name}")
        for name in ("madvise", "process_madvise", "munmap", "mprotect", "mremap", "mbind")
        for side in ("enter", "exit")
    ),
)
STACKS = (WINDOW, CHANGE_PTE)


@dataclass(frozen=True)
class Step:
    """A line written to a file of tracefs, or (text None) a directory made there."""

    path: str
    text: str | None
    needed: bool = True  # if not: a kernel that refuses it is asked for less
    what: str = ""  # for people

    def shell(self) -> str:
        path = shlex.quote(self.path)
        if self.text is None:
            return f"mkdir {path}"
        return f"echo {shlex.quote(self.text)} >> {path}"


@dataclass(frozen=True)
class Plan:
    owner: str  # PID of the recorder: in the names of what it makes, so that it is found again
    clock: str
    buffer_kb: int  # per processor
    events: tuple[str, ...]
    stacks: tuple[str, ...]
    probes: tuple[ProbeLine, ...] = ()
    threads: tuple[int, ...] = ()  # record only these; nothing: all
    notes: list[str] = field(default_factory=list)

    @property
    def group(self) -> str:
        return f"{NAME}_{self.owner}"

    @property
    def instance(self) -> str:
        return f"instances/{NAME}-{self.owner}"

    @property
    def last_step(self) -> Step:
        """Begins the recording."""
        return Step(f"{self.instance}/tracing_on", "1")

    def steps(self) -> Iterator[Step]:
        """What comes before the last step."""
        at = self.instance
        yield Step(at, None)
        yield Step(f"{at}/tracing_on", "0")
        yield Step(f"{at}/trace_clock", self.clock)
        yield Step(f"{at}/buffer_size_kb", str(self.buffer_kb), needed=False, what="buffer size")
        if self.threads:
            # Threads and children that these make later are recorded, too.
            yield Step(f"{at}/options/event-fork", "1", needed=False, what="new threads")
        for begin in range(0, len(self.threads), PIDS_A_WRITE):
            some = self.threads[begin : begin + PIDS_A_WRITE]
            yield Step(f"{at}/set_event_pid", " ".join(map(str, some)))
        for line in self.probes:
            yield Step("kprobe_events", line.text, needed=False, what=f"probe of {line.function}")
        for path in self.stacks:
            yield Step(f"{at}/events/{path}/trigger", "stacktrace", False, f"stacks of {path}")
        for path in self.events:
            yield Step(f"{at}/events/{path}/enable", "1", needed=False, what=f"event {path}")
        if self.probes:
            yield Step(f"{at}/events/{self.group}/enable", "1", needed=False, what="probes")


def make_plan(host: Host, owner: str, probes: str, of_process: int | None) -> Plan:
    """The plan for this host. RecordError if nothing that is of use can be recorded."""
    rows = EVENTS + (OF_CHOSEN if of_process else ())
    events = tuple(row.path for row in rows if host.has_event(row.path))
    notes = [
        f"this kernel has no event {row.path}: {row.lack} will not be known"
        for row in EVENTS
        if row.lack and row.path not in events and row.machine in ("", host.machine)
    ]
    if WINDOW not in events:
        notes.append("if KVM is a module, load it first: modprobe kvm")
    lines: list[ProbeLine] = []
    if probes == "full":
        lines, more = planned_probes(host, f"{NAME}_{owner}")
        notes += more
    if not events and not lines:
        raise RecordError("this kernel has none of the events that recording wants, see `--how`")
    return Plan(
        owner=owner,
        clock=chosen_clock(host, notes),
        buffer_kb=min(
            BUFFER_KB_MAX, max(1, host.memory_kb // BUFFERS_PER_MEMORY // host.processors)
        ),
        events=events,
        stacks=tuple(path for path in STACKS if path in events),
        probes=tuple(lines),
        threads=chosen_threads(host, of_process, notes) if of_process else (),
        notes=host.notes + notes,
    )


def planned_probes(host: Host, group: str) -> tuple[list[ProbeLine], list[str]]:
    why = host.lacks_probes()
    if why or host.btf is None:
        return [], [f"no functions are probed: {why}; stock events are recorded"]
    return probe_lines(group, host.btf, host.symbols)


def chosen_clock(host: Host, notes: list[str]) -> str:
    clocks = host.clocks()
    if clocks is None:
        return CLOCKS[0]
    for clock in CLOCKS:
        if clock in clocks:
            return clock
    notes.append(f"this kernel has no clock of {', '.join(CLOCKS)}: its CPUs' times may disagree")
    return clocks[0]


def chosen_threads(host: Host, of_process: int, notes: list[str]) -> tuple[int, ...]:
    threads = host.threads(of_process)
    if not threads:
        raise RecordError(f"--pid {of_process}: there is no such process")
    kernel_threads = host.invalidating_threads()
    notes.append(
        f"only process {of_process} ({len(threads)} threads) and {len(kernel_threads)} kernel "
        "threads (ksmd, khugepaged, kcompactd, kswapd) are recorded: what other processes "
        "invalidate, by reclaim or process_madvise, is not seen"
    )
    return (*threads, *kernel_threads)
