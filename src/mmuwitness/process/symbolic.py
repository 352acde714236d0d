"""One step of a process, or a claim, for every state at once: what it does as decision diagrams.

Inputs are the parts of shared fields, the locals that are live where the step begins, and of each
lock what the process can see of it.  What comes out is said in the same terms, so two steps that
do the same are equal, whatever way their text goes.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mmuwitness.model.state import Field, Lock, OfValue
from mmuwitness.process.ir import Block, Op, Operand, Process, Reg
from mmuwitness.process.layout import codes_of
from mmuwitness.process.simplify import FUNCTIONS
from mmuwitness.process.steps import Boundary, Steps
from mmuwitness.process.symbols import Symbols, Value, kinds_within

FREE, MINE, OTHERS, READ_BY_ME, READ_BY_OTHERS, READ_BY_BOTH = range(6)
"""What a process can see of a lock: free, held, or read."""

BUMPED, SNAPPED = range(2)
"""What a step may have done with a sequence."""


@dataclass
class Environment:
    """Where and how control may come to a place: guard, registers, what was changed."""

    guard: int
    regs: dict[Reg, Value] = field(default_factory=dict)
    cells: dict[Any, int] = field(default_factory=dict)

    def copy(self) -> Environment:
        return Environment(self.guard, dict(self.regs), dict(self.cells))


Outcome = dict[Any, int]
"""What a step does: under which condition it ends where, and what each changed element holds."""


class Evaluator:
    """Runs one step of a process with diagrams in the place of values."""

    def __init__(
        self, symbols: Symbols, process: Process, choice: int = 0, result: Operand = 0
    ) -> None:
        """result: what is asked for in the end."""
        self.asked = {result} if isinstance(result, Reg) else set()
        self.symbols, self.process, self.choice = symbols, process, choice
        self.d = symbols.diagrams
        self.outcomes: list[tuple[Any, Environment]] = []

    # -- control -----------------------------------------------------------------------------

    def run(self, block: Block, position: int, env: Environment) -> None:
        """From a place in a block to where steps end."""
        order = self.blocks_after(block, position)
        waiting: dict[int, list[Environment]] = {id(each): [] for each in order}
        self.run_block(block, position, env, waiting, starts=True)
        for each in order:
            if waiting[id(each)]:
                live = self.symbols.live_on_entry(self.process)[id(each)] | self.asked
                self.run_block(each, 0, self.joined(waiting[id(each)], live), waiting)

    def blocks_after(self, block: Block, position: int) -> list[Block]:
        """Blocks that control comes to before a step begins, each after those that lead there."""
        done: list[Block] = []
        seen: set[int] = set()

        def visit(at: Block) -> None:
            seen.add(id(at))
            if not any(op.boundary >= 0 for op in at.ops):
                for target in at.targets:
                    if id(target) not in seen:
                        visit(target)
            done.append(at)

        if not any(op.boundary >= 0 for op in block.ops[position + 1 :]):
            for target in block.targets:
                if id(target) not in seen:
                    visit(target)
        return done[::-1]

    def run_block(
        self,
        block: Block,
        position: int,
        env: Environment,
        waiting: dict[int, list[Environment]],
        starts: bool = False,
    ) -> None:
        for op in block.ops[position:]:
            if op.boundary >= 0 and not starts:
                self.outcomes.append((("next", op.boundary), env))
                return
            starts = False
            getattr(self, "op_" + op.code)(op, env)
            if env.guard == self.d.false:
                return
        assert block.end is not None
        if block.end[0] == "branch":
            test = self.single(self.operand(block.end[1], env))
            for target, side in ((block.end[2], test), (block.end[3], self.d.invert(test))):
                branch = env.copy()
                branch.guard = self.d.both(env.guard, side)
                if branch.guard != self.d.false:
                    waiting[id(target)].append(branch)
        elif block.end[0] == "jump":
            waiting[id(block.end[1])].append(env)
        else:
            self.outcomes.append(((block.end[0],), env))

    def joined(self, envs: list[Environment], live: frozenset[Reg]) -> Environment:
        """What holds where several ways meet.  What nobody will read is forgotten."""
        made = envs[0]
        for other in envs[1:]:
            regs = {
                reg: self.choose(other.guard, other.regs[reg], made.regs[reg])
                for reg in live & other.regs.keys() & made.regs.keys()
            }
            cells = {
                name: self.d.choose(other.guard, self.cell(name, other), self.cell(name, made))
                for name in {**made.cells, **other.cells}
            }
            made = Environment(self.d.either(made.guard, other.guard), regs, cells)
        return made

    # -- values ------------------------------------------------------------------------------

    def choose(self, test: int, yes: Value, no: Value) -> Value:
        if isinstance(yes, tuple) and isinstance(no, tuple):
            return tuple(self.d.choose(test, a, b) for a, b in zip(yes, no, strict=True))
        assert isinstance(yes, int) and isinstance(no, int)
        return self.d.choose(test, yes, no)

    def single(self, value: Value) -> int:
        assert isinstance(value, int)
        return value

    def operand(self, of: Operand, env: Environment) -> Value:
        return self.d.leaf(of) if isinstance(of, int) else env.regs[of]

    def cell(self, name: Any, env: Environment) -> int:
        """A part of an element, as the step has left it so far."""
        if name in env.cells:
            return env.cells[name]
        return self.d.variable(name) if name in self.d.rank else self.d.false

    def fail_if(self, wrong: int, env: Environment) -> None:
        failing = env.copy()
        failing.guard = self.d.both(env.guard, wrong)
        if failing.guard != self.d.false:
            self.outcomes.append((("error",), failing))
        env.guard = self.d.both(env.guard, self.d.invert(wrong))

    def elements(self, op: Op, env: Environment) -> list[tuple[int, int]]:
        """The elements that an operation may access, each with the condition that it does.

        That it is one of them was checked, if need be before the step began."""
        assert op.field is not None
        of, declared = op.args[0], op.field
        if isinstance(of, int):
            return [(of, self.d.true)]
        index = self.single(self.operand(of, env))
        count = len(self.symbols.layout.world.instances(declared.struct))
        length = 1 if isinstance(declared.kind, Lock) else declared.length(self.symbols.sizes)
        found, none = [], self.d.true
        for element in range(count * length):
            here = self.d.apply(NUMBERS["eq"], index, self.d.leaf(element))
            none = self.d.both(none, self.d.invert(here))
            if here != self.d.false:
                found.append((element, here))
        self.fail_if(none, env)
        return found

    # -- operations --------------------------------------------------------------------------

    def nothing(self, op: Op, env: Environment) -> None:
        pass

    op_loop = op_begin = op_wait = op_trace = nothing

    def set(self, op: Op, env: Environment, value: Value) -> None:
        assert op.dst is not None
        env.regs[op.dst] = value

    def op_mov(self, op: Op, env: Environment) -> None:
        assert op.dst is not None
        source = op.args[0]
        if isinstance(source, int):
            return self.set(op, env, self.symbols.constant(op.dst.kind, source))
        return self.set(op, env, env.regs[source])

    def op_bin(self, op: Op, env: Environment) -> None:
        a, b = (self.operand(x, env) for x in op.args)
        if isinstance(a, tuple) or isinstance(b, tuple):
            return self.compare_values(op, env, a, b)
        return self.set(op, env, self.d.apply(NUMBERS[op.extra], a, b))

    def compare_values(self, op: Op, env: Environment, a: Value, b: Value) -> None:
        assert op.extra in ("eq", "ne")
        known = next(x for x in op.args if isinstance(x, Reg)).kind
        one, other = (
            self.symbols.constant(known, x) if isinstance(x, int) else v
            for x, v in zip(op.args, (a, b), strict=True)
        )
        assert isinstance(one, tuple) and isinstance(other, tuple)
        same = self.d.true
        for mine, its in zip(one, other, strict=True):
            same = self.d.both(same, self.d.apply(NUMBERS["eq"], mine, its))
        self.set(op, env, same if op.extra == "eq" else self.d.invert(same))

    def part_at(self, op: Op, shift: int) -> int:
        """Which part of its operand's value class begins at a bit."""
        source = op.args[0]
        kind = source.kind if isinstance(source, Reg) else op.dst and op.dst.kind
        assert isinstance(kind, OfValue)
        return next(n for n, part in enumerate(kind.parts(self.symbols.sizes)) if part[2] == shift)

    def op_extract(self, op: Op, env: Environment) -> None:
        shift, width, lo = op.extra
        value = self.operand(op.args[0], env)
        if isinstance(value, tuple):
            found = value[self.part_at(op, shift)] if width else self.d.false
        else:  # of a value that is known
            assert self.d.kids[value] is None
            found = self.d.leaf(self.d.label[value] >> shift & ((1 << width) - 1))
        self.set(op, env, self.d.apply(operator.add, found, self.d.leaf(lo)) if lo else found)

    def op_insert(self, op: Op, env: Environment) -> None:
        shift, width, lo = op.extra
        assert op.dst is not None
        source = op.args[0]
        old = (
            self.symbols.constant(op.dst.kind, source)
            if isinstance(source, int)
            else env.regs[source]
        )
        new = self.single(self.operand(op.args[1], env))
        new = self.d.apply(operator.sub, new, self.d.leaf(lo)) if lo else new
        assert isinstance(old, tuple) and isinstance(op.dst.kind, OfValue)
        parts = op.dst.kind.parts(self.symbols.sizes)
        self.set(
            op,
            env,
            tuple(
                new if (s, w) == (shift, width) else mine
                for mine, (_, _, s, w) in zip(old, parts, strict=True)
            ),
        )

    def op_check(self, op: Op, env: Environment) -> None:
        lo, hi, _ = op.extra
        value = self.single(self.operand(op.args[0], env))
        below = self.d.apply(NUMBERS["lt"], value, self.d.leaf(lo))
        self.fail_if(self.d.either(below, self.d.apply(NUMBERS["gt"], value, self.d.leaf(hi))), env)

    def op_load(self, op: Op, env: Environment) -> None:
        assert op.field is not None
        found: Value | None = None
        for element, here in self.elements(op, env):
            value = self.element(op.field, element, env)
            found = value if found is None else self.choose(here, value, found)
        assert found is not None
        self.set(op, env, found)

    def element(self, declared: Field, element: int, env: Environment) -> Value:
        world = self.symbols.layout.world
        if declared.key not in self.symbols.layout.elements:
            codes = list(codes_of(declared, world.instances(declared.struct), world))
            return self.symbols.constant(declared.kind, codes[element])
        parts = tuple(
            self.cell((declared.key, element, number), env)
            for number in range(len(kinds_within(declared.kind)))
        )
        return parts if isinstance(declared.kind, OfValue) else parts[0]

    def op_store(self, op: Op, env: Environment) -> None:
        assert op.field is not None
        source = op.args[1]
        value = self.operand(source, env)
        if isinstance(source, int):
            value = self.symbols.constant(op.field.kind, source)
        parts = value if isinstance(value, tuple) else (value,)
        for element, here in self.elements(op, env):
            for number, part in enumerate(parts):
                name = (op.field.key, element, number)
                env.cells[name] = self.d.choose(here, part, self.cell(name, env))

    def op_snap(self, op: Op, env: Environment) -> None:
        """That it was taken from this sequence, and no other one, is a part of what a step does."""
        env.cells[*op.extra, SNAPPED] = self.d.true
        self.set(op, env, self.d.true)

    def op_fresh(self, op: Op, env: Environment) -> None:
        self.set(op, env, self.operand(op.args[1], env))

    def op_bump(self, op: Op, env: Environment) -> None:
        env.cells[*op.extra, BUMPED] = self.d.true
        for reg in env.regs:
            if reg.snapshot_of == op.extra:
                env.regs[reg] = self.d.false

    def op_choose(self, op: Op, env: Environment) -> None:
        self.set(op, env, self.d.leaf(self.choice))

    def op_cover(self, op: Op, env: Environment) -> None:
        env.cells["mark", op.extra] = self.d.true

    # -- locks -------------------------------------------------------------------------------

    def is_left_out(self, op: Op) -> bool:
        assert op.field is not None
        return op.field.key not in self.symbols.layout.elements

    def op_acquire(self, op: Op, env: Environment) -> None:
        if self.is_left_out(op):
            return
        assert op.field is not None
        busy, after = (busy_to_write, written) if op.extra == "w" else (busy_to_read, read)
        for element, here in self.elements(op, env):
            name = (op.field.key, element, 0)
            seen = self.cell(name, env)
            waits = env.copy()
            taken = self.d.both(here, self.d.apply(busy, seen))
            waits.guard = self.d.both(env.guard, taken)
            if waits.guard != self.d.false:
                self.outcomes.append((("waits", op.extra, op.field.key, element), waits))
            env.guard = self.d.both(env.guard, self.d.invert(taken))
            env.cells[name] = self.d.choose(here, self.d.apply(after, seen), seen)

    def op_try(self, op: Op, env: Environment) -> None:
        got = self.d.true
        if not self.is_left_out(op):
            assert op.field is not None
            for element, here in self.elements(op, env):
                name = (op.field.key, element, 0)
                seen = self.cell(name, env)
                free = self.d.invert(self.d.apply(busy_to_write, seen))
                got = self.d.choose(here, free, got)
                new = self.d.choose(self.d.both(here, free), self.d.leaf(MINE), seen)
                env.cells[name] = new
        self.set(op, env, got)

    def op_release(self, op: Op, env: Environment) -> None:
        if self.is_left_out(op):
            return
        assert op.field is not None
        for element, here in self.elements(op, env):
            name = (op.field.key, element, 0)
            seen = self.cell(name, env)
            if op.extra == "r":
                env.cells[name] = self.d.choose(here, self.d.apply(unread, seen), seen)
                continue
            self.fail_if(self.d.both(here, self.d.apply(not_mine, seen)), env)
            env.cells[name] = self.d.choose(here, self.d.leaf(FREE), seen)


def on_numbers(function: Callable[[int, int], Any]) -> Callable[[int, int], int]:
    return lambda a, b: int(function(a, b))


NUMBERS = {
    name: on_numbers(function) for name, function in {**FUNCTIONS, "min": min, "max": max}.items()
}


def busy_to_write(seen: int) -> int:
    return int(seen != FREE)


def busy_to_read(seen: int) -> int:
    return int(seen in (MINE, OTHERS))


def written(seen: int) -> int:
    return MINE if seen == FREE else seen


def read(seen: int) -> int:
    return {FREE: READ_BY_ME, READ_BY_OTHERS: READ_BY_BOTH}.get(seen, seen)


def unread(seen: int) -> int:
    return {READ_BY_ME: FREE, READ_BY_BOTH: READ_BY_OTHERS}.get(seen, seen)


def not_mine(seen: int) -> int:
    return int(seen != MINE)


def step_outcome(symbols: Symbols, steps: Steps, boundary: Boundary, choice: int) -> Outcome:
    """What one step of a process does, from where it begins."""
    evaluator = Evaluator(symbols, steps.process, choice)
    env = Environment(symbols.diagrams.true)
    for reg in boundary.live:
        names = symbols.locals_of(steps.process, reg)
        parts = tuple(symbols.diagrams.variable(name) for name, _ in names)
        env.regs[reg] = parts if isinstance(reg.kind, OfValue) else parts[0]
    evaluator.run(boundary.block, boundary.position, env)
    return gathered(evaluator, steps)


def gathered(evaluator: Evaluator, steps: Steps) -> Outcome:
    """All outcomes as one table: where control goes, under which condition, and with what."""
    d = evaluator.d
    found: Outcome = {}
    nothing = d.leaf(None)
    ends = [e for kind, e in evaluator.outcomes if kind[0] in ("next", "done")]
    changed = {name for env in ends for name in env.cells}
    for kind, env in evaluator.outcomes:
        found[kind] = d.either(found.get(kind, d.false), env.guard)
    for env in ends:
        for name in changed:
            before = found.get(("cell", name), nothing)
            found["cell", name] = d.choose(env.guard, evaluator.cell(name, env), before)
    for kind, env in evaluator.outcomes:
        if kind[0] != "next":
            continue
        for reg in steps.boundaries[kind[1]].live:
            value = env.regs[reg]
            parts = value if isinstance(value, tuple) else (value,)
            names = evaluator.symbols.locals_of(steps.process, reg)
            for (name, _), part in zip(names, parts, strict=True):
                before = found.get(("cell", name), nothing)
                found["cell", name] = d.choose(env.guard, part, before)
    for name in changed:
        if name in d.rank:
            guard = d.false
            for env in ends:
                guard = d.either(guard, env.guard)
            if found["cell", name] == d.choose(guard, d.variable(name), nothing):
                del found["cell", name]  # it is as it was
    return found


def claim_outcome(symbols: Symbols, process: Process, result: Operand) -> int:
    """Where a claim holds.  Where it goes wrong it does not: which of two wrongs it comes to first
    is of no interest."""
    evaluator = Evaluator(symbols, process, result=result)
    evaluator.run(process.entry, 0, Environment(symbols.diagrams.true))
    d = evaluator.d
    holds = d.false
    for kind, env in evaluator.outcomes:
        if kind != ("error",):
            value = evaluator.single(evaluator.operand(result, env))
            true = d.apply(NUMBERS["ne"], value, d.false)
            holds = d.either(holds, d.both(env.guard, true))
    return holds
