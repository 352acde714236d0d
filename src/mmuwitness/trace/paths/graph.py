"""The model's process code as an automaton: what of it a trace can show, silent steps between.

A process is folded as for exploring it, with a mark where a function is entered and left and where
the kernel has a tracepoint. Walking that graph, registers hold what is known on every schedule
(constants, choices, which branch was taken); what is read from shared state is a name that stands
for any value, so both branches of a test of it are walked. No joint state is kept: a probe fires
before its effect, so what another task sees is not told by the order of the events.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mmuwitness.model.arch.arch import Arch
from mmuwitness.model.era import Era
from mmuwitness.model.host import Host
from mmuwitness.model.primitives import Primitive
from mmuwitness.model.state import Kind, OfValue
from mmuwitness.process.cfg import Builder, Frame
from mmuwitness.process.ghosts import drop_ghosts
from mmuwitness.process.ir import Block, Op, Operand, Process, Reg
from mmuwitness.process.program import written
from mmuwitness.process.simplify import FUNCTIONS, simplify
from mmuwitness.process.steps import before_op, live_at_end, live_on_entry
from mmuwitness.process.values import Const, Dyn, Folded, Many, Record

Word = int | tuple[Any, ...]
"""What a register holds on a path: a number, or a name for a value that the model leaves open.

A name is ("load", number of the operation) or what is computed from such: ("eq", name, 0)."""


@dataclass(frozen=True)
class Mark:
    """A place of the process that a trace may show.

    what: "enter", "leave", "trace" or "store"; name: of the function (its last part), tracepoint or
    field; frames: the functions around it, outermost first, a function's own included; fields: the
    arguments by name, and the `result` of one that is left; positions for a tracepoint."""

    what: str
    name: str
    frames: tuple[str, ...]
    fields: Mapping[str, tuple[Operand, Kind | None]]


class PathBuilder(Builder):
    """Folds a process with marks; `wanted` says which arguments of which functions matter."""

    def __init__(self, spec: Spec, wanted: Mapping[str, Sequence[str]]) -> None:
        host = spec.host
        super().__init__(host.world, host.has_feature, host.overrides)
        self.wanted, self.stands_for = wanted, spec.stands_for
        self.calls: list[Frame] = []
        self.alone = spec.name.endswith(ALONE)

    def build(self, name: str, pid: int, function: Any, arguments: tuple[Any, ...]) -> Process:
        self.names = [function.__name__]
        return super().build(name, pid, function, arguments)

    def bind_arguments(self, frame: Frame, values: Any, keywords: Any, node: Any) -> None:
        super().bind_arguments(frame, values, keywords, node)
        if frame.context:
            self.names.append(self.name_of(frame))
        self.calls.append(frame)
        self.mark("enter", self.name_of(frame), self.arguments(frame, None), node)

    def inline(self, source: Any, context: Any, values: Any, keywords: Any, node: Any) -> Folded:
        result = super().inline(source, context, values, keywords, node)
        frame = self.calls.pop()
        self.mark("leave", self.name_of(frame), self.arguments(frame, result), node)
        if context:
            self.names.pop()
        return result

    def name_of(self, frame: Frame) -> str:
        """Of a function, in this process."""
        name: str = frame.source.tree.name
        return self.stands_for.get(name, name)

    def expr_Call(self, node: ast.Call) -> Folded:
        callee = self.expr(node.func) if isinstance(node.func, ast.Name) else None
        primitive = callee.value if isinstance(callee, Const) else None
        if isinstance(primitive, Primitive) and primitive.name == "trace":
            tracepoint, *given = (self.expr(a) for a in node.args)
            assert isinstance(tracepoint, Const)
            fields = {str(i): self.word(value) for i, value in enumerate(given)}
            self.mark("trace", tracepoint.value, fields, node)
            return Const(None)
        return super().expr_Call(node)

    def emit(self, code: str, node: ast.AST, **parts: Any) -> Op:
        op = super().emit(code, node, **parts)
        if code == "store":
            assert op.field is not None
            fields = {"element": (op.args[0], None), "value": (op.args[1], op.field.kind)}
            op.extra = Mark("store", op.field.key, tuple(self.names), fields)
        return op

    def mark(self, what: str, name: str, fields: Any, node: ast.AST) -> None:
        if self.alone and name.startswith("mmu_notifier_"):
            return  # the inline function asks mm_has_notifiers() and does not call
        if what != "trace" and self.names[-2:] == [name, name]:
            return  # a method that calls its base class's is one function of the kernel
        read = tuple(word for word, _ in fields.values())
        mark = Mark(what, name, tuple(self.names), fields)
        self.emit("mark", node, args=read, extra=mark)

    def arguments(self, frame: Frame, result: Folded | None) -> dict[str, Any]:
        """The values of the wanted paths (`fault.page`, `result`), where they have one."""
        found = {}
        for path in self.wanted.get(self.name_of(frame), ()):
            first, *rest = path.split(".")
            value = result if first == "result" else frame.lookup(self, first)
            for part in rest:
                value = self.part(value, part)
            if value is not None:
                found[path] = self.word(value)
        return found

    def part(self, value: Folded | None, name: str) -> Folded | None:
        if isinstance(value, Record):
            return self.record_field(value, name, ast.Pass())
        if isinstance(value, Many):
            item: Folded = value.items[int(name)]
            return item
        return None

    def word(self, value: Folded) -> tuple[Operand, Kind | None]:
        if isinstance(value, Dyn):
            return value.reg, value.kind
        if isinstance(value, Const) and value.value is not None:
            return self.as_dyn(value, ast.Pass())
        return 0, None


class Point(NamedTuple):
    """Where a path stands: before operation `at` of a block.

    words: the live registers that have a value; known: what tests of open values came to;
    outcome: what the fault being handled came to so far (see observe)."""

    process: int
    block: int
    at: int
    words: tuple[tuple[int, Word], ...]
    known: frozenset[tuple[Word, bool]]
    outcome: str


@dataclass
class Graph:
    """The folded processes of one kernel, ready to be walked."""

    processes: list[Process]
    names: list[str]
    runs: list[bool]  # of each: an address is a run of pages

    def __post_init__(self) -> None:
        self.blocks = [p.blocks for p in self.processes]
        self.number = {id(b): n for blocks in self.blocks for n, b in enumerate(blocks)}
        ops = [op for p in self.processes for _, _, op in p.ops()]
        self.op_number = {id(op): n for n, op in enumerate(ops)}
        regs = [r for op in ops for r in (op.dst, *op.args) if isinstance(r, Reg)]
        self.reg_list = list(dict.fromkeys(regs))
        self.regs = {reg: n for n, reg in enumerate(self.reg_list)}
        self.live = [live_registers(p) for p in self.processes]

    def head(self, process: int) -> Point:
        """The head of the endless loop that every process is."""
        point = Point(process, 0, 0, (), frozenset(), "")
        while True:
            mark, _, point = next(self.walk(point))
            if mark is None:
                return point

    def walk(self, point: Point) -> Iterator[tuple[Mark | None, dict[Reg, Word], Point]]:
        """The marks that come next, with the values there and the point behind each.

        Without a mark: the process is back at the head of its endless loop."""
        stack, seen = [point], {point}
        while stack:
            here = stack.pop()
            words = self.registers(here)
            step = Walk(self, here, words)
            if step.mark is not None or step.idle:
                yield step.mark, words, step.after
                continue
            for target in step.targets:
                if target not in seen:
                    seen.add(target)
                    stack.append(target)

    def registers(self, point: Point) -> dict[Reg, Word]:
        return {self.reg_list[number]: word for number, word in point.words}

    def point(
        self, process: int, block: Block, at: int, words: dict[Reg, Word], known: Any, outcome: str
    ) -> Point:
        """The point with what is live there only, so that paths which differ in nothing meet."""
        number = self.number[id(block)]
        live = self.live[process][number][at]
        kept = tuple(sorted((self.regs[r], w) for r, w in words.items() if r in live))
        names = {name for _, word in kept for name in names_in(word)}
        facts = frozenset(f for f in known if names.issuperset(names_in(f[0])))
        return Point(process, number, at, kept, facts, outcome)


def live_registers(process: Process) -> list[list[frozenset[Reg]]]:
    """For each block the registers that are live before each of its operations, and at its end."""
    entering = live_on_entry(process)
    result = []
    for block in process.blocks:
        at = [live_at_end(block, entering)]
        for op in reversed(block.ops):
            at.append(before_op(op, at[-1]))
        result.append(at[::-1])
    return result


def names_in(word: Word) -> Iterator[Word]:
    """The names of open values that a word is computed from."""
    if isinstance(word, tuple):
        if word[0] == "load":
            yield word
        else:
            for part in word[1:]:
                yield from names_in(part)


class Walk:
    """From one point along one straight line, to a mark, the loop's head, or a fork."""

    def __init__(self, graph: Graph, point: Point, words: dict[Reg, Word]) -> None:
        self.graph, self.process, self.words = graph, point.process, words
        self.known, self.outcome = set(point.known), point.outcome
        self.block = graph.blocks[point.process][point.block]
        self.mark: Mark | None = None
        self.idle = False
        self.targets: list[Point] = []
        self.at = point.at
        while self.at < len(self.block.ops):
            op = self.block.ops[self.at]
            self.at += 1
            if self.execute(op):
                return
        self.end()

    @property
    def after(self) -> Point:
        return self.here(self.block, self.at, self.words)

    def here(self, block: Block, at: int, words: dict[Reg, Word]) -> Point:
        return self.graph.point(self.process, block, at, words, self.known, self.outcome)

    def value(self, operand: Operand) -> Word:
        if isinstance(operand, int):
            return operand
        return self.words.get(operand, ("load", -1 - self.graph.regs[operand]))

    def execute(self, op: Op) -> bool:
        """One operation; true if the line ends with it."""
        if op.code in ("mark", "store") and isinstance(op.extra, Mark):
            self.mark = op.extra
            return True
        if op.code == "loop" and op.site is not None and not op.site.context:
            self.idle = True
            return True
        if op.code in ("choose", "try"):
            count = op.extra if op.code == "choose" else 2
            assert op.dst is not None
            for number in range(count):
                self.targets.append(self.here(self.block, self.at, self.words | {op.dst: number}))
            return True
        if op.code == "check" and op.extra[0] == 1:
            # a handle that is followed is not None
            self.learn(("eq", self.value(op.args[0]), 0), False)
        if op.dst is not None:
            self.words[op.dst] = self.compute(op)
        return False

    def compute(self, op: Op) -> Word:
        values = tuple(self.value(a) for a in op.args)
        if op.code == "mov":
            return values[0]
        if op.code in ("bin", "extract", "insert"):
            return self.decided(combine(op.code, op.extra, values))
        return ("load", self.graph.op_number[id(op)])

    def decided(self, word: Word) -> Word:
        """A test of open values that this path has made before has the same answer."""
        for answer in (True, False):
            if (word, answer) in self.known:
                return int(answer)
        return word

    def learn(self, word: Word, answer: bool) -> None:
        if not isinstance(word, tuple):
            return
        self.known.add((word, answer))
        if word[0] in ("eq", "ne"):
            other = "ne" if word[0] == "eq" else "eq"
            self.known.add(((other, *word[1:]), not answer))

    def end(self) -> None:
        end = self.block.end
        assert end is not None
        if end[0] == "jump":
            self.targets.append(self.here(end[1], 0, self.words))
        elif end[0] == "branch":
            word = self.decided(self.value(end[1]))
            for answer, target in ((True, end[2]), (False, end[3])):
                if isinstance(word, int) and bool(word) is not answer:
                    continue
                before = set(self.known)
                self.learn(word, answer)
                words = {r: int(answer) if w == word else w for r, w in self.words.items()}
                self.targets.append(self.here(target, 0, words))
                self.known = before


def combine(code: str, extra: Any, values: tuple[Word, ...]) -> Word:
    """A computation, done if its operands are known, else as a name."""
    if code == "bin":
        if all(isinstance(v, int) for v in values):
            return int(FUNCTIONS[extra](*values)) if extra in FUNCTIONS else minmax(extra, values)
        return (extra, *values)
    shift, width, lo = extra
    if code == "insert":
        return ("insert", *values, shift, width, lo)
    return extracted(values[0], shift, width, lo)


def minmax(name: str, values: tuple[Any, ...]) -> int:
    return int(min(values) if name == "min" else max(values))


def extracted(packed: Word, shift: int, width: int, lo: int) -> Word:
    """A part of a packed value, also of one that is known in parts only."""
    while isinstance(packed, tuple) and packed[0] == "insert":
        if packed[3] == shift:
            code: Word = packed[2]
            return code
        packed = packed[1]
    if isinstance(packed, int):
        return (packed >> shift & ((1 << width) - 1)) + lo
    return ("extract", packed, shift, width, lo)


def part_of(word: Word, kind: Kind | None, name: str, sizes: dict[str, int]) -> Word:
    """A field of a value struct (`page` of a PTE)."""
    assert isinstance(kind, OfValue)
    part = next(p for p in kind.parts(sizes) if p[0] == name)
    return extracted(word, part[2], part[3], part[1].lo)


def conform_host(era: Era, arch: Arch, subscribed: bool, slot_pages: int, **sizes: Any) -> Host:
    """A VM with one page beside its memslot. One page is enough: what is read from the state is
    any page."""
    sizes = {"addresses": slot_pages + 1, "pages": 1, "gfns_per_table": 4} | sizes
    host = Host(era, arch, slot_pages=slot_pages, **sizes)
    if not subscribed:
        host.mm.notifier_subscriptions = []
    return host


ALONE = " without KVM"
"""How the names of processes end whose address space KVM does not subscribe to."""


@dataclass(frozen=True)
class Spec:
    """A process to fold.  stands_for: a function of the model -> the one of the kernel that it
    stands for here.  runs: an address stands for neighbouring pages, as many as there are."""

    name: str
    function: Any
    arguments: tuple[Any, ...]
    host: Host
    stands_for: Mapping[str, str] = field(default_factory=dict)
    runs: bool = False


def fold_graph(specs: Sequence[Spec], wanted: Mapping[str, Sequence[str]]) -> Graph:
    """Fold processes with marks."""
    folded = []
    for pid, spec in enumerate(specs):
        builder = PathBuilder(spec, wanted)
        folded.append(builder.build(spec.name, pid, spec.function, spec.arguments))
    for process, spec in zip(folded, specs, strict=True):
        simplify(process, spec.host.world, written(folded))
    drop_ghosts(folded)
    return Graph(folded, [spec.name for spec in specs], [spec.runs for spec in specs])
