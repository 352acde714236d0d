"""What sleeps where it must not is marked, in both executors, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmuwitness.model.primitives import SLEEPS
from mmuwitness.process.errors import ProcessError
from mmuwitness.process.program import fold
from tests.explore.test_agreement import assert_executors_agree
from tests.process.worlds import SmallHost, load

DECLARED = """
from mmuwitness.model.primitives import (
    choose, feature, lock, might_sleep, non_block, read_lock, spin_lock, trylock, unlock,
    wait_until, write_lock,
)
from mmuwitness.model.state import Bool, Bounded, Field, Lock, RwLock, Struct


class Box(Struct):
    spin = Field(Lock(spins=True))
    rw = Field(RwLock(spins=True))
    mutex = Field(Lock())
    rwsem = Field(RwLock())
    n = Field(Bounded(0, 3))


def nap(host):
    might_sleep()
    return host.box.n


def p0(host):
"""

SLEEPING = {
    "under a spinlock": "with spin_lock(host.box.spin):\n    might_sleep()",
    "under a lock of two kinds": "with read_lock(host.box.rw):\n    might_sleep()",
    "in a call": "with spin_lock(host.box.spin):\n    host.box.n = nap(host)",
    "a mutex inside a spinlock": "with spin_lock(host.box.spin):\n    lock(host.box.mutex)\n"
    "    unlock(host.box.mutex)",
    "a semaphore inside a spinlock": "with spin_lock(host.box.spin):\n"
    "    with read_lock(host.box.rwsem):\n        host.box.n = 1",
    "where a trylock was taken": "if trylock(host.box.spin):\n    might_sleep()\n"
    "    unlock(host.box.spin)",
    "on one of two ways": "if choose(2) == 0:\n    with spin_lock(host.box.spin):\n"
    "        might_sleep()",
    "in a region": 'with non_block("why"):\n    might_sleep()',
    "in a call in a region": 'with non_block("why"):\n    host.box.n = nap(host)',
    "a mutex in a region": 'with non_block("why"):\n    with spin_lock(host.box.mutex):\n'
    "        host.box.n = 1",
    "in the outer of two regions": 'with non_block("a"):\n    with non_block("b"):\n'
    "        host.box.n = 1\n    might_sleep()",
    "before the region is left early": 'while True:\n    with non_block("a"):\n'
    "        might_sleep()\n        break",
}
AWAKE = {
    "with nothing held": "might_sleep()",
    "under a mutex": "with spin_lock(host.box.mutex):\n    might_sleep()",
    "after the lock is dropped": "lock(host.box.spin)\nunlock(host.box.spin)\nmight_sleep()",
    "while the lock is dropped": "with spin_lock(host.box.spin):\n    unlock(host.box.spin)\n"
    "    might_sleep()\n    lock(host.box.spin)",
    "a spinlock in a region": 'with non_block("why"):\n    with spin_lock(host.box.spin):\n'
    "        host.box.n = 1",
    "a mutex that is only tried": "with spin_lock(host.box.spin):\n"
    "    if trylock(host.box.mutex):\n        unlock(host.box.mutex)",
    "where a trylock failed": "if trylock(host.box.spin):\n    unlock(host.box.spin)\nelse:\n"
    "    might_sleep()",
    "after a region that is left early": 'while True:\n    with non_block("why"):\n'
    "        if choose(2) == 0:\n            break\nmight_sleep()",
    "where no kernel comes": "if not feature.on:\n    with spin_lock(host.box.spin):\n"
    "        might_sleep()",
}


def body(code: str) -> str:
    lines = "".join(f"    {line}\n" for line in code.splitlines())
    other = "\n\ndef p1(host):\n    with spin_lock(host.box.spin):\n        host.box.n = 2\n"
    return DECLARED + lines + other


def marks(code: str, directory: Path) -> set[str]:
    """What both executors mark."""
    module = load(directory, body(code))
    program = fold(SmallHost(module))
    return assert_executors_agree(program, lambda: SmallHost(module), 500).marks


@pytest.mark.parametrize("what", SLEEPING)
def test_who_sleeps_where_it_must_not_is_marked(what: str, tmp_path: Path) -> None:
    assert marks(SLEEPING[what], tmp_path) == {SLEEPS}


@pytest.mark.parametrize("what", AWAKE)
def test_who_may_sleep_is_not(what: str, tmp_path: Path) -> None:
    assert marks(AWAKE[what], tmp_path) == set()


def test_it_costs_no_state(tmp_path: Path) -> None:
    code = "with spin_lock(host.box.spin):\n    host.box.n = 1\n    NAP\n    host.box.n = 3\nNAP"
    with_naps = fold(SmallHost(load(tmp_path, body(code.replace("NAP", "might_sleep()")))))
    without = fold(SmallHost(load(tmp_path, body(code.replace("NAP", "pass")))))
    assert [len(s.boundaries) for s in with_naps.steps] == [
        len(s.boundaries) for s in without.steps
    ]
    assert with_naps.layout.words == without.layout.words


def test_a_place_that_some_ways_reach_with_a_lock_is_refused(tmp_path: Path) -> None:
    code = (
        "held = choose(2) == 0\nif held:\n    lock(host.box.spin)\nmight_sleep()\n"
        "if held:\n    unlock(host.box.spin)"
    )
    with pytest.raises(ProcessError, match=r"Box.spin is held on some ways here and not on all"):
        fold(SmallHost(load(tmp_path, body(code))))


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("might_sleep(host)", "takes no argument"),
        ("x = might_sleep()", "has no value"),
        ("non_block('why')", "used as a statement of its own"),
        ("with non_block(host.box.n):\n    pass", "takes the reason, a text"),
        ("with might_sleep():\n    pass", "cannot be used in a with statement"),
    ],
)
def test_it_is_written_as_it_should_be(code: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ProcessError, match=said):
        fold(SmallHost(load(tmp_path, body(code))))
