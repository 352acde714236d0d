"""Lowering over arrays: one LLVM function for each operation, which runs one step of it.

    code = op(tables, frame, context)

tables: addresses, first of the counters and of the costs, then of the array of each field that the
program uses.  frame: the pc, whether an SPTE was zapped since the window was opened, then a word
for each register that is live where some step begins.
context: see `Context`.  What differs from `process.lower` is where state is; operations, steps and
errors are the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from mmuwitness.model.kvm.kvm_host import KVM
from mmuwitness.model.state import Field, Lock
from mmuwitness.model.state import Sequence as SequenceKind
from mmuwitness.process.ir import Block, Op, Operand, Reg
from mmuwitness.process.layout import Layout
from mmuwitness.process.lower import BLOCKED, DONE, STEPPED, Body, local_registers
from mmuwitness.process.lowered import Lowered
from mmuwitness.process.steps import Steps
from mmuwitness.simulate.arrays import WRITER, ArrayWorld
from mmuwitness.simulate.builder import WINDOW_OPENS


class Context(IntEnum):
    """Words of the context.  AUX: after a blocked step the address of the lock, or 0 for another
    wait; after an error its number.  COST: nanoseconds, added to.  RELEASED: set when a lock was
    dropped.  TASK: who runs.  CHOICE: any number, for the choice that the step begins with.
    AGAIN: 1 if the step was blocked before."""

    AUX = 0
    COST = 1
    RELEASED = 2
    TASK = 3
    CHOICE = 4
    AGAIN = 5


PC, ZAPPED, REGISTERS = 0, 1, 2
"""Words of a frame: the pc, whether something was zapped, the first register."""

COUNTS, COSTS, FIELDS = 0, 1, 2
"""Positions in the tables: counters, costs, the first field."""


@dataclass
class Tables:
    """What stands where: fields by key, counters and costs by name."""

    world: ArrayWorld
    fields: dict[str, Field] = field(default_factory=dict)
    counters: list[str] = field(default_factory=list)
    costs: list[str] = field(default_factory=list)

    def place(self, of: Field) -> int:
        self.fields.setdefault(of.key, of)
        return FIELDS + list(self.fields).index(of.key)

    def counter(self, name: str) -> int:
        if name not in self.counters:
            self.counters.append(name)
        return self.counters.index(name)

    def cost(self, name: str) -> int:
        if name not in self.costs:
            self.costs.append(name)
        return self.costs.index(name)


@dataclass
class Operation:
    """One lowered operation.  parameters: its arguments of the run, in order; arguments: the words
    of its frame that they are given in, of those that it looks at."""

    name: str
    parameters: tuple[str, ...]
    steps: Steps
    registers: dict[Reg, int]
    arguments: dict[str, int]

    @property
    def frame_words(self) -> int:
        return REGISTERS + len(self.registers)


def lower_operation(
    number: int,
    parameters: tuple[str, ...],
    steps: Steps,
    tables: Tables,
    lowered: Lowered,
) -> tuple[Operation, str]:
    """An operation and its LLVM text, as `@op<number>`."""
    live = dict.fromkeys(reg for boundary in steps.boundaries for reg in boundary.live)
    registers = {reg: REGISTERS + position for position, reg in enumerate(live)}
    arguments = {reg.name: at for reg, at in registers.items() if not reg.context}
    made = Operation(steps.process.name, parameters, steps, registers, arguments)
    header = f"define i64 @op{number}(ptr %tables, ptr %frame, ptr %aux)"
    return made, ArrayBody(tables, lowered, header).lower(made)


class ArrayBody(Body):
    """An operation: resumes at its pc, runs one step, keeps what is live in its frame."""

    def __init__(self, tables: Tables, lowered: Lowered, header: str) -> None:
        super().__init__(Layout(tables.world), lowered, header)
        self.tables = tables

    def lower(self, operation: Operation) -> str:
        self.registers, steps = operation.registers, operation.steps
        self.steps = steps
        self.f.unslotted = local_registers(steps)
        cases = " ".join(f"i64 {b.pc}, label %resume{b.pc}" for b in steps.boundaries)
        pc = self.f.value("load i64, ptr %frame")
        self.f.do(f"switch i64 {pc}, label %finished [{cases}]")
        self.f.label("finished")
        self.f.do(f"ret i64 {DONE}")
        for boundary in steps.boundaries:
            self.f.label(f"resume{boundary.pc}")
            for reg in boundary.live:
                self.f.set(reg, self.load_word("%frame", self.registers[reg]))
            start = boundary.op is None
            target = self.label_of(steps.process.entry) if start else f"run{boundary.pc}"
            self.f.do(f"br label %{target}")
        for block in steps.process.blocks:
            self.block(block)
        return self.f.text()

    def block(self, block: Block) -> None:
        self.f.label(self.label_of(block))
        for op in block.ops:
            if op.code == "spend":
                # the time passes here: the step ends, and what follows is done when it is over
                self.spend(op)
            if op.boundary >= 0:
                self.save(op.boundary)
                self.f.label(f"run{op.boundary}")
            self.op(op)
        self.ends(block)

    def save(self, pc: int) -> None:
        self.store_word("%frame", PC, pc)
        if pc < self.steps.done:
            for reg in self.steps.boundaries[pc].live:
                self.store_word("%frame", self.registers[reg], self.f.get(reg))
        self.f.do(f"ret i64 {STEPPED}")

    def end_done(self) -> None:
        self.save(self.steps.done)

    def end_blocked(self) -> None:
        self.store_word("%aux", Context.AUX, 0)
        self.f.do(f"ret i64 {BLOCKED}")

    # -- memory ----------------------------------------------------------------------------

    def word(self, base: str, position: int) -> str:
        return self.f.value(f"getelementptr i64, ptr {base}, i64 {position}")

    def load_word(self, base: str, position: int) -> str:
        return self.f.value(f"load i64, ptr {self.word(base, position)}")

    def store_word(self, base: str, position: int, value: str | int) -> None:
        self.f.do(f"store i64 {value}, ptr {self.word(base, position)}")

    def pointer(self, of: Field, element: Operand) -> tuple[str, str]:
        """The address of an element, and its LLVM type."""
        table = self.word("%tables", self.tables.place(of))
        base = self.f.value(f"load ptr, ptr {table}, !invariant.load !0")
        kind = f"i{8 * self.tables.world.item_bytes(of)}"
        at = f"getelementptr {kind}, ptr {base}, i64 {self.operand(element)}"
        return self.f.value(at), kind

    def load_element(self, field: Field, element: Operand) -> str:
        pointer, kind = self.pointer(field, element)
        raw = self.f.value(f"load {kind}, ptr {pointer}")
        if kind != "i64":
            raw = self.f.value(f"zext {kind} {raw} to i64")
        lo = 0 if isinstance(field.kind, Lock | SequenceKind) else field.kind.lo
        return self.f.bin("add", raw, lo) if lo else raw

    def store_at(self, field: Field, element: Operand, code: str | int) -> None:
        pointer, kind = self.pointer(field, element)
        lo = 0 if isinstance(field.kind, Lock | SequenceKind) else field.kind.lo
        raw = self.f.bin("sub", code, lo) if lo else str(code)
        if kind != "i64":
            raw = self.f.value(f"trunc i64 {raw} to {kind}")
        self.f.do(f"store {kind} {raw}, ptr {pointer}")

    def op_store(self, op: Op) -> None:
        assert op.field is not None
        code = self.operand(op.args[1])
        if op.field is KVM.spte:
            self.watch_zap(op, code)
        self.store_at(op.field, op.args[0], code)

    def watch_zap(self, op: Op, code: str) -> None:
        """An SPTE that was present and is not any more."""
        sizes = self.tables.world.sizes
        present = next(s for name, _, s, _ in KVM.spte.kind.parts(sizes) if name == "present")
        old = self.load_element(KVM.spte, op.args[0])
        gone = self.f.bin("and", old, self.f.bin("xor", code, -1))
        zapped = self.f.bin("and", self.f.bin("lshr", gone, present), 1)
        self.count("spte zapped", zapped)
        before = self.load_word("%frame", ZAPPED)
        self.store_word("%frame", ZAPPED, self.f.bin("or", before, zapped))

    def op_leave(self, op: Op) -> None:
        """A window is open: did that zap anything?"""
        self.count("window empty", self.f.bin("xor", self.load_word("%frame", ZAPPED), 1))

    # -- locks and sequences ---------------------------------------------------------------

    def held(self, op: Op) -> str:
        assert op.field is not None
        return self.load_element(op.field, op.args[0])

    def mine(self) -> str:
        return self.f.bin("add", self.load_word("%aux", Context.TASK), WRITER)

    def op_acquire(self, op: Op) -> None:
        assert op.field is not None
        now = self.held(op)
        if op.extra == "w":
            free, new = self.f.truth("eq", now, 0), self.mine()
        else:
            free, new = self.f.truth("ult", now, WRITER), self.f.bin("add", now, 1)
        self.f.count += 1
        go, busy = f"free{self.f.count}", f"busy{self.f.count}"
        self.f.do(f"br i1 {free}, label %{go}, label %{busy}")
        self.f.label(busy, joins=False)
        self.count(
            f"wait {op.field.key}", self.f.bin("sub", 1, self.load_word("%aux", Context.AGAIN))
        )
        pointer, _ = self.pointer(op.field, op.args[0])
        self.store_word("%aux", Context.AUX, self.f.value(f"ptrtoint ptr {pointer} to i64"))
        self.f.do(f"ret i64 {BLOCKED}")
        self.f.label(go, joins=False)
        self.store_at(op.field, op.args[0], new)
        self.count(f"lock {op.field.key}")

    def op_try(self, op: Op) -> None:
        assert op.field is not None
        now = self.held(op)
        free = self.f.truth("eq", now, 0)
        new = self.f.value(f"select i1 {free}, i64 {self.mine()}, i64 {now}")
        self.store_at(op.field, op.args[0], new)
        got = self.f.value(f"zext i1 {free} to i64")
        self.count(f"lock {op.field.key}", got)
        self.result(op, got)

    def op_release(self, op: Op) -> None:
        assert op.field is not None
        now = self.held(op)
        if op.extra == "r":
            new = self.f.bin("sub", now, 1)
        else:
            message = f"{op.field.key} is released by one who does not hold it"
            self.fail_if(self.f.truth("ne", now, self.mine()), message, op.where)
            new = "0"
        self.store_at(op.field, op.args[0], new)
        self.store_word("%aux", Context.RELEASED, 1)

    def op_snap(self, op: Op) -> None:
        self.result(op, self.held(op))

    def op_fresh(self, op: Op) -> None:
        same = self.f.truth("eq", self.held(op), self.operand(op.args[1]))
        self.result(op, self.f.value(f"zext i1 {same} to i64"))

    def op_bump(self, op: Op) -> None:
        assert op.field is not None
        self.store_at(op.field, op.args[0], self.f.bin("add", self.held(op), 1))

    # -- choices, counters, time -----------------------------------------------------------

    def op_choose(self, op: Op) -> None:
        self.result(op, self.f.bin("urem", self.load_word("%aux", Context.CHOICE), op.extra))

    def count(self, name: str, times: str | int = 1) -> None:
        counts = self.f.value("load ptr, ptr %tables, !invariant.load !0")
        place = self.word(counts, self.tables.counter(name))
        more = self.f.bin("add", self.f.value(f"load i64, ptr {place}"), times)
        self.f.do(f"store i64 {more}, ptr {place}")

    def op_count(self, op: Op) -> None:
        self.count(op.extra)
        if op.extra == WINDOW_OPENS:
            self.store_word("%frame", ZAPPED, 0)

    def op_cover(self, op: Op) -> None:
        self.count(f"mark {op.extra}")

    def op_trace(self, op: Op) -> None:
        self.count(f"trace {op.extra}")

    def op_spend(self, op: Op) -> None:
        pass

    def spend(self, op: Op) -> None:
        costs = self.f.value(f"load ptr, ptr {self.word('%tables', COSTS)}, !invariant.load !0")
        price = self.load_word(costs, self.tables.cost(op.extra))
        total = self.f.bin("add", self.load_word("%aux", Context.COST), price)
        self.store_word("%aux", Context.COST, total)
