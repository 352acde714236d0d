"""The engine: tasks in virtual time.  Source that numba compiles once (see explore.loops).

The task whose time comes first goes on.  One that runs an operation does steps of it until another
task's time comes; each step takes what its operation spends.  One that waits for a lock is left
alone until some lock is dropped.  vCPUs that only hit do not see each other, so one may run ahead
of the others for a quantum; of everything else in time it is never ahead.

All arguments are addresses or int64 words.  What is addressed was made by `engine`, which sizes it.
"""
# mypy: ignore-errors
# (numba infers these types itself, and knows its intrinsics where mypy does not)

from __future__ import annotations

from llvmlite import ir
from numba import int64, njit
from numba.extending import intrinsic

from mmuwitness.explore.search_table import NATIVE
from mmuwitness.explore.search_words import (
    load,
    load_half,
    mix,
    scale,
    store,
)
from mmuwitness.process.lower import BLOCKED as STEP_BLOCKED
from mmuwitness.process.lower import DONE as STEP_DONE
from mmuwitness.process.lower import ERROR as STEP_ERROR
from mmuwitness.simulate.arrays import WRITER
from mmuwitness.simulate.engine_touch import GOLDEN, touch
from mmuwitness.simulate.lower import Context
from mmuwitness.simulate.records import (
    NEVER,
    OPERATION,
    RUN,
    TASK,
    Came,
    Kind,
    State,
    offsets,
)

NOW, END, QUANTUM, TASKS, COUNT, OPERATIONS, CONTEXT, ERRING = offsets(
    RUN, "now end quantum tasks count operations context erring"
)
TURNS, PLACES, WAITERS, DAEMONS = offsets(RUN, "turns places waiters daemons")
NEXT_OPERATION, NEXT_GUEST, NEXT_ARGUMENT = offsets(RUN, "next_operation next_guest next_argument")
FUNCTION, START, FIRST, SECOND = offsets(OPERATION, "function start first second")
TIME, STATE, KIND, OPERATION_OF, FRAME, TABLES, LOCK, BLOCKED, RANDOM = offsets(
    TASK, "time state kind operation frame tables lock blocked random"
)
SPENT, WAITED, WAITS, DONE, GUEST, OWN, PEER = offsets(
    TASK, "spent waited waits done guest own peer"
)
GUESTS, FIRST_GUEST, GUEST_COUNT, CURSOR, SPAN, STRIDE, BATCH, BATCHED = offsets(
    TASK, "guests first_guest guest_count cursor span stride batch batched"
)
SLEEP, REST, PASSES, SCATTER, REPORTS, CHAINS, ARGUMENT = offsets(
    TASK, "sleep rest passes scatter reports chains argument"
)
SIZE, OPERATION_SIZE = 8 * len(TASK), 8 * len(OPERATION)
IDLE, RUNNING, WAITING, OFF = map(int, State)
VCPU, DAEMON = map(int, Kind)
CAME_END, CAME_PASS, CAME_ERROR, CAME_STUCK = map(int, Came)
AUX, COST, RELEASED, TASK_NUMBER, CHOICE, AGAIN = (8 * int(word) for word in Context)

POLL_NS = 500
"""A task that waits for something else than a lock looks again after so long."""


@intrinsic
def call_operation(_typing, function, tables, frame, context):
    """One step of an operation; its address is an argument, never baked in."""

    def emit(_context, builder, _signature, args):
        word = ir.IntType(64)
        kind = ir.FunctionType(word, [word.as_pointer()] * 3)
        pointers = [builder.inttoptr(value, word.as_pointer()) for value in args[1:]]
        return builder.call(builder.inttoptr(args[0], kind.as_pointer()), pointers)

    return int64(int64, int64, int64, int64), emit


@njit(**NATIVE)
def random(task):
    """The next of a task's random words: a counter, mixed."""
    state = load(task + RANDOM) + int64(GOLDEN)
    store(task + RANDOM, state)
    return mix(state)


@njit(**NATIVE)
def operation(run, number):
    return load(run + OPERATIONS) + OPERATION_SIZE * number


@njit(**NATIVE)
def start(task, operation, first, second):
    """A task begins an operation with its arguments."""
    store(task + OPERATION_OF, operation)
    frame = load(task + FRAME)
    store(frame, load(operation + START))
    if load(operation + FIRST) != 0:
        store(frame + 8 * load(operation + FIRST), first)
    if load(operation + SECOND) != 0:
        store(frame + 8 * load(operation + SECOND), second)
    store(task + STATE, int64(RUNNING))
    store(task + BLOCKED, int64(-1))


@njit(**NATIVE)
def settle(run, number):
    """What a task does next, and when, is known: into the tree of turns."""
    task = load(run + TASKS) + SIZE * number
    place = load(run + PLACES) + number
    earliest = load(task + TIME) if load(task + STATE) <= RUNNING else int64(NEVER)
    turns = load(run + TURNS)
    store(turns + 8 * place, earliest)
    while place > 1:
        earliest = min(earliest, load(turns + 8 * (place ^ 1)))
        place >>= 1
        store(turns + 8 * place, earliest)


@njit(**NATIVE)
def wake(run, now):
    """A lock was dropped: whoever waits for one that can be had looks again.  How many do."""
    task = load(run + TASKS)
    woken = int64(0)
    for number in range(load(run + COUNT)):
        if load(task + STATE) == WAITING:
            held = load_half(load(task + LOCK)) & 65535
            if held < WRITER:
                store(task + STATE, int64(RUNNING))
                if load(task + TIME) < now:
                    store(task + TIME, now)
                settle(run, number)
                woken += 1
        task += SIZE
    store(run + WAITERS, load(run + WAITERS) - woken)
    return woken


@njit(**NATIVE)
def work(run, task, number, until):
    """Steps of a task's operation until another's time comes.  False after an error."""
    context = load(run + CONTEXT)
    function = load(load(task + OPERATION_OF) + FUNCTION)
    tables, frame = load(task + TABLES), load(task + FRAME)
    store(context + TASK_NUMBER, number)
    while True:
        again = load(task + BLOCKED) >= 0
        store(context + AGAIN, int64(again))
        store(context + CHOICE, random(task) & 0xFFFF_FFFF)
        store(context + COST, int64(0))
        store(context + RELEASED, int64(0))
        code = call_operation(function, tables, frame, context)
        now = load(task + TIME)
        if code == STEP_ERROR:
            return False
        if code == STEP_BLOCKED:
            if not again:
                store(task + BLOCKED, now)
            lock = load(context + AUX)
            if lock == 0:
                store(task + TIME, now + POLL_NS)
                return True
            if not again:
                store(task + WAITS, load(task + WAITS) + 1)
            store(task + LOCK, lock)
            store(task + STATE, int64(WAITING))
            store(run + WAITERS, load(run + WAITERS) + 1)
            return True
        if again:
            store(task + WAITED, load(task + WAITED) + now - load(task + BLOCKED))
            store(task + BLOCKED, int64(-1))
        woken = int64(0)
        if load(context + RELEASED) != 0 and load(run + WAITERS) != 0:
            woken = wake(run, now)
        if code == STEP_DONE:
            store(task + STATE, int64(IDLE))
            store(task + DONE, load(task + DONE) + 1)
            return True
        cost = load(context + COST)
        if cost != 0:
            store(task + SPENT, load(task + SPENT) + cost)
            store(task + TIME, now + cost)
        # at a tie, one that has dropped a lock lets others go first
        tie = now + cost == until and load(context + RELEASED) != 0
        if now + cost > until or woken != 0 or tie:
            return True


@njit(**NATIVE)
def aim_daemon(task):
    """What a daemon's operation is run on next: a guest, and a number below its span."""
    guest, count = load(task + GUEST), load(task + GUEST_COUNT)
    number = load(task + CURSOR)
    if load(task + SCATTER) != 0:
        word = random(task)
        guest = load(task + FIRST_GUEST) + scale(word, count)
        number = scale(mix(word), load(task + SPAN) // load(task + STRIDE)) * load(task + STRIDE)
        store(task + GUEST, guest)
    store(task + TABLES, load(load(task + GUESTS) + 8 * guest))
    return number


@njit(**NATIVE)
def next_of_daemon(run, task):
    """An operation has ended: the one that it asks for, or on to the next number.  True: a pass is
    over that Python is told of."""
    if load(task + CHAINS) != 0:
        wanted = load(load(run + NEXT_OPERATION))
        if wanted != 0:
            store(load(run + NEXT_OPERATION), int64(0))
            guest = load(load(run + NEXT_GUEST))
            store(task + TABLES, load(load(task + GUESTS) + 8 * guest))
            argument = load(load(run + NEXT_ARGUMENT))
            start(task, operation(run, wanted), argument, load(task + ARGUMENT))
            return False
    over = False
    cursor = load(task + CURSOR) + load(task + STRIDE)
    if cursor >= load(task + SPAN):
        cursor = int64(0)
        guest = load(task + GUEST) + 1
        if guest >= load(task + FIRST_GUEST) + load(task + GUEST_COUNT):
            guest = load(task + FIRST_GUEST)
            store(task + PASSES, load(task + PASSES) + 1)
            store(task + TIME, load(task + TIME) + load(task + REST))
            over = load(task + REPORTS) != 0
        if load(task + SCATTER) == 0:
            store(task + GUEST, guest)
    store(task + CURSOR, cursor)
    batched = load(task + BATCHED) + 1
    if batched >= load(task + BATCH):
        batched = int64(0)
        store(task + TIME, load(task + TIME) + load(task + SLEEP))
    store(task + BATCHED, batched)
    return over


@njit(**NATIVE)
def until_others(run, mine):
    """When something in a vCPU's guest happens that is not a touch of another vCPU."""
    until = load(mine + TIME) + load(run + QUANTUM)
    task = load(mine + PEER)
    while task != mine:
        if load(task + STATE) == RUNNING:
            until = min(until, load(task + TIME))
        task = load(task + PEER)
    task = load(run + DAEMONS)
    while task != 0:
        if load(task + STATE) <= RUNNING:
            until = min(until, load(task + TIME))
        task = load(task + PEER)
    return until


@njit(**NATIVE)
def simulate(run):
    """Until the end, or until Python is wanted: a `Came`."""
    end, turns = load(run + END), load(run + TURNS)
    for number in range(load(run + COUNT)):
        settle(run, number)
    while True:
        first, second = load(turns + 8), int64(NEVER)
        if first == NEVER and load(run + WAITERS) != 0:
            return int64(CAME_STUCK)
        if first >= end:
            store(run + NOW, end)
            return int64(CAME_END)
        store(run + NOW, first)
        place = int64(1)
        while place < load(run + PLACES):
            place *= 2
            if load(turns + 8 * place) != first:
                place += 1
            second = min(second, load(turns + 8 * (place ^ 1)))
        number = place - load(run + PLACES)
        came = turn(run, number, min(second, end - 1))
        if came >= 0:
            return came
        settle(run, number)


@njit(**NATIVE)
def turn(run, number, until):
    """A task goes on until another one's time comes.  A `Came`, or -1: all is well."""
    task = load(run + TASKS) + SIZE * number
    if load(task + STATE) == IDLE:
        if load(task + KIND) == VCPU:
            missed = touch(task, min(until_others(run, task), load(run + END) - 1))
            if missed >= 0:
                start(task, operation(run, load(task + OWN)), missed >> 1, missed & 1)
            return int64(-1)
        argument = aim_daemon(task)
        start(task, operation(run, load(task + OWN)), argument, load(task + ARGUMENT))
    if not work(run, task, number, until):
        store(run + ERRING, number)
        return int64(CAME_ERROR)
    ended = load(task + STATE) == IDLE and load(task + KIND) == DAEMON
    if ended and next_of_daemon(run, task):
        return int64(CAME_PASS)
    return int64(-1)
