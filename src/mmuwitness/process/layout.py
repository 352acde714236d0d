"""Where everything lies in a packed state: shared fields first, then one frame per process.

No element straddles a 64-bit word.  A frame holds the pc, the snapshot marks (at fixed places, so
that a bump can clear those of every process) and the live locals, packed anew for each pc.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from mmuwitness.model.state import Field, Lock, LockState, Sequence, Snapshot, World
from mmuwitness.process.errors import ProcessError
from mmuwitness.process.ir import Process, Reg
from mmuwitness.process.steps import Steps

WORD = 64


@dataclass(frozen=True)
class Slot:
    """`width` bits at `shift` of word `word`; the coded value minus `lo` is stored there."""

    word: int
    shift: int
    width: int
    lo: int = 0

    @property
    def mask(self) -> int:
        return (1 << self.width) - 1

    def get(self, words: list[int] | tuple[int, ...]) -> int:
        return (words[self.word] >> self.shift & self.mask) + self.lo

    def put(self, words: list[int], code: int) -> None:
        assert 0 <= code - self.lo <= self.mask, (self, code)
        words[self.word] &= ~(self.mask << self.shift)
        words[self.word] |= (code - self.lo) << self.shift


class Cursor:
    """Hands out slots in order; skips to the next word rather than straddle two."""

    def __init__(self, bit: int = 0) -> None:
        self.bit = bit

    def take(self, width: int, lo: int = 0) -> Slot:
        if width == 0:  # it has one value only: no bits, of the word that was used last
            return Slot(max(self.bit - 1, 0) // WORD, 0, 0, lo)
        if self.bit % WORD + width > WORD:
            self.bit += WORD - self.bit % WORD
        slot = Slot(self.bit // WORD, self.bit % WORD, width, lo)
        self.bit += width
        return slot


@dataclass
class FrameLayout:
    """One process: its pc, a mark per snapshot register, and live registers by pc."""

    pc: Slot
    snapshots: dict[Reg, Slot]
    live: list[dict[Reg, Slot]]
    masks: list[int]  # the bits of each word that belong to this frame


@dataclass
class Layout:
    """Slots of every shared element and frame.  Locks have an owner (0 free, else pid + 1) and,
    where somebody reads, a mask of readers."""

    world: World
    elements: dict[str, list[Slot]] = field(default_factory=dict)
    readers: dict[str, list[Slot]] = field(default_factory=dict)
    frames: list[FrameLayout] = field(default_factory=list)
    words: int = 0

    def shared(self) -> Iterator[tuple[Field, list[Slot]]]:
        for declared, _ in self.world.fields():
            if declared.key in self.elements:
                yield declared, self.elements[declared.key]


def make_layout(
    world: World,
    steps: list[Steps],
    kept: set[str],
    shared_locks: set[str],
    movable: Collection[int] = (),
) -> Layout:
    """kept: keys of the fields that the program writes or locks; the others are constants.
    shared_locks: keys of the locks that somebody takes for reading.  movable: processes that may
    change places, so their frames are laid out alike."""
    layout, cursor = Layout(world), Cursor()
    processes = len(steps)
    for declared, instances in world.fields():
        if not isinstance(declared.kind, Sequence | Lock):
            refuse_wide(declared, world)
        if declared.key not in kept or isinstance(declared.kind, Sequence):
            continue
        count = len(instances) * declared.length(world.sizes)
        if isinstance(declared.kind, Lock):
            layout.elements[declared.key] = take_array(cursor, count, processes.bit_length(), 0)
            if declared.key in shared_locks:
                layout.readers[declared.key] = take_array(cursor, count, processes, 0)
            continue
        width = declared.kind.width(world.sizes)
        layout.elements[declared.key] = take_array(cursor, count, width, declared.kind.lo)
    for pid, each in enumerate(steps):
        if pid in movable:
            whole = Cursor()
            frame_layout(world, each, whole)
            if cursor.bit % WORD + whole.bit > WORD:
                cursor.bit += -cursor.bit % WORD
        layout.frames.append(frame_layout(world, each, cursor))
    layout.words = max(1, -(-cursor.bit // WORD))
    return layout


def refuse_wide(declared: Field, world: World) -> None:
    """A value of a field is one word, as the hardware reads and writes it."""
    width = declared.kind.width(world.sizes)
    if width > WORD:
        raise ProcessError(f"{declared.key}: its values have {width} bits; at most {WORD} fit")


def take_array(cursor: Cursor, count: int, width: int, lo: int) -> list[Slot]:
    """Slots of an array: in one word if it fits, so that an index becomes a shift."""
    total = count * width
    if total <= WORD and cursor.bit % WORD + total > WORD:
        cursor.bit += WORD - cursor.bit % WORD
    return [cursor.take(width, lo) for _ in range(count)]


def snapshot_registers(process: Process) -> list[Reg]:
    found: dict[Reg, None] = {}
    for _, _, op in process.ops():
        for reg in (op.dst, *op.args):
            if isinstance(reg, Reg) and isinstance(reg.kind, Snapshot):
                found[reg] = None
    return list(found)


def frame_layout(world: World, steps: Steps, cursor: Cursor) -> FrameLayout:
    pc = cursor.take(steps.done.bit_length())
    live_anywhere = {r for b in steps.boundaries for r in b.live}
    marks = [r for r in snapshot_registers(steps.process) if r in live_anywhere]
    snapshots = {reg: cursor.take(1) for reg in marks}
    start, end, live = cursor.bit, cursor.bit, []
    for boundary in steps.boundaries:
        packed = Cursor(start)
        slots = {}
        for reg in boundary.live:
            if not isinstance(reg.kind, Snapshot):
                slots[reg] = packed.take(reg.kind.width(world.sizes), reg.kind.lo)
        live.append(slots)
        end = max(end, packed.bit)
    cursor.bit = end
    masks = [0] * -(-end // WORD)
    for slot in (pc, *snapshots.values(), *(s for slots in live for s in slots.values())):
        masks[slot.word] |= slot.mask << slot.shift
    return FrameLayout(pc, snapshots, live, masks)


def initial_words(layout: Layout, steps: list[Steps]) -> list[int]:
    """The packed initial state, read from the objects of the world."""
    words = [0] * layout.words
    for declared, slots in layout.shared():
        instances = layout.world.instances(declared.struct)
        for slot, code in zip(slots, codes_of(declared, instances, layout.world), strict=True):
            slot.put(words, code)
    for frame, each in zip(layout.frames, steps, strict=True):
        frame.pc.put(words, each.initial)
    return words


def codes_of(declared: Field, instances: list[object], world: World) -> Iterator[int]:
    """The coded value of every element of a field, from replay objects.  Locks: the owner."""
    for instance in instances:
        cell = instance.cells[declared.name]  # type: ignore[attr-defined]
        if isinstance(cell, LockState):
            yield 0 if cell.owner is None else cell.owner + 1
        elif declared.array is None:
            yield declared.kind.encode(cell, world.sizes)
        else:
            for item in cell.items:
                yield declared.kind.encode(item, world.sizes)
