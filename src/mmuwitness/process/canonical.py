"""One state for all that differ in the order of interchangeable things: LLVM IR.

`canonical(state)` sorts in place: first each page by who refers to it (which PTE, which SPTE, which
local), then each vCPU by all that it is, then the pages again, by vCPUs, too.  Handles, owners and
readers of locks are renamed as things move.  Things that come out alike are left as they are, which
may keep two states apart that need not be, and never takes two for one that are not.

    n = reduced(state, out, meta, info)

is `successors` with each successor brought to that form.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from mmuwitness.model.state import Kind, Lock, OfValue, Ref
from mmuwitness.process.ir import Reg
from mmuwitness.process.layout import WORD, FrameLayout, Layout, Slot
from mmuwitness.process.lower import Function, signed
from mmuwitness.process.steps import Steps
from mmuwitness.process.symmetry import Kindred

CODE_BITS = 4
CODES_MAX = 1 << CODE_BITS  # what one word says of each: where it went
END = 0xFFFF  # of a list of bit positions


@dataclass(frozen=True)
class Bits:
    """Some bits of a word."""

    word: int
    shift: int
    width: int

    @property
    def mask(self) -> int:
        return (1 << self.width) - 1


def bits_of(slot: Slot) -> Bits:
    return Bits(slot.word, slot.shift, slot.width)


def handles_in(kind: Kind, slot: Slot, struct: str, layout: Layout) -> Iterator[Bits]:
    """Where a slot holds handles to a struct."""
    if isinstance(kind, Ref) and kind.struct == struct:
        yield bits_of(slot)
    if isinstance(kind, OfValue):
        for _, part, shift, width in kind.parts(layout.world.sizes):
            if isinstance(part, Ref) and part.struct == struct:
                yield Bits(slot.word, slot.shift + shift, width)


class Canonical:
    """Writes the function for one program."""

    def __init__(self, layout: Layout, steps: list[Steps]) -> None:
        self.layout, self.steps = layout, steps
        self.f = Function("define void @canonical(ptr %s)")
        self.tables: list[str] = []
        self.passes = 0

    def text(self, kindred: Collection[Kindred]) -> str:
        run = [each for each in kindred if each.processes]
        still = [each for each in kindred if not each.processes]
        others = set(range(len(self.steps))) - {pid for each in run for pid in each.processes}
        run_structs = {each.struct for each in run}
        if run:
            for each in still:
                self.sort_instances(each.struct, others, run_structs)
            for each in run:
                self.sort_processes(each)
        for each in still:
            self.sort_instances(each.struct, set(range(len(self.steps))), set())
        self.f.do("ret void")
        return "\n\n".join([*self.tables, self.f.text(), self.reduced()])

    def reduced(self) -> str:
        f = Function("define i64 @reduced(ptr %in, ptr %out, ptr %meta, ptr %info)")
        many = f.value("call i64 @successors(ptr %in, ptr %out, ptr %meta, ptr %info)")
        f.set("k", 0)
        f.do("br label %more")
        f.label("more")
        k = f.get("k")
        f.do(f"br i1 {f.truth('ult', k, many)}, label %sort, label %end")
        f.label("sort", joins=False)
        at = f.bin("mul", k, self.layout.words)
        f.do(f"call void @canonical(ptr {f.value(f'getelementptr i64, ptr %out, i64 {at}')})")
        f.set("k", f.bin("add", k, 1))
        f.do("br label %more")
        f.label("end")
        f.do(f"ret i64 {many}")
        return f.text()

    # -- bits --------------------------------------------------------------------------------

    def word(self, number: int | str) -> str:
        return self.f.value(f"getelementptr i64, ptr %s, i64 {number}")

    def get(self, bits: Bits) -> str:
        raw = self.f.value(f"load i64, ptr {self.word(bits.word)}")
        return self.f.bin("and", self.f.bin("lshr", raw, bits.shift), signed(bits.mask))

    def put(self, bits: Bits, code: str) -> None:
        f, at = self.f, self.word(bits.word)
        old = f.bin("and", f.value(f"load i64, ptr {at}"), signed(~(bits.mask << bits.shift)))
        f.do(f"store i64 {f.bin('or', old, f.bin('shl', code, bits.shift))}, ptr {at}")

    def code_at(self, table: str, code: str) -> str:
        """What a table of codes has for one."""
        shifted = self.f.bin("lshr", table, self.f.bin("mul", code, CODE_BITS))
        return self.f.bin("and", shifted, CODES_MAX - 1)

    def packed(self, pieces: list[Bits], size: int) -> str:
        """All pieces as one integer of `size` bits."""
        total, at = "0", 0
        for piece in pieces:
            wide = self.widened(self.get(piece), size)
            total = self.wide("or", total, self.wide("shl", wide, at, size), size)
            at += piece.width
        return total

    def wide(self, name: str, a: str, b: str | int, size: int) -> str:
        return self.f.value(f"{name} i{size} {a}, {b}")

    def widened(self, value: str, size: int) -> str:
        return value if size == 64 else self.f.value(f"zext i64 {value} to i{size}")

    def narrowed(self, value: str, size: int) -> str:
        return value if size == 64 else self.f.value(f"trunc i{size} {value} to i64")

    def unpacked(self, record: str, pieces: list[Bits], size: int, at: int) -> None:
        for piece in pieces:
            shifted = self.narrowed(self.wide("lshr", record, at, size), size)
            self.put(piece, self.f.bin("and", shifted, signed(piece.mask)))
            at += piece.width

    def sorted(self, records: list[str], size: int) -> list[str]:
        made = list(records)
        for last in range(len(made) - 1, 0, -1):
            for i in range(last):
                a, b = made[i], made[i + 1]
                more = self.f.value(f"icmp ugt i{size} {a}, {b}")
                made[i] = self.f.value(f"select i1 {more}, i{size} {b}, i{size} {a}")
                made[i + 1] = self.f.value(f"select i1 {more}, i{size} {a}, i{size} {b}")
        return made

    # -- instances ---------------------------------------------------------------------------

    def sort_instances(self, struct: str, pids: set[int], passed_over: set[str]) -> None:
        """By who refers to each: shared fields but those of some structs, locals of some
        processes; then by what each holds."""
        count = len(self.layout.world.instances(struct))
        owned = [self.pieces_of(struct, number) for number in range(count)]
        seen_by = self.frame_handles(struct)
        looked_at = [
            bits for holder, bits in self.shared_handles(struct) if holder not in passed_over
        ]
        self.passes += 1
        keys = f"%keys{self.passes}"
        self.f.do(f"{keys} = alloca [{count + 1} x i64]")
        for number in range(count + 1):
            self.f.do(f"store i64 0, ptr {self.element(keys, number)}")
        for position, bits in enumerate(looked_at, 1):
            self.f.do(f"store i64 {position}, ptr {self.element(keys, self.get(bits))}")
        position = len(looked_at) + 1
        for pid in sorted(pids & seen_by.keys()):
            self.each_handle(pid, seen_by[pid], struct, Noted(keys, position))
            position += max(map(len, seen_by[pid]))
        number_bits, key_bits = count.bit_length(), position.bit_length()
        own_bits = sum(piece.width for piece in owned[0])
        size = whole_words(number_bits + own_bits + key_bits)
        records = []
        for number, pieces in enumerate(owned):
            key = self.f.value(f"load i64, ptr {self.element(keys, number + 1)}")
            high = self.wide("shl", self.widened(key, size), own_bits + number_bits, size)
            own = self.wide("shl", self.packed(pieces, size), number_bits, size)
            records.append(self.wide("or", self.wide("or", high, own, size), str(number), size))
        places = []
        for place, record in enumerate(self.sorted(records, size)):
            self.unpacked(record, owned[place], size, number_bits)
            old = self.f.bin("and", self.narrowed(record, size), (1 << number_bits) - 1)
            places.append(self.f.bin("add", old, 1))
        self.rename_handles(struct, places)

    def rename_handles(self, struct: str, places: list[str]) -> None:
        """places: for each place the code of the instance that is there now."""
        moved = "0"
        for place, code in enumerate(places, 1):
            there = self.f.bin("shl", place, self.f.bin("mul", code, CODE_BITS))
            moved = self.f.bin("or", moved, there)
        self.f.set("moved", moved)
        for _, bits in self.shared_handles(struct):
            self.put(bits, self.code_at(self.f.get("moved"), self.get(bits)))
        for pid, by_pc in sorted(self.frame_handles(struct).items()):
            self.each_handle(pid, by_pc, struct, Renamed())

    def element(self, array: str, number: int | str) -> str:
        return self.f.value(f"getelementptr i64, ptr {array}, i64 {number}")

    def pieces_of(self, struct: str, number: int) -> list[Bits]:
        """All that an instance holds."""
        found = []
        for declared, slots in self.layout.shared():
            if declared.struct == struct:
                for each in (slots, self.layout.readers.get(declared.key, [])):
                    length = len(each) // len(self.layout.world.instances(struct))
                    found += [bits_of(s) for s in each[number * length : (number + 1) * length]]
        return [bits for bits in found if bits.width]

    def shared_handles(self, struct: str) -> list[tuple[str, Bits]]:
        """Where shared fields hold handles, each with the struct whose field it is."""
        return [
            (declared.struct, bits)
            for declared, slots in self.layout.shared()
            if not isinstance(declared.kind, Lock)
            for slot in slots
            for bits in handles_in(declared.kind, slot, struct, self.layout)
        ]

    def frame_handles(self, struct: str) -> dict[int, list[list[Bits]]]:
        """Where the locals of each process hold handles, by pc."""
        found = {}
        for pid, frame in enumerate(self.layout.frames):
            by_pc = [
                [b for reg, slot in live.items() for b in self.local_handles(reg, slot, struct)]
                for live in frame.live
            ]
            if any(by_pc):
                found[pid] = by_pc
        return found

    def local_handles(self, reg: Reg, slot: Slot, struct: str) -> Iterator[Bits]:
        return handles_in(reg.kind, slot, struct, self.layout)

    def each_handle(self, pid: int, by_pc: list[list[Bits]], struct: str, use: Use) -> None:
        """A loop over the handles among the locals of a process, where it stands."""
        f, most = self.f, max(map(len, by_pc)) + 1
        table = f"@handles_{struct}{pid}"
        rows = [[WORD * b.word + b.shift for b in row] for row in [*by_pc, []]]
        numbers = [n for row in rows for n in [*row, *[END] * (most - len(row))]]
        line = f"{table} = internal constant [{len(numbers)} x i16] ["
        line += ", ".join(f"i16 {signed_half(n)}" for n in numbers) + "]"
        if line not in self.tables:
            self.tables.append(line)
        f.count += 1
        more, inside, end = (f"{name}{f.count}" for name in ("more", "inside", "end"))
        first = f.bin("mul", self.get(bits_of(self.layout.frames[pid].pc)), most)
        f.set("first", first)
        f.set("at", first)
        f.do(f"br label %{more}")
        f.label(more)
        at = f.get("at")
        entry = f.value(f"getelementptr i16, ptr {table}, i64 {at}")
        place = f.value(f"zext i16 {f.value(f'load i16, ptr {entry}')} to i64")
        f.do(f"br i1 {f.truth('eq', place, END)}, label %{end}, label %{inside}")
        f.label(inside, joins=False)
        word, shift = self.word(f.bin("lshr", place, 6)), f.bin("and", place, 63)
        mask = next(b.mask for row in by_pc for b in row)
        old = f.value(f"load i64, ptr {word}")
        code = f.bin("and", f.bin("lshr", old, shift), mask)
        use.write(self, Handle(word, shift, old, code, mask, f.bin("sub", at, f.get("first"))))
        f.set("at", f.bin("add", at, 1))
        f.do(f"br label %{more}")
        f.label(end)

    # -- processes ---------------------------------------------------------------------------

    def sort_processes(self, kindred: Kindred) -> None:
        """By all that each is: where it stands, its locals, the fields of its instance."""
        pids = kindred.processes
        owned = [
            [*frame_pieces(self.layout.frames[pid]), *self.pieces_of(kindred.struct, number)]
            for number, pid in enumerate(pids)
        ]
        number_bits = len(pids).bit_length()
        size = whole_words(number_bits + sum(piece.width for piece in owned[0]))
        records = []
        for number, pieces in enumerate(owned):
            own = self.wide("shl", self.packed(pieces, size), number_bits, size)
            records.append(self.wide("or", own, str(number), size))
        everyone = range(len(self.steps) + 1)
        moved = str(sum(code << CODE_BITS * code for code in everyone if code - 1 not in pids))
        codes = sum(pid + 1 << CODE_BITS * number for number, pid in enumerate(pids))
        places = []
        for place, record in enumerate(self.sorted(records, size)):
            self.unpacked(record, owned[place], size, number_bits)
            old = self.f.bin("and", self.narrowed(record, size), (1 << number_bits) - 1)
            places.append(self.f.bin("add", old, 1))
            shift = self.f.bin("mul", self.code_at(str(codes), old), CODE_BITS)
            moved = self.f.bin("or", moved, self.f.bin("shl", pids[place] + 1, shift))
        for declared, slots in self.layout.shared():
            if isinstance(declared.kind, Lock):
                for slot in map(bits_of, slots):
                    self.put(slot, self.code_at(moved, self.get(slot)))
                for slot in map(bits_of, self.layout.readers.get(declared.key, ())):
                    self.put(slot, self.renamed_readers(slot, moved, pids))
        self.rename_handles(kindred.struct, places)

    def renamed_readers(self, slot: Bits, moved: str, pids: tuple[int, ...]) -> str:
        mask = self.get(slot)
        made = self.f.bin("and", mask, slot.mask & ~sum(1 << pid for pid in pids))
        for pid in pids:
            bit = self.f.bin("and", self.f.bin("lshr", mask, pid), 1)
            there = self.f.bin("sub", self.code_at(moved, str(pid + 1)), 1)
            made = self.f.bin("or", made, self.f.bin("shl", bit, there))
        return made


@dataclass(frozen=True)
class Handle:
    """A handle in a loop: pointer to its word, where in it, the word, the handle, and its number
    in the loop."""

    word: str
    shift: str
    old: str
    code: str
    mask: int
    number: str


class Use:
    """What is done with each handle of a loop."""

    def write(self, to: Canonical, handle: Handle) -> None:
        raise NotImplementedError


@dataclass(frozen=True)
class Noted(Use):
    """The instance is known by the last place that refers to it."""

    keys: str
    position: int

    def write(self, to: Canonical, handle: Handle) -> None:
        place = to.f.bin("add", handle.number, self.position)
        to.f.do(f"store i64 {place}, ptr {to.element(self.keys, handle.code)}")


@dataclass(frozen=True)
class Renamed(Use):
    """The handle leads to where the instance went."""

    def write(self, to: Canonical, handle: Handle) -> None:
        f = to.f
        cleared = f.bin(
            "and", handle.old, f.bin("xor", f.bin("shl", handle.mask, handle.shift), -1)
        )
        new = to.code_at(f.get("moved"), handle.code)
        f.do(
            f"store i64 {f.bin('or', cleared, f.bin('shl', new, handle.shift))}, ptr {handle.word}"
        )


def whole_words(bits: int) -> int:
    return -(-bits // WORD) * WORD


def signed_half(number: int) -> int:
    return number - (1 << 16) if number >> 15 else number


def frame_pieces(frame: FrameLayout) -> list[Bits]:
    """All bits of a frame, word by word.  (Frames of one text are laid out alike.)"""
    found = []
    for word, mask in enumerate(frame.masks):
        if mask:
            low = (mask & -mask).bit_length() - 1
            found.append(Bits(word, low, mask.bit_length() - low))
    return found


def fits(layout: Layout, kindred: Kindred) -> bool:
    """Whether codes fit into the words that say where things went, and frames are alike."""
    if kindred.count(layout.world) >= CODES_MAX or len(layout.frames) >= CODES_MAX:
        return False
    return len({shape(layout.frames[pid]) for pid in kindred.processes}) <= 1


def shape(frame: FrameLayout) -> tuple[object, ...]:
    """Where everything in a frame lies, seen from its start."""
    start = WORD * frame.pc.word + frame.pc.shift
    slots = [*frame.snapshots.values(), *(s for live in frame.live for s in live.values())]
    places = tuple((WORD * s.word + s.shift - start, s.width) for s in slots if s.width)
    return places, tuple(piece.width for piece in frame_pieces(frame))


def lower_canonical(layout: Layout, steps: list[Steps], kindred: Collection[Kindred]) -> str:
    return Canonical(layout, steps).text(kindred)
