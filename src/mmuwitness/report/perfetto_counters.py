"""Counters of each VM, written whenever they change or are read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from mmuwitness.report.perfetto_writer import PerfettoWriter

AS_READ = "As probes read it on entry of KVM's functions: before they change it."
DESCRIPTIONS = {
    "windows open": "Invalidations that have reached this VM and have not ended.",
    "windows open over memslots": "Invalidations of this VM's memory that have not ended: what "
    "mmu_invalidate_in_progress counts, at each moment.",
    "mmu_invalidate_in_progress": AS_READ,
    "mmu_invalidate_seq": AS_READ,
    "SPTEs": "Leaf SPTEs that appeared since the trace began, less those that went.",
}
FIRST_RANK = 3  # behind the VM's other tracks


class Counters:
    """The counters of all VMs; None: of one that is not known."""

    def __init__(self, writer: PerfettoWriter, vm_track: Callable[[int | None], int]) -> None:
        self.writer, self.vm_track = writer, vm_track
        self._tracks: dict[tuple[int | None, str], int] = {}
        self._values = Counter[tuple[int | None, str]]()

    def set(self, vm: int | None, name: str, time: int, value: int) -> None:
        """It has this value."""
        track = self._tracks.get((vm, name))
        if track is None:
            rank = FIRST_RANK + list(DESCRIPTIONS).index(name)
            track = self.writer.counter(name, self.vm_track(vm), rank, DESCRIPTIONS[name])
            self._tracks[vm, name] = track
        self._values[vm, name] = value
        self.writer.count(track, time, value)

    def add(self, vm: int | None, name: str, time: int, more: int) -> None:
        """It grows, from 0 where the trace begins."""
        self.set(vm, name, time, self._values[vm, name] + more)
