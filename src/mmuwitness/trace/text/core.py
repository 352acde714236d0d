"""The loop that finds the events in trace text: source that numba compiles once (see native).

Imported only when no compiled copy is in the cache. All arguments are addresses or int64 words.
A block of text is followed by PADDING readable bytes, because bytes are looked at 32 at a time and
a short look ahead is not checked. No write can leave the arrays: `scan` stops when they are full.

Of all that can stand between task and event (flags, TGID, period ...) nothing has a fixed column,
so everything is found by pattern: a CPU in brackets that has a pid before and a time behind it.
"""
# mypy: ignore-errors
# (numba infers these types itself, and knows its intrinsics where mypy does not)

from __future__ import annotations

from llvmlite import ir
from numba import int64, njit
from numba.extending import intrinsic

from mmuwitness.explore.search_table import NATIVE
from mmuwitness.explore.search_words import load, lowest_bit, store, store_half
from mmuwitness.trace.text.columns import (
    ARROW_CALL,
    ARROW_RETURN,
    CALL,
    CONSUMED,
    CPU,
    EVENT_COLUMNS,
    EVENTS,
    FRAMES_END,
    FRAMES_START,
    LINE,
    LINE_START,
    LINES,
    NAME_END,
    NAME_START,
    OTHER_END,
    OTHER_EVENT,
    OTHER_LINE,
    OTHER_START,
    OTHERS,
    PAYLOAD_END,
    PAYLOAD_START,
    PID,
    PLAIN,
    PREFIX,
    SECONDS,
    SEEN,
    SHORT_TASKS,
    STACK,
    STYLE,
    TASK_END,
    TASK_START,
    TICKS,
)

_BYTE, _WORD = ir.IntType(8), ir.IntType(64)
_CHUNK = ir.VectorType(_BYTE, 32)

TAB, NEWLINE, RETURN, SPACE, HASH, OPEN, CLOSE, PLUS = 9, 10, 13, 32, 35, 40, 41, 43
MINUS, DOT, SLASH, COLON, LESS, EQUAL, GREATER, BRACKET = 45, 46, 47, 58, 60, 61, 62, 91
BRACKET_END, LETTER_S, LETTER_U = 93, 115, 117
TASK_CHARS = 16  # the kernel and trace-cmd print "%16s-"


@intrinsic
def byte(_typing, address):
    """The byte at `address`."""

    def emit(_context, builder, _signature, args):
        pointer = builder.inttoptr(args[0], _BYTE.as_pointer())
        return builder.zext(builder.load(pointer), _WORD)

    return int64(int64), emit


@intrinsic
def matches(_typing, address, value):
    """Bit k is set if the byte at `address` + k is `value`, for 32 bytes."""

    def emit(_context, builder, _signature, args):
        chunk = builder.load(builder.inttoptr(args[0], _CHUNK.as_pointer()), align=1)
        half = ir.IntType(32)
        one = builder.insert_element(
            ir.Constant(_CHUNK, ir.Undefined), builder.trunc(args[1], _BYTE), half(0)
        )
        zeros = ir.Constant(ir.VectorType(half, 32), [0] * 32)
        equal = builder.icmp_unsigned("==", chunk, builder.shuffle_vector(one, one, zeros))
        return builder.zext(builder.bitcast(equal, half), _WORD)

    return int64(int64, int64), emit


@njit(**NATIVE)
def find(at, end, value):
    """Where the byte `value` is first; `end` if nowhere before."""
    while at < end:
        mask = matches(at, value)
        if mask != 0:
            return min(at + lowest_bit(mask), end)
        at += 32
    return end


@njit(**NATIVE)
def is_digit(value):
    return 48 <= value <= 57


@njit(**NATIVE)
def is_blank(value):
    return value in (SPACE, TAB)


@njit(**NATIVE)
def skip_blanks(at, end):
    while at < end and is_blank(byte(at)):
        at += 1
    return at


@njit(**NATIVE)
def skip_digits(at, end):
    while at < end and is_digit(byte(at)):
        at += 1
    return at


@njit(**NATIVE)
def small_number(at, end):
    """Of the digits; -1 if there are none or too many for an int32."""
    if at == end or end - at > 9:
        return int64(-1)
    value = int64(0)
    while at < end:
        value = value * 10 + byte(at) - 48
        at += 1
    return value


@njit(**NATIVE)
def read_time(at, end):
    """`20.758553:`, `20758553us+:` or `123456:` as (nanoseconds or ticks, SECONDS or TICKS, where
    its colon is); 0 in the second place if it is none."""
    whole = skip_digits(at, end)
    if whole == at or whole - at > 18:
        return int64(0), int64(0), at
    value = int64(0)
    for position in range(at, whole):
        value = value * 10 + byte(position) - 48
    kind, at = int64(TICKS), whole
    if byte(at) == DOT:
        stop = skip_digits(at + 1, end)
        places = stop - at - 1
        if not 0 < places <= 9 or value > 9_000_000_000:
            return int64(0), int64(0), at
        for position in range(at + 1, stop):
            value = value * 10 + byte(position) - 48
        for _ in range(9 - places):
            value *= 10
        kind, at = int64(SECONDS), stop
    elif byte(at) == LETTER_U and byte(at + 1) == LETTER_S and value < 9_000_000_000_000_000:
        value *= 1000
        kind, at = int64(SECONDS), at + 2
    mark = byte(at)  # of the latency format: how long until the next event
    if at + 1 < end and (mark in (SPACE, PLUS, 33, 35, 36, 42, 64)) and byte(at + 1) == COLON:
        at += 1
    if at >= end or byte(at) != COLON:
        return int64(0), int64(0), at
    return value, kind, at


@njit(**NATIVE)
def read_name(at, end):
    """The event's name at `at`: (its end, how it is written, where its payload begins); 0 in the
    second place if it is none."""
    start = at
    if at < end and byte(at) == LESS:
        stop = find(at, end, GREATER)
        return min(stop + 1, end), int64(STACK if stop < end else 0), min(stop + 1, end)
    while at < end:
        here = byte(at)
        if here == COLON:
            if at + 1 == end or is_blank(byte(at + 1)):
                return at, int64(PLAIN if at > start else 0), skip_blanks(at + 1, end)
        elif here in (OPEN, LESS):
            return at, int64(CALL if here == OPEN and at > start else 0), at
        elif is_blank(here):
            after = skip_blanks(at, end)
            if after + 1 < end and byte(after) == MINUS and byte(after + 1) == GREATER:
                return at, int64(ARROW_RETURN), after
            if after + 1 < end and byte(after) == LESS and byte(after + 1) == MINUS:
                return start, int64(ARROW_CALL), start
            return at, int64(0), at
        at += 1
    return at, int64(0), at


@njit(**NATIVE)
def read_after_cpu(at, end):
    """Flags and time behind the CPU, as read_time."""
    value, kind, colon = read_time(at, end)
    if kind == 0:
        while at < end and not is_blank(byte(at)):
            at += 1
        at = skip_blanks(at, end)
        value, kind, colon = read_time(at, end)
    return value, kind, colon


@njit(**NATIVE)
def read_task(start, at):
    """`task-pid (tgid) ` or `task pid/tid ` before `at`: (end of the task, start of the pid, its
    end); -1 in the first place if it is none."""
    if at == start or not is_blank(byte(at - 1)):
        return int64(-1), at, at
    while at > start and is_blank(byte(at - 1)):
        at -= 1
    if at > start and byte(at - 1) == CLOSE:  # of the record-tgid option
        at -= 1
        while at > start and (is_digit(byte(at - 1)) or byte(at - 1) in (MINUS, SPACE)):
            at -= 1
        if at == start or byte(at - 1) != OPEN:
            return int64(-1), at, at
        at -= 1
        while at > start and is_blank(byte(at - 1)):
            at -= 1
    stop = at
    while at > start and is_digit(byte(at - 1)):
        at -= 1
    pid = at
    if at > start and byte(at - 1) == SLASH and pid < stop:  # perf's pid/tid
        at -= 1
        while at > start and is_digit(byte(at - 1)):
            at -= 1
    unpadded = at > start + 1 and at - 1 != start + TASK_CHARS
    if unpadded and byte(at - 1) == MINUS and is_blank(byte(at - 2)):  # perf's pid -1: not known
        at -= 1
        pid = at
    if pid == stop or at == start or not (byte(at - 1) == MINUS or is_blank(byte(at - 1))):
        return int64(-1), at, at
    at -= 1
    while at > start and is_blank(byte(at)) and is_blank(byte(at - 1)):
        at -= 1
    return (at if at > start else int64(-1)), pid, stop


@njit(**NATIVE)
def put(columns, room, column, index, value):
    store_half(columns + 4 * (column * room + index), value)


@njit(**NATIVE)
def put_header(columns, room, index, block, task, task_end, pid, cpu, time):
    put(columns, room, TASK_START, index, task - block)
    put(columns, room, TASK_END, index, task_end - block)
    put(columns, room, PID, index, pid)
    put(columns, room, CPU, index, cpu)
    store(columns + 4 * EVENT_COLUMNS * room + 8 * index, time)


@njit(**NATIVE)
def own_task(start, task_end, info):
    """Where the task's name begins. In front of it is the name of its buffer, if trace-cmd reports
    several."""
    if task_end - start > TASK_CHARS and byte(task_end) == MINUS:
        task = task_end - TASK_CHARS
        if skip_blanks(start, task) < task:
            store(info + 8 * PREFIX, int64(1))
        start = task
    return skip_blanks(start, task_end - 1)


@njit(**NATIVE)
def read_header(start, end, columns, room, index, block, info):
    """`task-pid (tgid) [cpu] flags time` as columns of the event `index`: where the colon is and
    what was SEEN; -1 if this is no event."""
    # A task's own name may look like all of this, but it cannot be so long.
    padded = start + TASK_CHARS < end and byte(start + TASK_CHARS) == MINUS
    bracket = find(start + TASK_CHARS if padded else start, end, BRACKET)
    while bracket < end or padded:
        if bracket == end:
            bracket, padded = find(start, end, BRACKET), False
            continue
        cpu_end = skip_digits(bracket + 1, end)
        if cpu_end > bracket + 1 and byte(cpu_end) == BRACKET_END and is_blank(byte(cpu_end + 1)):
            task_end, pid, pid_end = read_task(start, bracket)
            if task_end >= 0:
                time, seen, colon = read_after_cpu(skip_blanks(cpu_end + 1, end), end)
                known = byte(pid) != MINUS
                number = small_number(pid, pid_end) if known else int64(-1)
                cpu = small_number(bracket + 1, cpu_end)
                if seen != 0 and (number >= 0 or not known) and cpu >= 0:
                    task = own_task(start, task_end, info)
                    put_header(columns, room, index, block, task, task_end, number, cpu, time)
                    return colon, seen
        bracket = find(bracket + 1, end, BRACKET)
    return read_latency_header(start, end, columns, room, index, block)


@njit(**NATIVE)
def read_latency_header(start, end, columns, room, index, block):
    """`     vmm-419     1d.... 20758553us : `, as read_header: the CPU touches the flags."""
    dash = find(start + 1, end, MINUS)
    while dash < end:
        pid_end = skip_digits(dash + 1, end)
        cpu = skip_blanks(pid_end, end)
        flags = skip_digits(cpu, end)
        if pid_end > dash + 1 and cpu > pid_end and flags > cpu and not is_blank(byte(flags)):
            at = flags
            while at < end and not is_blank(byte(at)):
                at += 1
            time, seen, colon = read_time(skip_blanks(at, end), end)
            pid, number = small_number(dash + 1, pid_end), small_number(cpu, flags)
            if seen != 0 and pid >= 0 and number >= 0:
                task = skip_blanks(start, dash - 1)
                put_header(columns, room, index, block, task, dash, pid, number, time)
                return colon, seen | SHORT_TASKS
        dash = find(dash + 1, end, MINUS)
    return int64(-1), int64(0)


@njit(**NATIVE)
def word_is(at, end, word, length):
    """The bytes before `end` begin with `word`, `length` characters in a little-endian integer."""
    if at + length > end:
        return False
    position = int64(0)
    while position < length and byte(at + position) == (word >> (8 * position)) & 255:
        position += 1
    return position == length


PRINT, IP, BUFFER = (int.from_bytes(text, "little") for text in (b"print", b"ip=", b" buf="))


@njit(**NATIVE)
def read_print(name, name_end, payload, end):
    """trace-cmd's `print: tracing_mark_write: text`, or raw `print: ip=tracing_mark_write
    buf=text`, is what the kernel calls `tracing_mark_write: text`."""
    if name_end - name != 5 or not word_is(name, name_end, PRINT, 5):
        return name, name_end, payload
    start = payload + 3 if word_is(payload, end, IP, 3) else payload
    stop = start
    while stop < end and not is_blank(byte(stop)) and byte(stop) != COLON:
        stop += 1
    if start > payload and stop > start and word_is(stop, end, BUFFER, 5):
        return start, stop, stop + 5
    if start == payload and stop > start and stop + 1 < end and byte(stop) == COLON:
        return start, stop, skip_blanks(stop + 1, end)
    return name, name_end, payload


@njit(**NATIVE)
def read_event(start, end, columns, room, index, block, info):
    """The line as columns of the event `index`; False if it is none."""
    colon, seen = read_header(start, end, columns, room, index, block, info)
    if colon < 0 or colon + 1 >= end or not is_blank(byte(colon + 1)):
        return False
    name = skip_blanks(colon + 1, end)
    after = skip_digits(name, end)
    if after > name and after < end and is_blank(byte(after)):  # perf's period
        name = skip_blanks(after, end)
    name_end, style, payload = read_name(name, end)
    if style == 0:
        return False
    if style == PLAIN:
        name, name_end, payload = read_print(name, name_end, payload, end)
    put(columns, room, NAME_START, index, name - block)
    put(columns, room, NAME_END, index, name_end - block)
    put(columns, room, STYLE, index, style)
    put(columns, room, PAYLOAD_START, index, payload - block)
    put(columns, room, PAYLOAD_END, index, end - block)
    put(columns, room, FRAMES_START, index, int64(0))
    put(columns, room, FRAMES_END, index, int64(0))
    store(info + 8 * SEEN, load(info + 8 * SEEN) | seen)
    return True


@njit(**NATIVE)
def is_frame(start, end):
    """` => function`, or perf's tab, address and function."""
    at = skip_blanks(start, end)
    if at + 2 < end and byte(at) == EQUAL and byte(at + 1) == GREATER:
        return is_blank(byte(at + 2))
    if byte(start) != TAB:
        return False
    stop = at
    while stop < end and (is_digit(byte(stop)) or 97 <= byte(stop) <= 102):
        stop += 1
    return stop > at and stop < end and byte(stop) == SPACE


@njit(**NATIVE)
def scan(block, size, columns, room, others, others_room, info):
    """Sort the whole lines of a block into events, with the stack frames behind them, and others.
    Stops early when the columns are full; CONSUMED says where. The words of `info` are zero."""
    at, stop = block, block + size
    index, other, line, framed = int64(0), int64(0), int64(0), False
    while at < stop and index < room and other < others_room:
        newline = find(at, stop, NEWLINE)
        if newline == stop:
            break
        end = newline
        while end > at and byte(end - 1) == RETURN:
            end -= 1
        if byte(at) != HASH and read_event(at, end, columns, room, index, block, info):
            put(columns, room, LINE, index, line)
            put(columns, room, LINE_START, index, at - block)
            put(columns, room, FRAMES_START, index, newline + 1 - block)
            put(columns, room, FRAMES_END, index, newline + 1 - block)
            index += 1
            framed = True
        elif framed and is_frame(at, end):  # second: a task may be called => as well
            put(columns, room, FRAMES_END, index - 1, end - block)
        elif skip_blanks(at, end) == end:
            framed = False
        else:
            put(others, others_room, OTHER_START, other, at - block)
            put(others, others_room, OTHER_END, other, end - block)
            put(others, others_room, OTHER_LINE, other, line)
            put(others, others_room, OTHER_EVENT, other, index)
            other += 1
            framed = False
        at = newline + 1
        line += 1
    store(info + 8 * CONSUMED, at - block)
    store(info + 8 * EVENTS, index)
    store(info + 8 * OTHERS, other)
    store(info + 8 * LINES, line)
    return int64(0)
