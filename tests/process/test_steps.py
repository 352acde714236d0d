"""Where steps begin, on programs small enough to say it by hand."""

from __future__ import annotations

import pytest

from mmuwitness.process.errors import ProcessError
from mmuwitness.process.program import Program, fold
from tests.process.worlds import SmallHost, declared, explored, fold_code, load, verdicts

BOTH = """
def p1(host):
    p0(host)
"""


def begins(program: Program, pid: int = 0) -> list[str]:
    """What each step of a process begins with; "entry" where it is no operation."""
    found = []
    for boundary in program.steps[pid].boundaries:
        op = boundary.op
        if op is None:
            found.append("entry")
        else:
            found.append(f"{op.code} {op.field.key}" if op.field else op.code)
    return found


def test_a_private_field_makes_no_step(tmp_path) -> None:
    program = fold_code(
        tmp_path,
        """
def p0(host):
    host.box.n = 1
    host.box.arr[0] = host.box.n
    host.box.n += 1

def p1(host):
    host.box.flag = True
    host.box.arr[1] = 1
""",
    )
    assert begins(program, 0) == begins(program, 1) == ["entry"]
    assert len(explored(program).found) == 4


def test_what_everybody_only_reads_makes_no_step(tmp_path) -> None:
    code = """
def p0(host):
    host.box.seen[0] = host.box.n + host.items[0].n

def p1(host):
    host.box.seen[1] = host.box.n + host.items[0].n
"""
    program = fold_code(tmp_path, code)
    assert begins(program, 0) == begins(program, 1) == ["entry"]
    assert "Box.n" not in program.layout.elements, "a field that nobody writes is no state"


GUARDED = """
def p0(host):
    with spin_lock(host.box.lk):
        host.box.n = 1
        host.box.seen[0] = host.box.n
        host.box.n = 2
"""


def test_a_field_under_a_common_lock_is_merged(tmp_path) -> None:
    program = fold_code(
        tmp_path,
        GUARDED + "\ndef p1(host):\n    with spin_lock(host.box.lk):\n        host.box.n = 3",
    )
    assert begins(program, 0) == begins(program, 1) == ["acquire Box.lk"]


def test_taking_the_lock_away_in_one_process_refines_the_steps_of_both(tmp_path) -> None:
    program = fold_code(
        tmp_path,
        GUARDED
        + """
def p1(host):
    with spin_lock(host.box.lk):
        host.box.flag = True
    host.box.n = 3
    host.box.seen[1] = host.box.n
""",
    )
    # the first racy access rides with the acquire
    assert begins(program, 0) == ["acquire Box.lk", "load Box.n", "store Box.n"]
    assert begins(program, 1) == ["acquire Box.lk", "store Box.n", "load Box.n"]


def test_another_lock_is_no_lock(tmp_path) -> None:
    other = "\ndef p1(host):\n    with write_lock(host.box.rw):\n        host.box.n = 3\n"
    users = "\ndef p2(host):\n    with spin_lock(host.box.lk):\n        lock(host.box.rw)\n"
    program = fold_code(tmp_path, GUARDED + other + users)
    assert begins(program, 0) == ["acquire Box.lk", "load Box.n", "store Box.n"]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("read_lock", ["acquire Box.rw", "store Box.n"]), ("write_lock", ["acquire Box.rw"])],
)
def test_readers_do_not_exclude_readers(mode: str, expected: list[str], tmp_path) -> None:
    program = fold_code(
        tmp_path,
        f"""
def p0(host):
    with {mode}(host.box.rw):
        host.box.n = 1
        host.box.n = 2

def p1(host):
    with read_lock(host.box.rw):
        host.box.n = 3

def p2(host):
    with write_lock(host.box.rw):
        host.box.flag = True
""",
    )
    assert begins(program) == expected


def test_locks_of_two_instances_are_two_locks(tmp_path) -> None:
    program = fold_code(
        tmp_path,
        """
def p0(host):
    with spin_lock(host.items[0].lk):
        host.box.n = 1
        host.box.n = 2

def p1(host):
    with spin_lock(host.items[1].lk):
        host.box.n = 3
""",
    )
    assert begins(program) == ["acquire Item.lk", "store Box.n"]


def test_a_lock_known_only_in_a_run_protects_nothing(tmp_path) -> None:
    program = fold_code(
        tmp_path,
        """
def p0(host):
    item = host.items[host.box.seen[0] & 1]
    with spin_lock(item.lk):
        item.n = 1
        item.n = 2

def p1(host):
    host.box.seen[0] = 1
    p0(host)
""",
    )
    assert begins(program) == ["entry", "acquire Item.lk", "store Item.n"]


def test_two_racy_reads_in_one_expression_are_split(tmp_path) -> None:
    program = fold_code(
        tmp_path,
        """
def p0(host):
    host.box.seen[0] = host.box.n + host.items[0].n

def p1(host):
    host.box.n = 1
    host.items[0].n = 1
""",
    )
    assert begins(program) == ["entry", "load Item.n"]
    assert explored(program).final("Box.seen") == {(0,) * 6, (1, *[0] * 5), (2, *[0] * 5)}


def test_read_and_write_of_a_racy_plus_are_two_steps(tmp_path) -> None:
    program = fold_code(tmp_path, "\ndef p0(host):\n    host.box.n += 1\n" + BOTH)
    assert begins(program) == ["entry", "store Box.n"]
    assert explored(program).final("Box.n") == {(1,), (2,)}, "an update is lost"


RACY = """
def p{0}(host):
    host.box.n = 1
    host.box.flag = True
    with spin_lock(host.box.lk):
        host.box.arr[0] = 1
"""


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (  # the first racy access rides with the acquire, the second does not
            "with spin_lock(host.box.lk):\n        host.box.n = 2\n        host.box.flag = False",
            ["acquire Box.lk", "store Box.flag"],
        ),
        (  # after a release it does not
            "with spin_lock(host.box.lk):\n        host.box.arr[0] = 2\n    host.box.n = 2",
            ["acquire Box.lk", "store Box.n"],
        ),
        (  # a choice is a right mover
            "x = choose(3)\n    host.box.n = x\n    host.box.flag = False",
            ["choose", "store Box.flag"],
        ),
        (  # so are two of them, and an acquire
            "x = choose(2)\n    y = choose(2)\n    lock(host.box.lk)\n    host.box.n = x + y",
            ["choose", "choose", "acquire Box.lk"],
        ),
        (  # not after a racy access
            "host.box.n = 2\n    x = choose(2)\n    host.box.flag = bool(x)",
            ["entry", "choose"],
        ),
        (  # the release rides with what was before it
            "lock(host.box.lk)\n    host.box.n = 2\n    unlock(host.box.lk)\n"
            "    x = host.box.seen[0]",
            ["acquire Box.lk"],
        ),
        (  # what comes after a wait does not ride with it
            "host.box.seen[0] = 1\n    wait_until(host.box.flag)\n    host.box.n = 2",
            ["entry", "wait", "store Box.n"],
        ),
        (  # on one path only: no path may have two
            "if host.box.flag:\n        host.box.n = 2\n    host.box.arr[0] = 1",
            ["entry", "store Box.n", "store Box.arr"],
        ),
    ],
)
def test_what_rides_along(code: str, expected: list[str], tmp_path) -> None:
    program = fold_code(tmp_path, f"\ndef p0(host):\n    {code}\n" + RACY.format(1))
    assert begins(program) == expected


def test_trylock_makes_acquire_and_release_of_that_lock_no_movers(tmp_path) -> None:
    code = "\ndef p0(host):\n    with spin_lock(host.box.lk):\n        host.box.n = 1\n"
    locks = "\ndef p1(host):\n    with spin_lock(host.box.lk):\n        host.box.n = 2\n"
    tries = "\ndef p1(host):\n    if trylock(host.box.lk):\n        unlock(host.box.lk)\n"
    assert begins(fold_code(tmp_path, code + locks)) == ["acquire Box.lk"]
    program = fold_code(tmp_path, code + tries)
    assert begins(program, 0) == ["acquire Box.lk", "release Box.lk"]
    assert begins(program, 1) == ["try Box.lk"], "nobody tries against the one who tries"


def test_a_lock_that_makes_nobody_wait_is_left_out(tmp_path) -> None:
    reads = """
def p{0}(host):
    with read_lock(host.box.rw):
        host.box.seen[{0}] = 1
    with spin_lock(host.items[0].lk):
        host.box.seen[{0}] = 2
"""
    program = fold_code(
        tmp_path,
        reads.format(0) + "\ndef p1(host):\n    with read_lock(host.box.rw):\n        pass",
    )
    assert begins(program) == ["entry"]
    assert not {"Box.rw", "Item.lk"} & set(program.layout.elements)
    both = fold_code(tmp_path, reads.format(0) + reads.format(1))
    assert begins(both) == ["entry", "acquire Item.lk"]
    assert "Box.rw" not in both.layout.elements and "Item.lk" in both.layout.elements
    writer = "\ndef p2(host):\n    with write_lock(host.box.rw):\n        pass\n"
    three = fold_code(tmp_path, reads.format(0) + reads.format(1) + writer)
    assert begins(three) == ["acquire Box.rw", "acquire Item.lk"]
    assert "Box.rw" in three.layout.readers and "Item.lk" not in three.layout.readers


ATOMIC = """
def p0(host):
    host.box.seen[0] = 1
    with atomic("the processor does"):
        host.box.n = 1
        if host.box.flag:
            host.box.n = 2
    host.box.seen[1] = 1
"""


def test_an_atomic_region_is_one_step(tmp_path) -> None:
    program = fold_code(tmp_path, ATOMIC + RACY.format(1))
    assert begins(program) == ["entry"]
    after = ATOMIC + "    host.box.flag = False\n"
    assert begins(fold_code(tmp_path, after + RACY.format(1))) == ["entry", "store Box.flag"]
    before = ATOMIC.replace("host.box.seen[0]", "host.box.n")
    assert begins(fold_code(tmp_path, before + RACY.format(1))) == ["entry", "begin"]
    assert begins(fold_code(tmp_path, ATOMIC)) == ["entry"], "nothing in it is racy"


CLAIM = """
def p0(host):
    with spin_lock(host.box.lk):
        host.box.n = 1
        host.box.seen[0] = 1
        host.box.n = 2
        host.box.seen[0] = 2

def p1(host):
    with spin_lock(host.box.lk):
        host.box.flag = True

def claim0(host):
    return host.box.n == host.box.seen[0]
"""


def test_a_claim_observes_what_it_reads(tmp_path) -> None:
    alone = fold_code(tmp_path, CLAIM.split("def claim0", maxsplit=1)[0])
    assert begins(alone) == ["acquire Box.lk"]
    reads = fold_code(tmp_path, CLAIM)
    stores = ["store Box.seen", "store Box.n", "store Box.seen"]
    assert begins(reads) == ["acquire Box.lk", *stores]
    assert explored(reads).violated == {"claim0"}
    needs = fold_code(tmp_path, CLAIM, needs=[("lk",)])
    assert begins(needs) == ["acquire Box.lk"]
    assert explored(needs).violated == set()
    other = fold_code(tmp_path, CLAIM, needs=[("rw",)])
    assert begins(other) == begins(reads)


def test_ghost_updates_do_not_split(tmp_path) -> None:
    code = """
def p0(host):
    host.box.ghost = 1
    host.box.n = 1
    host.box.ghost = 2

def p1(host):
    host.box.ghost = 3
    host.box.n = 2

def claim0(host):
    return host.box.ghost != 1
"""
    program = fold_code(tmp_path, code)
    assert begins(program, 0) == begins(program, 1) == ["entry"]
    assert explored(program).violated == set(), "an update belongs to the step it stands in"
    without = fold_code(tmp_path, code.split("def claim0", maxsplit=1)[0])
    assert "Box.ghost" not in without.layout.elements


LOOP = """
def p0(host):
    while host.box.n < 2:
        host.box.n += 1
"""


def test_a_loop_without_a_step_gets_one(tmp_path) -> None:
    assert begins(fold_code(tmp_path, LOOP)) == ["loop"]
    forever = fold_code(tmp_path, "\ndef p0(host):\n    while True:\n        pass\n")
    assert begins(forever) == ["loop"]
    graph = explored(forever)
    assert len(graph.found) == 1 and not graph.deadlock
    stepping = LOOP + "        with spin_lock(host.box.lk):\n            pass\n"
    assert "loop" not in begins(fold_code(tmp_path, stepping + BOTH))
    nested = """
def p0(host):
    while True:
        wait_until(host.box.flag)
        while host.box.n < 2:
            host.box.n += 1

def p1(host):
    host.box.flag = True
"""
    assert begins(fold_code(tmp_path, nested)) == ["wait", "loop"]


def test_a_step_begins_before_its_handle_is_followed(tmp_path) -> None:
    code = """
def p0(host):
    item = host.box.item
    if item is not None:
        item.n = 1

def p1(host):
    host.box.item = host.items[0]
    host.items[0].n = 2
"""
    program = fold_code(tmp_path, code)
    assert begins(program) == ["entry", "store Item.n"]
    boundary = program.steps[0].boundaries[1]
    assert boundary.op is not None
    assert (
        boundary.op.first.code == "check" and boundary.block.ops[boundary.position].code == "check"
    )


def test_every_shared_access_a_step(tmp_path) -> None:
    program = fold_code(
        tmp_path,
        GUARDED + "\ndef p1(host):\n    lock(host.box.lk)\n    x = host.box.n\n",
        every=True,
    )
    assert begins(program) == [
        *("acquire Box.lk", "store Box.n", "load Box.n", "store Box.seen"),
        *("store Box.n", "release Box.lk"),
    ]


UNSOUND = {
    "return under a lock from an atomic region": """
def set_both(host):
    with spin_lock(host.box.lk):
        host.box.n = 1
        with atomic("so"):
            return

def p0(host):
    set_both(host)
    host.box.one = 3

def p1(host):
    with spin_lock(host.box.lk):
        host.box.seen[0] = host.box.n
        host.box.seen[1] = host.box.one
    host.box.one = 2
""",
    "continue under a lock from an atomic region": """
def p0(host):
    for i in range(2):
        with spin_lock(host.box.lk):
            with atomic("so"):
                host.box.n = 1 + i
                continue
    host.box.one = 3

def p1(host):
    with spin_lock(host.box.lk):
        host.box.seen[0] = host.box.n
        host.box.seen[1] = host.box.one
    host.box.one = 2
""",
    "unlock in an atomic region": """
def p0(host):
    lock(host.box.lk)
    host.box.n = 1
    with atomic("so"):
        unlock(host.box.lk)
    host.box.one = 3

def p1(host):
    with spin_lock(host.box.lk):
        host.box.seen[0] = host.box.n
        host.box.seen[1] = host.box.one
    host.box.one = 2
""",
    "unlock through a handle": """
def p0(host):
    lock(host.items[0].lk)
    host.box.n = 3
    item = host.items[host.box.seen[0]]
    unlock(item.lk)
    host.box.one = 3
    host.box.seen[1] = host.box.one

def p1(host):
    with spin_lock(host.items[0].lk):
        host.box.one = 2
    host.box.seen[0] = 0
""",
}


@pytest.mark.parametrize("name", [name for name in UNSOUND if "handle" not in name])
def test_what_cannot_be_merged_is_refused(name: str, tmp_path) -> None:
    module = load(tmp_path, declared(UNSOUND[name]))
    with pytest.raises(ProcessError, match="atomic region"):
        fold(SmallHost(module))


def test_merging_hides_nothing(tmp_path) -> None:
    module = load(tmp_path, declared(UNSOUND["unlock through a handle"]))
    merged = explored(fold(SmallHost(module)))
    every = explored(fold(SmallHost(module), every=True))
    assert len(merged.found) < len(every.found)
    assert verdicts(merged) == verdicts(every)
