"""Operations as Promela: what is computed once becomes part of the expression that uses it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mmuwitness.model.state import Field, OfValue
from mmuwitness.process.ir import Block, Op, Operand, Reg
from mmuwitness.process.layout import codes_of
from mmuwitness.report.promela.variables import Locals, Variable, Variables

SIGNS = {
    **{"add": "+", "sub": "-", "mul": "*", "and": "&", "or": "|", "xor": "^"},
    **{"shl": "<<", "ashr": ">>", "eq": "==", "ne": "!=", "lt": "<", "le": "<="},
    **{"gt": ">", "ge": ">="},
}
ONCE = 1
SIMPLE_MAX = 1
"""An expression of so few operands may be written more than once."""


@dataclass(frozen=True)
class Expression:
    """Promela text, the variables that it reads, and how many operands it has."""

    text: str
    reads: frozenset[str] = frozenset()
    size: int = 1

    def __str__(self) -> str:
        return self.text


def bare(text: str) -> str:
    """Without parentheses around the whole, unless it is a choice, which needs them."""
    depth = 0
    for at, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0 and at < len(text) - 1:
            return text
        if depth == 1 and text[at : at + 2] == "->":
            return text
    return text[1:-1] if text.startswith("(") else text


def combine(text: str, *parts: Expression) -> Expression:
    reads = frozenset().union(*(p.reads for p in parts))
    return Expression(text, reads, sum(p.size for p in parts) + 1)


def selected(index: Expression, values: list[Expression]) -> Expression:
    """values[index], where there is no array to ask."""
    text = str(values[0])
    for at, value in enumerate(values[1:], 1):
        text = f"({index} == {at} -> {value} : {text})"
    return combine(text, index, *values)


@dataclass
class Uses:
    """How often the result of each operation of a block is used in it before it is assigned
    again; and the registers whose value is used for the last time by an operation."""

    counts: dict[Op, int]
    last: dict[Op, set[Reg]]


def uses_in_block(block: Block, result: Operand = 0) -> Uses:
    """result: what is used after the last operation, besides the test of a branch."""
    counts: dict[Op, int] = {}
    used_by: dict[Op, Op] = {}
    defined: dict[Reg, Op] = {}
    for op in block.ops:
        for arg in op.args:
            if isinstance(arg, Reg) and arg in defined:
                counts[defined[arg]] += 1
                used_by[defined[arg]] = op
        if op.dst is not None:
            defined[op.dst] = op
            counts[op] = 0
    for reg in (result, block.end[1] if block.end and block.end[0] == "branch" else 0):
        if isinstance(reg, Reg) and reg in defined:
            counts[defined[reg]] += 1
            used_by.pop(defined[reg], None)
    last: dict[Op, set[Reg]] = {}
    for definition, op in used_by.items():
        assert definition.dst is not None
        last.setdefault(op, set()).add(definition.dst)
    return Uses(counts, last)


class Writer:
    """Turns operations of one process (or claim, pid < 0) into expressions and statements.

    pending: registers whose value is not computed yet.  used: for the last time, by the operation
    that is written.  choice: what `choose` gives."""

    def __init__(self, known: Variables, pid: int, own: Locals, marks: list[str]) -> None:
        self.known, self.pid, self.own, self.marks = known, pid, own, marks
        self.pending: dict[Reg, Expression] = {}
        self.counts: dict[Op, int] = {}
        self.used: set[Reg] = set()
        self.out: list[str] = []
        self.choice = 0

    def operations(self, ops: Iterable[Op], uses: Uses) -> None:
        """Statements for some operations of a block, in `out`."""
        self.counts = uses.counts
        for op in ops:
            self.used = uses.last.get(op, set())
            self.statement(op)

    # -- expressions -----------------------------------------------------------------------

    def operand(self, value: Operand) -> Expression:
        if isinstance(value, int):
            return Expression(str(value) if value >= 0 else f"({value})")
        if value in self.pending:
            return self.pending[value]
        name = self.own.of(value).name
        return Expression(name, frozenset({name}))

    def place(self, variable: Variable, element: Operand) -> Expression:
        """An element of a field.  SPIN refuses an array that is indexed with itself."""
        if len(variable.initial) == 1:
            return Expression(variable.name, frozenset({variable.name}))
        index = self.operand(element)
        if isinstance(element, Reg) and variable.name in index.reads:
            self.keep(element)
            index = self.operand(element)
        reads = index.reads | {variable.name}
        return Expression(f"{variable.name}[{bare(str(index))}]", reads, index.size)

    def constant(self, declared: Field, element: Operand) -> Expression:
        """A field that nothing in the program writes: its initial value."""
        world = self.known.layout.world
        codes = list(codes_of(declared, world.instances(declared.struct), world))
        if isinstance(element, int):
            return self.operand(codes[element])
        return selected(self.operand(element), [self.operand(code) for code in codes])

    def pure(self, op: Op) -> Expression | None:
        """The value of an operation that changes nothing."""
        a = self.operand(op.args[0]) if op.args else Expression("")
        match op.code:
            case "mov":
                return a
            case "fresh":
                return self.operand(op.args[1])
            case "bin":
                b = self.operand(op.args[1])
                if op.extra in SIGNS:
                    return combine(f"({a} {SIGNS[op.extra]} {b})", a, b)
                sign = "<" if op.extra == "min" else ">"
                return combine(f"({a} {sign} {b} -> {a} : {b})", a, b, a, b)
            case "extract":
                return combine(f"{self.part(op, op.args[0])}({a})", a)
            case "insert":
                b = self.operand(op.args[1])
                return combine(f"{self.part(op, op.dst)}({a}, {b})", a, b)
            case "load":
                assert op.field is not None
                variable = self.known.elements.get(op.field.key)
                if variable is None:
                    return self.constant(op.field, op.args[0])
                return self.place(variable, op.args[0])
            case "choose":
                return Expression(str(self.choice))
        return None

    def part(self, op: Op, value: object) -> str:
        """The macro that reads or replaces a part of a value."""
        assert isinstance(value, Reg) and isinstance(value.kind, OfValue)
        cls = value.kind.cls
        prefix = self.known.values[cls]
        sizes = self.known.layout.world.sizes
        for name, kind, shift, width in value.kind.parts(sizes):
            if (shift, width, kind.lo) == op.extra:
                return f"{prefix}_{'set_' if op.code == 'insert' else ''}{name}"
        raise AssertionError(op)

    def lock(self, op: Op) -> tuple[Expression, Expression | None]:
        """The owner of a lock, and its readers where there are any."""
        assert op.field is not None
        owner = self.place(self.known.elements[op.field.key], op.args[0])
        readers = self.known.readers.get(op.field.key)
        return owner, None if readers is None else self.place(readers, op.args[0])

    def free(self, op: Op) -> Expression:
        """Whether a lock can be taken."""
        owner, readers = self.lock(op)
        if op.extra == "w" and readers is not None:
            return combine(f"({owner} == 0 && {readers} == 0)", owner, readers)
        return combine(f"({owner} == 0)", owner)

    def waits(self, op: Op) -> str:
        """Whom a process waits for that cannot take a lock, a bit each."""
        owner, readers = self.lock(op)
        mask = f"({owner} != 0 -> 1 << ({owner} - 1) : 0)"
        return f"({mask} | {readers})" if op.extra == "w" and readers is not None else mask

    # -- statements ------------------------------------------------------------------------

    def assign(self, variable: Variable, place: object, value: object) -> None:
        """What is still to be computed from the old value of a variable is computed first."""
        for reg in self.used:
            self.pending.pop(reg, None)
        self.used = set()
        for reg in list(self.pending):
            if reg in self.pending and variable.name in self.pending[reg].reads:
                self.keep(reg)
        if str(place) != str(value):
            self.out.append(f"{place} = {bare(str(value))};")

    def keep(self, reg: Reg) -> None:
        """Compute now what is pending."""
        value, variable = self.pending.pop(reg), self.own.of(reg)
        for other, waiting in self.pending.items():
            assert variable.name not in waiting.reads, (reg, other)
        self.assign(variable, variable.name, value)

    def define(self, op: Op, value: Expression) -> None:
        reg = op.dst
        assert reg is not None
        for other in (*self.used, reg):
            self.pending.pop(other, None)
        if reg not in self.own.homes:
            self.assign(self.own.of(reg), self.own.of(reg).name, value)
        elif self.counts[op] > ONCE and value.size > SIMPLE_MAX:
            self.pending[reg] = value
            self.keep(reg)
        elif self.counts[op]:
            self.pending[reg] = value

    def statement(self, op: Op) -> None:
        value = self.pure(op)
        if value is not None:
            self.define(op, value)
        else:
            getattr(self, f"op_{op.code}")(op)

    def op_loop(self, op: Op) -> None:
        pass

    op_begin = op_wait = op_trace = op_loop

    def is_left_out(self, op: Op) -> bool:
        """A lock that can never make anyone wait is not in the state."""
        return op.field is not None and op.field.key not in self.known.elements

    def store(self, place: Expression, variable: Variable, value: object) -> None:
        self.assign(variable, place, value)

    def op_store(self, op: Op) -> None:
        assert op.field is not None
        variable = self.known.elements[op.field.key]
        value = self.operand(op.args[1])
        self.store(self.place(variable, op.args[0]), variable, value)

    def set_reader(self, op: Op, present: bool) -> None:
        _, readers = self.lock(op)
        assert op.field is not None and readers is not None
        bit = 1 << self.pid
        mask = (1 << len(self.known.processes)) - 1 & ~bit
        value = f"{readers} | {bit}" if present else f"{readers} & {mask}"
        self.store(readers, self.known.readers[op.field.key], value)

    def set_owner(self, op: Op, value: object) -> None:
        assert op.field is not None
        self.store(self.lock(op)[0], self.known.elements[op.field.key], value)

    def op_acquire(self, op: Op) -> None:
        if self.is_left_out(op):
            return
        if op.extra == "w":
            self.set_owner(op, self.pid + 1)
        else:
            self.set_reader(op, True)

    def op_try(self, op: Op) -> None:
        if self.is_left_out(op):
            return self.define(op, Expression("1"))
        assert op.dst is not None
        got = self.own.of(op.dst)
        self.used = set()  # which lock it is, is asked again
        self.pending.pop(op.dst, None)
        self.assign(got, got.name, self.free(op))
        return self.set_owner(op, f"({got.name} -> {self.pid + 1} : {self.lock(op)[0]})")

    def op_release(self, op: Op) -> None:
        if self.is_left_out(op):
            return None
        if op.extra == "r":
            return self.set_reader(op, False)
        self.out.append(f"assert({self.lock(op)[0]} == {self.pid + 1});")
        return self.set_owner(op, 0)

    def op_snap(self, op: Op) -> None:
        self.define(op, Expression("1"))

    def op_bump(self, op: Op) -> None:
        for mark in self.known.marks(op.extra, self.pid):
            self.assign(mark, mark.name, 0)

    def op_cover(self, op: Op) -> None:
        text = op.extra.replace("\\", "/").replace('"', "'").replace("%", "%%")
        self.out.append(f'MARK({self.marks.index(op.extra)}, "{text}\\n");')

    def op_check(self, op: Op) -> None:
        self.out.append(f"assert({within(self.operand(op.args[0]), op)});")


def within(value: Expression, op: Op) -> str:
    """What a check asks of a value."""
    lo, hi, _ = op.extra
    return f"{value} == {lo}" if lo == hi else f"{lo} <= {value} && {value} <= {hi}"
