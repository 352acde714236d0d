"""Is what each task of a trace did a path of the model's processes?

    result = check_paths(open_trace("trace.dat"))
    print(result.accepted, result.not_modelled, result.departure)

A task goes through activities: a merge by ksmd, a guest's fault, a write of the VMM. Each must be a
path of the process that the model has for it, folded for this kernel: everything that the trace
can show of that path is there, in its order, with equal arguments, and nothing else. What the model
has no process for is named, counted, and never called conforming. Every event is of one of these,
or says where a task is (entry to the guest, system calls), or is of something that no process has
at all (page tables that come and go, scheduling): those are counted by name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mmuwitness.model.era import Era
from mmuwitness.trace.kernel import ARM64, SHADOW, TDP, Dialect, era_of_release
from mmuwitness.trace.paths.automaton import Automaton
from mmuwitness.trace.paths.events import Recorded, events_of, scan
from mmuwitness.trace.paths.kernel import Kernel, automaton_of
from mmuwitness.trace.paths.match import ADDRESS_MAX, Seen
from mmuwitness.trace.paths.observe import MODELLED
from mmuwitness.trace.paths.tasks import Task
from mmuwitness.trace.paths.totals import Accepted, Departure, NotModelled, Totals

if TYPE_CHECKING:
    from mmuwitness.trace.events import Loss, Trace


@dataclass(frozen=True)
class PathsResult:
    """What a trace came to.

    kernel: whose model was asked; why_not: if it was not, because it has no process for it yet.
    accepted: activities that are paths of the model, by name.
    not_modelled: what no process has, by name. elsewhere: events, by name, that are of no process.
    departure: the first place where a task leaves the model; what came after it was not looked at.
    open_at_end: tasks that were in the middle of an activity when the trace ended.
    begun_before: activities passed over because the trace does not show how they began."""

    kernel: Kernel
    why_not: str = ""
    accepted: dict[str, Accepted] = field(default_factory=dict)
    not_modelled: dict[str, NotModelled] = field(default_factory=dict)
    elsewhere: dict[str, int] = field(default_factory=dict)
    departure: Departure | None = None
    open_at_end: tuple[int, ...] = ()
    begun_before: int = 0

    @property
    def accepts(self) -> bool:
        """Something was a path of the model, and nothing that it models was not."""
        return self.departure is None and bool(self.accepted)


def check_paths(trace: Trace, era: Era | None = None) -> PathsResult:
    """Reads the trace twice. TraceError if it is no trace.

    era: the kernel, if not the one that the trace shows."""
    recorded = scan(trace)
    kernel = kernel_of(trace.release, recorded, era)
    if not kernel.mmu:
        return PathsResult(kernel, why_not(recorded))
    follower = Follower(automaton_of(kernel, recorded))
    for batch in trace.batches():
        for seen in events_of(batch, recorded):
            follower.lose(trace.losses, seen.row)
            if follower.feed(seen) is not None:
                return follower.result(kernel)
    return follower.result(kernel)


class Follower:
    """All tasks along the automaton."""

    def __init__(self, automaton: Automaton) -> None:
        self.automaton, self.totals = automaton, Totals()
        self.tasks: dict[int, Task] = {}
        self.departure: Departure | None = None
        self.losses = 0  # that were honoured already

    def feed(self, seen: Seen) -> Departure | None:
        task = self.tasks.get(seen.pid)
        if task is None:
            task = self.tasks[seen.pid] = Task(self.automaton, self.totals)
        self.departure = task.feed(seen)
        if self.automaton.begins_window(seen):
            self.see_window(seen)
        return self.departure

    def see_window(self, seen: Seen) -> None:
        """An address space with windows has KVM's notifier, up to the one that is its end."""
        mm = seen.fields.get("mm")
        if mm is None:
            return
        if seen.fields.get("end") == ADDRESS_MAX:
            self.totals.subscribed.discard(mm)
        else:
            self.totals.subscribed.add(mm)

    def lose(self, losses: list[Loss], row: int) -> None:
        """Events were dropped before this row: of which tasks, nobody knows."""
        while self.losses < len(losses) and losses[self.losses].row <= row:
            self.losses += 1
            for task in self.tasks.values():
                task.lose()

    def result(self, kernel: Kernel) -> PathsResult:
        """What came out; to be called once, after the last event."""
        still_open = []
        for pid, task in sorted(self.tasks.items()):
            if task.open:
                still_open.append(pid)
                task.tell("of activities that the trace does not finish", task.untold)
            elif self.departure is None or self.departure.seen.pid != pid:
                task.finish()
        return PathsResult(
            kernel,
            "",
            self.totals.accepted,
            self.totals.not_modelled,
            dict(self.automaton.recorded.elsewhere + self.totals.elsewhere),
            self.departure,
            tuple(still_open),
            self.totals.begun_before,
        )


def kernel_of(release: str | None, recorded: Recorded, era: Era | None = None) -> Kernel:
    """The kernel by its release or by what the trace holds, its MMU by the functions that it uses:
    "" if the model has no process for it yet."""
    codes = [code for code, _ in recorded.returns.most_common() if 3 <= code <= 5]
    era = era or era_of(release, recorded)
    usual = 4 if era.has("change_pte_op", "x86") else 5
    mmu = "" if why_not(recorded) else mmu_of(recorded)
    if mmu == "stage2":
        return Kernel(era, mmu, Dialect("arm64", mmu))
    return Kernel(era, mmu, Dialect("x86", mmu, codes[0] if codes else usual))


def mmu_of(recorded: Recorded) -> str:
    seen = recorded.entered | recorded.left | recorded.on_stacks | recorded.tracepoints
    if seen & ARM64:
        return "stage2"
    if seen & SHADOW:
        return "shadow"
    return "tdp" if seen & TDP else "rmap"


def why_not(recorded: Recorded) -> str:
    """Why no process of the model can be held against this trace; "" if some can."""
    seen = recorded.entered | recorded.left | recorded.on_stacks | recorded.tracepoints
    if any(len(mns) > 1 for mns in recorded.subscribers.values()):
        return "several VMs in one address space are not modelled yet"
    if not seen & (MODELLED - {"handle_mm_fault", "do_wp_page", "wp_page_copy"}):
        return "nothing of KVM's MMU was recorded: record kvm_unmap_hva_range and kvmmmu"
    return ""


def era_of(release: str | None, recorded: Recorded) -> Era:
    """The series that the trace names; else an old or a new kernel, by what only one of them has:
    KVM's range in hvas or gfns, the value of a zapped SPTE, change_pte."""
    if named := era_of_release(release):
        return named
    old = recorded.windows_over["hva"], recorded.zapped[0], change_ptes(recorded)
    new = recorded.windows_over["gfn"], recorded.zapped[1 << 63], False
    for before, after in zip(old, new, strict=True):
        if before != after:
            return Era("v6.12" if after > before else "v6.1")
    return Era("v6.12")


def change_ptes(recorded: Recorded) -> bool:
    seen = recorded.entered | recorded.tracepoints
    return bool(seen & {"kvm_set_spte_hva", "__mmu_notifier_change_pte"})
