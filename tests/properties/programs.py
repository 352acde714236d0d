"""Random process code: small programs as source text, from a grammar of the process language."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from random import Random

from tests.process.worlds import declared
from tests.properties.expressions import SCALARS, SEQUENCES, Expressions, Helper, Scope
from tests.properties.lock_statements import LOCKS, LockStatements

# The fields of narrow programs: under which lock they are used, or by which process alone.
GUARDED = {
    "Box.lk": "host.box.n",
    "Box.rw": "host.items[0].n",
    "Item.lk": "host.items[1].n",
}
RACY = ["host.box.arr[0]", "host.items[0].arr[1]", "host.box.arr[host.box.flag]"]
OWN = ["host.items[0].arr[0]", "host.items[1].arr[0]", "host.items[1].arr[1]"]
GHOST_CLAIM = "claim9"
"""A claim about ghost state: it sees an update in the step that it happens to stand in."""


@dataclass(frozen=True)
class Text:
    """The source of a program; claims: the locks that each needs free."""

    source: str
    processes: int
    claims: tuple[tuple[str, ...], ...]


class Writer(LockStatements, Expressions):
    """Writes one program.  fuel: about how many statements are left."""

    def __init__(self, rng: Random) -> None:
        super().__init__(rng, 2 if rng.randrange(100) < 75 else 40)
        self.lines: list[str] = []
        self.indent, self.names, self.fuel, self.seen = 0, 0, 0, 0
        # Some programs are about few fields and locks, some about locals; they note what they see.
        about = self.rng.randrange(5)
        self.narrow, self.personal = about in (1, 2), about in (3, 4)
        self.own = OWN[0]
        self.usual = [self.pick(LOCKS) for _ in range(2)] if self.narrow else LOCKS

    def name(self, prefix: str) -> str:
        self.names += 1
        return f"{prefix}{self.names}"

    def put(self, text: str) -> None:
        self.lines.append("    " * self.indent + text)

    @contextmanager
    def block(self, header: str) -> Iterator[None]:
        self.put(header)
        self.indent += 1
        yield
        self.indent -= 1

    # -- programs ----------------------------------------------------------------------------

    def program(self, fuel: int = 11) -> Text:
        for number in range(0 if self.narrow else self.rng.randrange(4)):
            self.helper(f"helper{number}")
        processes = 2 if self.chance(70) else 3
        for number in range(processes):
            self.fuel = 1 + self.rng.randrange(max(1, fuel // processes))
            if self.narrow or self.personal:
                self.fuel = max(self.fuel, fuel // processes)
            self.own = OWN[number]
            with self.block(f"def p{number}(host):"):
                scope = self.started(Scope()) if self.personal else Scope()
                self.body(scope, 4, least=4 if self.narrow or self.personal else 1)
        claims = []
        for number in range(self.rng.randrange(4)):
            pure = Scope(region=True, calls=False, risks=False)
            with self.block(f"def claim{number}(host):"):
                if self.narrow:
                    a, b = (self.pick([*GUARDED.values(), *RACY, *OWN]) for _ in range(2))
                    value = self.rng.randrange(3)
                    if self.chance(50):
                        with self.block(f"if {a} != {1 + self.rng.randrange(2)}:"):
                            self.put("return True")
                    self.put(f"return {b} != {value}")
                elif self.chance(40):
                    with self.block(f"if {self.truth(pure, 1)}:"):
                        self.put(f"return {self.truth(pure, 1)}")
                if not self.narrow:
                    self.put(f"return {self.truth(pure, 2)}")
            claims.append(self.pick([(), (), ("lk",), ("rw",), ("lk", "rw")]))
        if self.chance(30):
            self.put(f"def {GHOST_CLAIM}(host):\n    return host.box.ghost < 2")
        source = declared("\n".join(["", *self.lines, ""]), self.length)
        return Text(source, processes, tuple(claims))

    def started(self, scope: Scope) -> Scope:
        """Some locals to begin with, all different."""
        for value in (1, 2):
            name = self.name("v")
            self.put(f"{name}: Bounded(0, 3) = {value}")
            scope = scope.add("mutable", (name, 0, 3))
        name = self.name("rec")
        self.put(f"{name} = Rec(a=3, item=host.items[1])")
        return scope.add("records", name)

    def helper(self, name: str) -> None:
        result = self.pick(["none", "number", "truth", "pair", "grab"])
        record, pure = self.chance(30), self.chance(50) and result != "grab"
        self.fuel, self.locks = self.rng.randrange(6 if self.personal else 4), set()
        scope = Scope(ints=(("x", 0, 3),), region=pure, result=result)
        if record:
            scope = scope.add("records", "rec")
        defaults = f", x={self.rng.randrange(3)}" + (", rec=None" if record else "")
        with self.block(f"def {name}(host{defaults}):"):
            if result == "grab":
                self.grab(scope)
            else:
                self.body(scope, 3)
                if result != "none":
                    self.put(self.returned(scope))
        self.helpers.append(Helper(name, result, record, frozenset(self.locks), pure))

    def grab(self, scope: Scope) -> None:
        """A lock may be returned held."""
        self.locks.add("Box.lk")
        self.put("lock(host.box.lk)")
        inside = replace(scope, held=frozenset({"Box.lk"}), manual=True)
        self.body(inside, 2)
        with self.block(f"if {self.truth(replace(inside, calls=False), 1)}:"):
            self.put("return True")
        self.put("unlock(host.box.lk)")
        self.put("return False")

    # -- statements --------------------------------------------------------------------------

    def body(self, scope: Scope, most: int, least: int = 1) -> None:
        """Some statements, at least one."""
        start = len(self.lines)
        for _ in range(least + self.rng.randrange(most)):
            if self.fuel <= 0:
                break
            self.fuel -= 1
            changed = self.statement(scope)
            if changed is None:
                break  # control does not come here
            scope = changed
        if len(self.lines) == start:
            self.put(f"host.box.n = {self.rng.randrange(4)}")

    def statement(self, scope: Scope) -> Scope | None:
        simple = [self.s_field, self.s_field, self.s_array, self.s_add, self.s_local, self.s_leaf]
        simple += [self.s_cover, self.s_bump, self.s_snapshot, self.s_handle, self.s_record]
        simple += [self.s_change, self.s_ghost, self.s_chain, self.s_leave, self.s_leave]
        nested = [self.s_if, self.s_if, self.s_for, self.s_call, self.s_call, self.s_guard]
        if not scope.region:
            nested += [self.s_atomic, self.s_while, self.s_with, self.s_with, self.s_with]
            nested += [self.s_handle_lock, self.s_lock, self.s_try, self.s_choose, self.s_wait]
        if self.personal:
            simple = [self.s_local, self.s_local, self.s_change, self.s_change, self.s_chain]
            simple += [self.s_record, self.s_record, self.s_note, self.s_note, self.s_leave]
            nested = [self.s_if, self.s_for, self.s_call, self.s_call, self.s_note]
            nested += [self.s_atomic, self.s_while, self.s_with] if not scope.region else []
        if self.narrow:
            simple = [self.s_set, self.s_set, self.s_set, self.s_see, self.s_see, self.s_leave]
            nested = [self.s_with, self.s_with, self.s_lock, self.s_try, self.s_if, self.s_atomic]
            nested += [self.s_with, self.s_wait]
            nested = nested if not scope.region else [self.s_if, self.s_see]
        often = 30 if self.personal else 55
        return self.pick(nested if self.chance(often) else simple)(scope)

    def s_set(self, scope: Scope) -> Scope:
        """A store to one of the program's few fields."""
        value = str(1 + self.rng.randrange(2))
        if self.chance(25):
            value = f"2 - min({self.common(scope)}, 2)"
        self.put(f"{self.common(scope)} = {value}")
        return scope

    def s_see(self, scope: Scope) -> Scope:
        """One of the program's few fields is noted in a place of its own."""
        self.seen += 1
        self.put(f"host.box.seen[{self.seen % 6}] = {self.common(scope)}")
        return scope

    def s_note(self, scope: Scope) -> Scope:
        """A local is noted in a place of its own."""
        self.seen += 1
        some = [*self.local(scope), self.number(scope, 1)]
        self.put(f"host.box.seen[{self.seen % 6}] = {self.fit(self.pick(some), 0, 3)}")
        return scope

    def common(self, scope: Scope) -> str:
        """One of the program's few fields; hardly ever a guarded one without its lock."""
        guarded = [GUARDED[key] for key in sorted(scope.held)]
        which = self.rng.randrange(20)
        if which == 0:
            return str(self.pick([*GUARDED.values(), *OWN]))
        if which <= 10 and guarded:
            return str(self.pick(guarded))
        return str(self.pick(RACY)) if which <= 13 else self.own

    def s_field(self, scope: Scope) -> Scope:
        if self.chance(20):
            self.put(f"host.box.flag = {self.truth(scope, 2)}")
            return scope
        place, lo, hi = self.pick([*SCALARS, (f"{self.handle(scope)}.n", 0, 3)])
        self.put(f"{place} = {self.fit(self.number(scope, 2), lo, hi)}")
        return scope

    def s_array(self, scope: Scope) -> Scope:
        of = "host.box" if self.chance(60) else self.handle(scope)
        if self.chance(25):
            name = self.name("arr")
            self.put(f"{name} = {of}.arr")
            of = name
            place = f"{name}[{self.index(scope)}]"
        else:
            place = f"{of}.arr[{self.index(scope)}]"
        self.put(f"{place} = {self.fit(self.number(scope, 1), 0, 2)}")
        return scope

    def s_add(self, scope: Scope) -> Scope:
        """+= on a field or an element."""
        where = ["host.box.n", "host.box.arr[1]", "host.items[1].n"]
        where += [f"host.box.arr[{name}]" for name, _, high in scope.ints if 0 <= high < 2]
        place = self.pick(where)
        with self.block(f"if {place} < 2:"):
            self.put(f"{place} += {self.pick(['1', 'host.box.flag'])}")
        return scope

    def s_leaf(self, scope: Scope) -> Scope:
        self.put(f"{self.pick(['host.box', self.handle(scope)])}.leaf = {self.leaf(scope, 2)}")
        return scope

    def s_local(self, scope: Scope) -> Scope:
        which = self.rng.randrange(4)
        if which == 0:
            name = self.name("b")
            self.put(f"{name} = {self.truth(scope, 2)}")
            return scope.add("bools", name)
        if which == 1:
            name = self.name("p")
            self.put(f"{name} = {self.leaf(scope, 2)}")
            return scope.add("leaves", name)
        name = self.name("v")
        some = [*self.local(scope), self.number(scope, 2)]
        value, low, high = self.pick(some)
        if self.chance(50):
            self.put(f"{name} = {value}")
            return scope.add("ints", (name, low, high))
        self.put(f"{name}: Bounded(0, 3) = {self.fit((value, low, high), 0, 3)}")
        return scope.add("mutable", (name, 0, 3))

    def s_change(self, scope: Scope) -> Scope:
        """Another value for a local."""
        if not scope.mutable:
            return self.s_local(scope)
        name, lo, hi = self.pick(scope.mutable)
        if self.chance(30):
            with self.block(f"if {name} < {hi}:"):
                self.put(f"{name} += 1")
        else:
            value = self.fit(self.number(scope, 2), lo, hi)
            self.put(f"{name} = {value}")
        return scope

    def s_chain(self, scope: Scope) -> Scope:
        """One value for two targets, or two values at once."""
        name = self.name("v")
        value, low, high = self.number(scope, 1)
        if self.chance(40):
            self.put(f"{name} = host.box.n = {self.fit((value, low, high), 0, 3)}")
            return scope.add("ints", (name, 0, 3))
        if scope.mutable and self.chance(60):
            (a, *_), (b, *_) = self.pick(scope.mutable), self.pick(scope.mutable)
            self.put(f"{a}, {b} = {b}, {a}")
            return scope
        other = self.fit(self.number(scope, 1), 0, 3)
        self.put(f"{name}, host.box.n = {value}, {other}")
        return scope.add("ints", (name, low, high))

    def s_handle(self, scope: Scope) -> Scope:
        which = self.rng.randrange(3)
        if which == 0:
            which = self.pick([self.maybe(scope), self.handle(scope), "None"])
            self.put(f"host.box.item = {which}")
            return scope
        if which == 1:
            name = self.name("h")
            self.put(f"{name} = host.items[{self.fit(self.number(scope, 1), 0, 1)}]")
            return scope.add("items", name)
        name = self.name("m")
        self.put(f"{name} = {self.pick(['host.box.item', 'host.box.leaf.item'])}")
        return scope.add("maybe", name)

    def s_guard(self, scope: Scope) -> Scope:
        """A handle that is looked at before it is followed."""
        name = self.name("h")
        self.put(f"{name} = {self.pick(['host.box.item', 'host.box.leaf.item'])}")
        with self.block(f"if {name} is not None:"):
            self.body(scope.add("items", name), 2)
        return scope.add("maybe", name)

    def s_record(self, scope: Scope) -> Scope:
        if not scope.records or self.chance(40):
            name = self.name("rec")
            value = self.fit(self.atom(scope), 0, 3)
            parts = ["", f"a={value}", "seen=host.box.seq.snapshot()"]
            self.put(f"{name} = Rec({self.pick(parts)})")
            return scope.add("records", name)
        record = self.pick(scope.records)
        which = self.rng.randrange(3)
        if which == 0:
            self.put(f"{record}.a = {self.fit(self.number(scope, 1), 0, 3)}")
        elif which == 1:
            self.put(f"{record}.seen = host.box.seq.snapshot()")
        else:
            self.put(f"{record}.item = {self.maybe(scope)}")
        return scope

    def s_ghost(self, scope: Scope) -> Scope:
        value = self.number(replace(scope, calls=False), 1)
        self.put(f"host.box.ghost = {self.fit(value, 0, 3)}")
        return scope

    def s_cover(self, scope: Scope) -> Scope:
        which = self.rng.randrange(20)
        if which <= 1:
            self.put(f"bug_on({self.truth(scope, 1)} and host.box.arr[1] == 2)")
        elif which <= 4:
            self.put(f"warn_on({self.truth(scope, 1)})")
        elif which <= 6:
            self.put('trace("tracepoint", host.box.n)')
        else:
            self.put(f'cover("{self.name("mark")}")')
        return scope

    def s_bump(self, scope: Scope) -> Scope:
        self.put(f"{self.pick(SEQUENCES)}.bump()")
        return scope

    def s_snapshot(self, scope: Scope) -> Scope:
        if scope.snaps and self.chance(50):
            name, sequence = self.pick(scope.snaps)
            self.put(f"{name} = {sequence}.snapshot()")
            return scope
        name, sequence = self.name("s"), self.pick(SEQUENCES)
        self.put(f"{name} = {sequence}.snapshot()")
        return scope.add("snaps", (name, sequence))

    def s_if(self, scope: Scope) -> Scope:
        test = "feature.on" if self.chance(4) else self.truth(scope, 2)
        with self.block(f"if {test}:"):
            self.body(scope, 2)
        if self.chance(40):
            with self.block("else:"):
                self.body(scope, 2)
        return scope

    def s_for(self, scope: Scope) -> Scope:
        inside = replace(scope, loop=True, loop_held=False)
        if self.chance(50):
            name = self.name("i")
            with self.block(f"for {name} in range(2):"):
                self.body(inside.add("ints", (name, 0, 1)), 3)
        else:
            name = self.name("h")
            over = self.pick(["host.items", "(host.items[1], host.items[0])"])
            with self.block(f"for {name} in {over}:"):
                self.body(inside.add("items", name), 3)
        return scope

    def s_while(self, scope: Scope) -> Scope:
        inside = replace(scope, loop=True, loop_held=False)
        if self.chance(80):
            name = self.name("k")
            self.put(f"{name}: Bounded(0, 2) = 0")
            with self.block(f"while {name} < {1 + self.rng.randrange(2)}:"):
                self.put(f"{name} += 1")
                self.body(inside.add("ints", (name, 0, 2)), 3)
        else:
            with self.block(f"while {self.pick(['True', self.truth(scope, 1)])}:"):
                self.body(inside, 2)
        return scope

    def s_leave(self, scope: Scope) -> Scope | None:
        """break, continue or return; rarely without a condition."""
        ways = []
        if scope.loop and not scope.manual and not (scope.region and scope.loop_held):
            ways += ["break", "continue"]
        if not scope.manual and not (scope.region and scope.any_held):
            ways.append("return")
        if not ways:
            return self.s_field(scope)
        way = self.pick(ways)
        text = self.returned(scope) if way == "return" else way
        if self.chance(15):
            self.put(text)
            return None
        with self.block(f"if {self.truth(scope, 1)}:"):
            self.put(text)
        return scope

    def returned(self, scope: Scope) -> str:
        if scope.result == "none":
            return "return"
        number = self.fit(self.number(scope, 1), -1, 3)
        if scope.result == "number":
            return f"return {number}"
        if scope.result == "truth":
            return f"return {self.truth(scope, 1)}"
        return f"return {number}, {self.truth(replace(scope, calls=False), 1)}"

    def s_call(self, scope: Scope) -> Scope:
        which = self.rng.randrange(4)
        if which == 0 and not scope.region and "Box.lk" not in scope.held:
            grabbed = self.call(scope, "grab")
            if grabbed:
                with self.block(f"if {grabbed}:"):
                    self.body(self.holding(scope, "host.box.lk", manual=True), 2)
                    self.put("unlock(host.box.lk)")
                return scope
        if which == 1:
            called = self.call(scope, "none")
            if called:
                self.put(called)
                return scope
        called = self.call(scope, "pair")
        if not called:
            return self.s_local(scope)
        if self.chance(30):
            name = self.name("t")
            self.put(f"{name} = {called}")
            return scope.add("ints", (f"{name}[0]", -1, 3)).add("bools", f"{name}[1]")
        name, other = self.name("v"), self.name("b")
        self.put(f"{name}, {self.pick([other, 'host.box.flag'])} = {called}")
        return scope.add("ints", (name, -1, 3))

    # -- waiting -----------------------------------------------------------------------------
