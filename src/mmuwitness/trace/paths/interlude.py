"""What a task does that the model has no process for: recognised, named, never conforming."""

from __future__ import annotations

from mmuwitness.trace.paths.events import UNMODELLED, Recorded
from mmuwitness.trace.paths.match import SPTE_ACCESS, Seen
from mmuwitness.trace.paths.observe import FUNCTIONS, WINDOWS_OF

KEPT_MAX = 10_000
"""Of longer ones the events are not kept, so that they are not read again as something else."""


class Interlude:
    """Events that no process has: kept until they come to an end, then named or refused."""

    def __init__(self, recorded: Recorded, idle: bool, before: str) -> None:
        """idle: the task was between two activities; before: the name of the interlude that came
        just before this one, if one did."""
        self.recorded, self.idle, self.before = recorded, idle, before
        self.stack: list[str] = []
        self.open = self.windows = self.events = self.place = 0
        self.taken: list[Seen] = []
        self.name = ""
        self.refused = False
        _, self.start = recorded.window_begins
        self.end = self.start.replace("range_start", "range_end")
        self.brackets = recorded.shows("enter", self.end)

    def feed(self, seen: Seen) -> bool:
        """Take one more; true if it is the last."""
        self.events += 1
        if self.events <= KEPT_MAX:
            self.taken.append(seen)
        self.place = self.place or seen.place
        for function in (seen.name, seen.caller, *seen.stack):
            if function in WINDOWS_OF:
                break  # the model has who opens this window
            if function in UNMODELLED:
                self.name = self.name or UNMODELLED[function]
        if seen.stack and not self.name:
            self.name = self.named_by_stack(seen.stack)
        if seen.what == "enter":
            if self.recorded.shows("leave", seen.name):
                self.stack.append(seen.name)
            if seen.name == self.start:
                self.windows += 1
                self.open += self.brackets
            elif seen.name == self.end and not self.recorded.shows("leave", self.end):
                self.open -= 1
        elif seen.what == "leave":
            self.returned(seen)
        elif seen.name == self.start:
            self.windows += 1
        elif self.zaps(seen):
            self.name = self.name or self.before
        return not self.stack and self.open <= 0

    def named_by_stack(self, stack: tuple[str, ...]) -> str:
        """Whoever called the notifier, if the model has nothing of what is around it."""
        around = stack[stack.index(NOTIFIER) + 1 :] if NOTIFIER in stack else ()
        known = not FUNCTIONS.isdisjoint(around)
        return f"windows of {around[0]}()" if around and not known else ""

    def zaps(self, seen: Seen) -> bool:
        """Outside of every window and fault: what follows a window that only a tracepoint shows."""
        if (
            seen.name != "kvm_tdp_mmu_spte_changed"
            or (seen.fields.get("new_spte") or 0) & SPTE_ACCESS
        ):
            return False
        return not self.stack and not self.open and bool(self.before)

    def returned(self, seen: Seen) -> None:
        if not self.stack or self.stack.pop() != seen.name:
            self.refused = True
        elif not self.stack and seen.caller in FUNCTIONS:
            self.refused = True  # a function of the model called it: so it is no interlude
        elif not self.stack and seen.caller and seen.name == self.start:
            self.name = self.name or f"windows of {seen.caller}()"
        elif not self.stack and seen.caller and self.idle and seen.name in CALLED_ELSEWHERE:
            self.name = self.name or f"{seen.name}() called by {seen.caller}()"
        if seen.name == self.end:
            self.open -= 1

    @property
    def accepted(self) -> bool:
        return bool(self.name) and not self.refused and not self.stack and self.open == 0


NOTIFIER = "__mmu_notifier_invalidate_range_start"

CALLED_ELSEWHERE = frozenset({"hva_to_pfn", "kvm_unmap_gfn_range"})
"""Functions of the model that the kernel also calls from places that the model does not have."""
