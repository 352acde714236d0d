"""The statements of random programs that take locks, wait, choose, or make a region."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.properties.expressions import Scope

LOCKS = ["host.box.lk", "host.box.rw", "host.items[0].lk", "host.items[1].lk"]


def lock_field(text: str) -> str:
    """What locks are told apart by: the field, not the instance."""
    return "Box." + text[9:] if text.startswith("host.box.") else "Item.lk"


class LockStatements:
    """Part of `programs.Writer`."""

    rng: Any

    def free_locks(self, scope: Scope) -> list[str]:
        again = self.chance(3)
        return [lk for lk in self.usual if again or lock_field(lk) not in scope.held]

    def holding(self, scope: Scope, taken: str, manual: bool = False) -> Scope:
        self.locks.add(lock_field(taken))
        return replace(
            scope,
            held=scope.held | {lock_field(taken)},
            manual=scope.manual or manual,
            loop_held=scope.loop,
            any_held=True,
        )

    def s_with(self, scope: Scope) -> Scope:
        free = self.free_locks(scope)
        if not free:
            return self.s_field(scope)
        taken = self.pick(free)
        how = f"spin_lock({taken})"
        if taken.endswith(".rw"):
            read, write = f"read_lock({taken})", f"write_lock({taken})"
            how = self.pick([read, write, f"({read} if feature.on else {write})"])
        with self.block(f"with {how}:"):
            self.body(self.holding(scope, taken), 3)
        return scope

    def s_handle_lock(self, scope: Scope) -> Scope:
        """The lock of an instance that is known only in a run; its variable may change."""
        if "Item.lk" in scope.held:
            return self.s_field(scope)
        name = self.name("h")
        first = f"host.items[{self.fit(self.number(scope, 0), 0, 1)}]"
        self.put(f"{name} = {first}")
        with self.block(f"with spin_lock({name}.lk):"):
            if self.chance(40):
                self.put(f"{name} = host.items[{self.rng.randrange(2)}]")
            self.body(self.holding(scope, "item").add("items", name), 2)
        return scope

    def s_lock(self, scope: Scope) -> Scope:
        free = self.free_locks(scope)
        if not free:
            return self.s_field(scope)
        taken = self.pick(free)
        self.put(f"lock({taken})")
        self.body(self.holding(scope, taken, manual=True), 2)
        self.put(f"unlock({taken})")
        return scope

    def s_try(self, scope: Scope) -> Scope:
        free = self.free_locks(scope)
        if not free:
            return self.s_field(scope)
        taken, name = self.pick(free), self.name("b")
        test = f"trylock({taken})"
        if self.chance(30):
            self.put(f"{name} = {test}")
            test = name
        with self.block(f"if {test}:"):
            self.body(self.holding(scope, taken, manual=True), 2)
            self.put(f"unlock({taken})")
        return scope

    def s_choose(self, scope: Scope) -> Scope:
        name, n = self.name("c"), 2 + self.rng.randrange(2)
        self.put(f"{name} = choose({n})")
        return scope.add("ints", (name, 0, n - 1))

    def s_wait(self, scope: Scope) -> Scope:
        pure = replace(scope, calls=False)
        test = self.pick(["host.box.flag", self.truth(pure, 1)])
        if self.narrow:
            test = f"{self.common(pure)} != {self.rng.randrange(3)}"
        self.put(f"wait_until({test})")
        return scope

    def s_atomic(self, scope: Scope) -> Scope:
        with self.block('with atomic("the hardware does"):'):
            self.body(replace(scope, region=True), 3)
        return scope
