"""Lowering: steps to LLVM IR text.  One function per process and claim, and `successors`, which
writes every successor of a packed state.

Registers and state words are stack slots; LLVM promotes them.  All arithmetic is in i64.  The
only other module that knows this IR is `native`, which compiles it.
"""

from __future__ import annotations

from mmuwitness.model.state import Field
from mmuwitness.process.errors import Location
from mmuwitness.process.ir import Block, Op, Operand, Process, Reg
from mmuwitness.process.layout import Layout, Slot, codes_of, snapshot_registers
from mmuwitness.process.lowered import ErrorSite, Lowered
from mmuwitness.process.steps import Steps

BLOCKED, STEPPED, ERROR, DONE = 0, 1, 2, 3
COMPARISONS = {"eq": "eq", "ne": "ne", "lt": "slt", "le": "sle", "gt": "sgt", "ge": "sge"}


class Function:
    """Emits one LLVM function: numbered values, labels and stack slots."""

    def __init__(self, header: str) -> None:
        self.header, self.lines, self.count = header, list[str](), 0
        self.allocas: dict[object, str] = {}
        self.known: dict[object, str] = {}  # what each slot holds here
        self.unslotted: set[object] = set()  # values used only where `known` has them

    def value(self, instruction: str) -> str:
        self.count += 1
        self.lines.append(f"%v{self.count} = {instruction}")
        return f"%v{self.count}"

    def do(self, instruction: str) -> None:
        self.lines.append(instruction)

    def label(self, name: str, joins: bool = True) -> None:
        """joins: control may come here from several places, where slots hold different values."""
        if joins:
            self.known.clear()
        self.lines.append(f"{name}:")

    def slot(self, owner: object) -> str:
        if owner not in self.allocas:
            self.allocas[owner] = f"%s{len(self.allocas)}"
        return self.allocas[owner]

    def get(self, owner: object) -> str:
        if owner not in self.known:
            self.known[owner] = self.value(f"load i64, ptr {self.slot(owner)}")
        return self.known[owner]

    def set(self, owner: object, value: str | int) -> None:
        self.known[owner] = str(value)
        if owner not in self.unslotted:
            self.do(f"store i64 {value}, ptr {self.slot(owner)}")

    def bin(self, name: str, a: str | int, b: str | int) -> str:
        return self.value(f"{name} i64 {a}, {b}")

    def truth(self, comparison: str, a: str | int, b: str | int) -> str:
        return self.value(f"icmp {comparison} i64 {a}, {b}")

    def text(self) -> str:
        made = [f"{s} = alloca i64\nstore i64 0, ptr {s}" for s in self.allocas.values()]
        return "\n".join([self.header + " {", "start:", *made, *self.lines, "}"])


class Body:
    """What a process and a claim have in common: operations over packed words."""

    def __init__(self, layout: Layout, lowered: Lowered, header: str) -> None:
        self.layout, self.lowered, self.f = layout, lowered, Function(header)
        self.labels: dict[int, str] = {}
        self.processes = len(layout.frames)

    def read_words(self) -> None:
        for word in range(self.layout.words):
            pointer = self.f.value(f"getelementptr i64, ptr %in, i64 {word}")
            self.f.set(word, self.f.value(f"load i64, ptr {pointer}"))

    def operand(self, value: Operand) -> str:
        return str(value) if isinstance(value, int) else self.f.get(value)

    def label_of(self, block: Block) -> str:
        return self.labels.setdefault(id(block), f"b{len(self.labels)}")

    # -- slots -----------------------------------------------------------------------------

    def get_slot(self, slot: Slot) -> str:
        raw = self.f.bin("lshr", self.f.get(slot.word), slot.shift)
        code = self.f.bin("and", raw, slot.mask)
        return self.f.bin("add", code, slot.lo) if slot.lo else code

    def put_slot(self, slot: Slot, code: str | int) -> None:
        f = self.f
        raw = f.bin("sub", code, slot.lo) if slot.lo else code
        cleared = f.bin("and", f.get(slot.word), signed(~(slot.mask << slot.shift)))
        f.set(slot.word, f.bin("or", cleared, f.bin("shl", raw, slot.shift)))

    def load_element(self, field: Field, element: Operand) -> str:
        slots = self.layout.elements.get(field.key)
        if slots is None:
            return self.constant_element(field, element)
        if isinstance(element, int):
            return self.get_slot(slots[element])
        index = self.operand(element)
        if len({s.word for s in slots}) == 1:
            slot = slots[0]
            shift = self.f.bin("add", self.f.bin("mul", index, slot.width), slot.shift)
            code = self.f.bin("and", self.f.bin("lshr", self.f.get(slot.word), shift), slot.mask)
            return self.f.bin("add", code, slot.lo) if slot.lo else code
        return self.choose_by_index(index, [self.get_slot(s) for s in slots])

    def constant_element(self, field: Field, element: Operand) -> str:
        """A field that nothing in the program writes: its initial value."""
        instances = self.layout.world.instances(field.struct)
        codes = [str(c) for c in codes_of(field, instances, self.layout.world)]
        if isinstance(element, int):
            return codes[element]
        return self.choose_by_index(self.operand(element), codes)

    def choose_by_index(self, index: str, values: list[str]) -> str:
        result = values[0]
        for i, value in enumerate(values[1:], 1):
            here = self.f.truth("eq", index, i)
            result = self.f.value(f"select i1 {here}, i64 {value}, i64 {result}")
        return result

    def store_element(self, slots: list[Slot], element: Operand, code: str) -> None:
        f = self.f
        if isinstance(element, int):
            return self.put_slot(slots[element], code)
        index = self.operand(element)
        raw = f.bin("sub", code, slots[0].lo) if slots[0].lo else code
        if len({s.word for s in slots}) == 1:
            slot = slots[0]
            shift = f.bin("add", f.bin("mul", index, slot.width), slot.shift)
            mask = f.bin("xor", f.bin("shl", slot.mask, shift), -1)
            cleared = f.bin("and", f.get(slot.word), mask)
            return f.set(slot.word, f.bin("or", cleared, f.bin("shl", raw, shift)))
        for i, slot in enumerate(slots):
            here = f.truth("eq", index, i)
            old = f.get(slot.word)
            cleared = f.bin("and", old, signed(~(slot.mask << slot.shift)))
            new = f.bin("or", cleared, f.bin("shl", raw, slot.shift))
            f.set(slot.word, f.value(f"select i1 {here}, i64 {new}, i64 {old}"))
        return None

    # -- operations ------------------------------------------------------------------------

    def op(self, op: Op) -> None:
        getattr(self, "op_" + op.code)(op)

    def result(self, op: Op, value: str) -> None:
        assert op.dst is not None
        self.f.set(op.dst, value)

    def op_loop(self, op: Op) -> None:
        pass

    op_begin = op_wait = op_trace = op_leave = op_loop

    def op_mov(self, op: Op) -> None:
        self.result(op, self.operand(op.args[0]))

    def op_bin(self, op: Op) -> None:
        a, b = (self.operand(x) for x in op.args)
        if op.extra in COMPARISONS:
            value = self.f.value(f"zext i1 {self.f.truth(COMPARISONS[op.extra], a, b)} to i64")
        elif op.extra in ("min", "max"):
            first = self.f.truth("slt" if op.extra == "min" else "sgt", a, b)
            value = self.f.value(f"select i1 {first}, i64 {a}, i64 {b}")
        else:
            value = self.f.bin(op.extra, a, b)
        self.result(op, value)

    def op_extract(self, op: Op) -> None:
        shift, width, lo = op.extra
        raw = self.f.bin("lshr", self.operand(op.args[0]), shift)
        code = self.f.bin("and", raw, (1 << width) - 1)
        self.result(op, self.f.bin("add", code, lo) if lo else code)

    def op_insert(self, op: Op) -> None:
        shift, width, lo = op.extra
        cleared = self.f.bin(
            "and", self.operand(op.args[0]), signed(~(((1 << width) - 1) << shift))
        )
        raw = self.f.bin("sub", self.operand(op.args[1]), lo)
        self.result(op, self.f.bin("or", cleared, self.f.bin("shl", raw, shift)))

    def op_load(self, op: Op) -> None:
        assert op.field is not None
        self.result(op, self.load_element(op.field, op.args[0]))

    def op_check(self, op: Op) -> None:
        """An error unless lo <= value <= hi, as one unsigned comparison."""
        lo, hi, message = op.extra
        offset = self.f.bin("sub", self.operand(op.args[0]), lo)
        self.fail_if(self.f.truth("ugt", offset, hi - lo), message, op.where)

    def fail_if(self, condition: str, message: str, where: Location) -> None:
        self.lowered.errors.append(ErrorSite(message, where))
        number = len(self.lowered.errors)
        self.f.do(f"br i1 {condition}, label %e{number}, label %ok{number}")
        self.f.label(f"e{number}", joins=False)
        self.f.do(f"store i64 {number}, ptr %aux")
        self.f.do(f"ret i64 {ERROR}")
        self.f.label(f"ok{number}", joins=False)

    def ends(self, block: Block) -> None:
        assert block.end is not None
        if block.end[0] == "jump":
            self.f.do(f"br label %{self.label_of(block.end[1])}")
        elif block.end[0] == "branch":
            _, reg, yes, no = block.end
            condition = self.f.truth("ne", self.operand(reg), 0)
            targets = f"label %{self.label_of(yes)}, label %{self.label_of(no)}"
            self.f.do(f"br i1 {condition}, {targets}")
        else:
            getattr(self, "end_" + block.end[0])()


class ClaimBody(Body):
    """A claim: 1 if it holds in the state, or a lock that it needs free is held."""

    def lower(self, process: Process, needs: list[tuple[str, int]], result: Operand) -> str:
        self.read_words()
        self.value = result
        for key, element in needs:
            for table in (self.layout.elements, self.layout.readers):
                if key in table:
                    free = self.f.truth("eq", self.get_slot(table[key][element]), 0)
                    self.f.count += 1
                    following = f"n{self.f.count}"
                    self.f.do(f"br i1 {free}, label %{following}, label %held")
                    self.f.label(following)
        self.f.do(f"br label %{self.label_of(process.entry)}")
        for block in process.blocks:
            self.f.label(self.label_of(block))
            for op in block.ops:
                self.op(op)
            self.ends(block)
        self.f.label("held")
        self.f.do("ret i64 1")
        return self.f.text()

    def end_done(self) -> None:
        holds = self.f.truth("ne", self.operand(self.value), 0)
        self.f.do(f"ret i64 {self.f.value(f'zext i1 {holds} to i64')}")


class ProcessBody(Body):
    """A process: resumes at its pc, runs one step, writes the successor."""

    def lower(self, steps: Steps) -> str:
        self.steps, self.pid = steps, steps.process.pid
        self.frame = self.layout.frames[self.pid]
        self.f.unslotted = local_registers(steps)
        self.marked = snapshot_registers(steps.process)
        self.read_words()
        cases = " ".join(f"i64 {b.pc}, label %resume{b.pc}" for b in steps.boundaries)
        self.f.do(f"switch i64 {self.get_slot(self.frame.pc)}, label %finished [{cases}]")
        self.f.label("finished")
        self.f.do(f"ret i64 {DONE}")
        for boundary in steps.boundaries:
            self.f.label(f"resume{boundary.pc}")
            self.restore(boundary.pc)
            target = f"run{boundary.pc}"
            if boundary.op is None:
                target = self.label_of(steps.process.entry)
            self.f.do(f"br label %{target}")
        for block in steps.process.blocks:
            self.block(block)
        self.f.label("leave")
        for word in range(self.layout.words):
            pointer = self.f.value(f"getelementptr i64, ptr %out, i64 {word}")
            self.f.do(f"store i64 {self.f.get(word)}, ptr {pointer}")
        self.f.do(f"store i64 {self.f.get('marks')}, ptr %aux")
        self.f.do(f"ret i64 {STEPPED}")
        return self.f.text()

    def block(self, block: Block) -> None:
        self.f.label(self.label_of(block))
        for op in block.ops:
            if op.boundary >= 0:
                self.save(op.boundary)
                self.f.label(f"run{op.boundary}")
            if self.lowered.lines is not None:
                self.ran(self.lowered.line_number(op.where))
            self.op(op)
        self.ends(block)

    def ran(self, number: int) -> None:
        """Threads may store it at once: they all store the same."""
        byte = self.f.value(f"getelementptr i8, ptr @lines, i64 {number}")
        self.f.do(f"store i8 1, ptr {byte}")

    def restore(self, pc: int) -> None:
        live = set(self.steps.boundaries[pc].live)
        for reg, slot in self.frame.live[pc].items():
            self.f.set(reg, self.get_slot(slot))
        for reg, slot in self.frame.snapshots.items():
            if reg in live:
                self.f.set(reg, self.get_slot(slot))

    def save(self, pc: int) -> None:
        """The step ends: pc and live locals go into the frame, all else in it is cleared."""
        frame = self.frame
        parts: list[tuple[Slot, str]] = [(frame.pc, str(pc))]
        if pc < self.steps.done:
            live = self.steps.boundaries[pc].live
            places = frame.live[pc] | {r: s for r, s in frame.snapshots.items() if r in live}
            parts += [(slot, self.f.get(reg)) for reg, slot in places.items()]
        words = {
            word: self.f.bin("and", self.f.get(word), signed(~mask))
            for word, mask in enumerate(frame.masks)
            if mask
        }
        for slot, code in parts:
            raw = self.f.bin("sub", code, slot.lo) if slot.lo else code
            words[slot.word] = self.f.bin(
                "or", words[slot.word], self.f.bin("shl", raw, slot.shift)
            )
        for word, value in words.items():
            self.f.set(word, value)
        self.f.do("br label %leave")

    def end_done(self) -> None:
        self.save(self.steps.done)

    def end_blocked(self) -> None:
        self.f.do("store i64 0, ptr %aux")
        self.f.do(f"ret i64 {BLOCKED}")

    # -- operations of processes only ------------------------------------------------------

    def op_store(self, op: Op) -> None:
        assert op.field is not None
        slots = self.layout.elements[op.field.key]
        self.store_element(slots, op.args[0], self.operand(op.args[1]))

    def lock_element(self, table: dict[str, list[Slot]], op: Op) -> str:
        assert op.field is not None
        slots = table[op.field.key]
        element = op.args[0]
        if isinstance(element, int):
            return self.get_slot(slots[element])
        return self.choose_by_index(self.operand(element), [self.get_slot(s) for s in slots])

    def readers(self, op: Op) -> str:
        assert op.field is not None
        return (
            self.lock_element(self.layout.readers, op)
            if op.field.key in self.layout.readers
            else "0"
        )

    def set_owner(self, op: Op, owner: int) -> None:
        assert op.field is not None
        self.store_element(self.layout.elements[op.field.key], op.args[0], str(owner))

    def waits_on(self, op: Op) -> str:
        """Mask of the processes that this acquire has to wait for; 0 if the lock can be taken."""
        owner = self.lock_element(self.layout.elements, op)
        held = self.f.truth("ne", owner, 0)
        bit = self.f.bin("shl", 1, self.f.bin("sub", owner, 1))
        mask = self.f.value(f"select i1 {held}, i64 {bit}, i64 0")
        return self.f.bin("or", mask, self.readers(op)) if op.extra == "w" else mask

    def is_left_out(self, op: Op) -> bool:
        """A lock that can never make anyone wait is not in the state."""
        assert op.field is not None
        return op.field.key not in self.layout.elements

    def op_acquire(self, op: Op) -> None:
        if self.is_left_out(op):
            return
        mask = self.waits_on(op)
        self.f.count += 1
        free, busy = f"free{self.f.count}", f"busy{self.f.count}"
        self.f.do(f"br i1 {self.f.truth('eq', mask, 0)}, label %{free}, label %{busy}")
        self.f.label(busy, joins=False)
        self.f.do(f"store i64 {mask}, ptr %aux")
        self.f.do(f"ret i64 {BLOCKED}")
        self.f.label(free, joins=False)
        if op.extra == "w":
            self.set_owner(op, self.pid + 1)
        else:
            self.set_reader(op, True)

    def set_reader(self, op: Op, present: bool) -> None:
        assert op.field is not None
        mask, bit = self.readers(op), 1 << self.pid
        new = self.f.bin("or", mask, bit) if present else self.f.bin("and", mask, ~bit)
        self.store_element(self.layout.readers[op.field.key], op.args[0], new)

    def op_try(self, op: Op) -> None:
        if self.is_left_out(op):
            return self.result(op, "1")
        free = self.f.truth("eq", self.waits_on(op), 0)
        got = self.f.value(f"zext i1 {free} to i64")
        owner = self.lock_element(self.layout.elements, op)
        new = self.f.value(f"select i1 {free}, i64 {self.pid + 1}, i64 {owner}")
        assert op.field is not None
        self.store_element(self.layout.elements[op.field.key], op.args[0], new)
        return self.result(op, got)

    def op_release(self, op: Op) -> None:
        assert op.field is not None
        if self.is_left_out(op):
            return None
        if op.extra == "r":
            return self.set_reader(op, False)
        owner = self.lock_element(self.layout.elements, op)
        wrong = self.f.truth("ne", owner, self.pid + 1)
        self.fail_if(wrong, f"{op.field.key} is released by one who does not hold it", op.where)
        return self.set_owner(op, 0)

    def op_snap(self, op: Op) -> None:
        self.result(op, "1")

    def op_fresh(self, op: Op) -> None:
        self.result(op, self.operand(op.args[1]))

    def op_bump(self, op: Op) -> None:
        """Every live snapshot of the sequence, in every process, becomes stale."""
        masks = [0] * self.layout.words
        for frame in self.layout.frames:
            for reg, slot in frame.snapshots.items():
                if reg.snapshot_of == op.extra:
                    masks[slot.word] |= 1 << slot.shift
        for word, mask in enumerate(masks):
            if mask:
                self.f.set(word, self.f.bin("and", self.f.get(word), signed(~mask)))
        for reg in self.marked:
            if reg.snapshot_of == op.extra:
                self.f.set(reg, 0)

    def op_choose(self, op: Op) -> None:
        self.result(op, "%choice")

    def op_count(self, op: Op) -> None:
        """A function is entered: one more in the program's table of words, `@counts`."""
        number = self.lowered.counter_number(op.extra)
        word = self.f.value(f"getelementptr i64, ptr @counts, i64 {number}")
        more = self.f.bin("add", self.f.value(f"load i64, ptr {word}"), 1)
        self.f.do(f"store i64 {more}, ptr {word}")

    def op_cover(self, op: Op) -> None:
        if op.extra not in self.lowered.marks:
            self.lowered.marks.append(op.extra)
        bit = 1 << self.lowered.marks.index(op.extra)
        self.f.set("marks", self.f.bin("or", self.f.get("marks"), signed(bit)))


def local_registers(steps: Steps) -> set[object]:
    """Registers that live in one block and in no frame: they need no stack slot."""
    homes: dict[Reg, set[int]] = {}
    for block in steps.process.blocks:
        used = {r for op in block.ops for r in (op.dst, *op.args) if isinstance(r, Reg)}
        if block.end and block.end[0] == "branch":
            used.add(block.end[1])
        for reg in used:
            homes.setdefault(reg, set()).add(id(block))
    kept = {reg for boundary in steps.boundaries for reg in boundary.live}
    return {reg for reg, blocks in homes.items() if len(blocks) == 1 and reg not in kept}


def signed(value: int) -> int:
    """A 64-bit pattern as LLVM writes it."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def choices(steps: Steps) -> list[int]:
    """How many successors a process has at every pc, `done` included."""
    per_pc = [
        b.op.extra if b.op is not None and b.op.code == "choose" else 1 for b in steps.boundaries
    ]
    return [*per_pc, 1]
