"""Everything process code may call that is not the kernel's own: the only functions at which a
process can wait or be scheduled, and the marks that claims are asked about.

None of them runs as ordinary Python: the executors give them their meaning.  Called outside of
an executor they say so.
"""

from __future__ import annotations

from typing import Any, NoReturn


class Primitive:
    """A name that the compiler and the replay executor both know."""

    def __init__(self, name: str, doc: str) -> None:
        self.name, self.__doc__ = name, doc

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise RuntimeError(f"{self.name}() has a meaning only inside a process")

    def __repr__(self) -> str:
        return self.name


class FeatureNames:
    """`feature.NAME` in process code: true if the kernel of this host has that feature."""

    def __repr__(self) -> str:
        return "feature"


feature: Any = FeatureNames()

spin_lock: Any = Primitive("spin_lock", "with spin_lock(x): wait until x is free, then hold it")
read_lock: Any = Primitive("read_lock", "with read_lock(x): hold x shared with other readers")
write_lock: Any = Primitive("write_lock", "with write_lock(x): hold x alone")
lock: Any = Primitive("lock", "acquire x; the caller releases it with unlock(x)")
unlock: Any = Primitive("unlock", "release x, acquired with lock() or trylock()")
trylock: Any = Primitive("trylock", "acquire x if it is free; true if it was")
wait_until: Any = Primitive("wait_until", "block until the expression is true")
choose: Any = Primitive("choose", "any of 0 .. n-1: every one is explored")
atomic: Any = Primitive("atomic", 'with atomic("why"): one step, for the reason given')
cover: Any = Primitive("cover", "a mark that a verdict can be asked for")
warn_on: Any = Primitive("warn_on", "WARN_ON(condition): a mark, reached when the condition holds")
bug_on: Any = Primitive("bug_on", "BUG_ON(condition): an error of the model when it holds")
might_sleep: Any = Primitive("might_sleep", "the kernel may reschedule here")
non_block: Any = Primitive("non_block", 'with non_block("why"): nothing here may sleep')
trace: Any = Primitive("trace", 'trace("kvm_set_spte_hva", ...): the kernel has that tracepoint')

PRIMITIVES = {
    p.name: p
    for p in (
        *(spin_lock, read_lock, write_lock, lock, unlock, trylock),
        *(wait_until, choose, atomic, cover, warn_on, bug_on, trace),
        *(might_sleep, non_block),
    )
}

SLEEPS = "something sleeps where it must not"
"""The mark of might_sleep(), and of taking a lock that does not spin, while the process holds one
that spins or is inside non_block."""
