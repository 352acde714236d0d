"""The `successors` function of a program: every process stepped in every way, every claim
evaluated, wait-for cycles found.  Its ABI is the one that `explore.search` calls:

    n = successors(state, out, meta, info)
    meta[2k] = process | choice << 8; meta[2k + 1] = marks covered by that step
    info = violated claims, deadlock, error site (0: none), label of the erring step
"""

from __future__ import annotations

from dataclasses import dataclass

from mmuwitness.process.ir import Operand, Process
from mmuwitness.process.layout import Layout
from mmuwitness.process.lower import (
    BLOCKED,
    DONE,
    ERROR,
    STEPPED,
    ClaimBody,
    Function,
    ProcessBody,
    choices,
)
from mmuwitness.process.lowered import Lowered
from mmuwitness.process.steps import Steps

MARKS_MAX, CLAIMS_MAX, PROCESSES_MAX = 62, 62, 16

HEADER = "define i64 @successors(ptr %in, ptr %out, ptr %meta, ptr %info)"


@dataclass
class FoldedClaim:
    """A claim as a predicate graph, and the locks it needs free: (field key, element)."""

    process: Process
    result: Operand
    needs: list[tuple[str, int]]


def lower_program(
    layout: Layout, steps: list[Steps], claims: list[FoldedClaim], lines: bool = False
) -> Lowered:
    """lines: the program says which lines of process code it ran."""
    lowered = Lowered("", [], lines={} if lines else None)
    parts = []
    for number, each in enumerate(steps):
        header = f"define internal i64 @process{number}(ptr %in, ptr %out, i64 %choice, ptr %aux)"
        parts.append(ProcessBody(layout, lowered, header).lower(each))
        table = ", ".join(f"i64 {n}" for n in choices(each))
        count = each.done + 1
        parts.append(f"@choices{number} = internal constant [{count} x i64] [{table}]")
    for number, claim in enumerate(claims):
        header = f"define internal i64 @claim{number}(ptr %in, ptr %aux)"
        parts.append(
            ClaimBody(layout, lowered, header).lower(claim.process, claim.needs, claim.result)
        )
    for what, have, most in (
        ("cover marks", len(lowered.marks), MARKS_MAX),
        ("claims", len(claims), CLAIMS_MAX),
        ("processes", len(steps), PROCESSES_MAX),
    ):
        if have > most:
            raise ValueError(f"{have} {what} in one program; at most {most}")
    parts.append(emit_successors(layout, steps, len(claims)))
    if lowered.lines is not None:
        parts.append(f"@lines = global [{len(lowered.lines)} x i8] zeroinitializer")
    if lowered.counters:
        parts.append(f"@counts = global [{len(lowered.counters)} x i64] zeroinitializer")
    lowered.text = "\n\n".join(parts)
    lowered.successors_max = sum(max(choices(each)) for each in steps)
    return lowered


def emit_successors(layout: Layout, steps: list[Steps], claims: int) -> str:
    f = Function(HEADER)
    aux = f.slot("aux")
    for name in ("count", "out", "error", "label", "waiting", "ended"):
        f.set(name, 0)
    f.do(f"%out0 = ptrtoint ptr %out to i64\nstore i64 %out0, ptr {f.slot('out')}")
    for number in range(len(steps)):
        emit_process(f, layout, number, aux)
    emit_deadlock(f, len(steps))
    emit_claims(f, claims, aux)
    for position, name in ((2, "error"), (3, "label")):
        pointer = f.value(f"getelementptr i64, ptr %info, i64 {position}")
        f.do(f"store i64 {f.get(name)}, ptr {pointer}")
    f.do(f"ret i64 {f.get('count')}")
    return f.text()


def emit_process(f: Function, layout: Layout, number: int, aux: str) -> None:
    """All successors by one process: a loop over its choices."""
    slot = layout.frames[number].pc
    word = f.value(f"getelementptr i64, ptr %in, i64 {slot.word}")
    pc = f.bin("and", f.bin("lshr", f.value(f"load i64, ptr {word}"), slot.shift), slot.mask)
    entry = f.value(f"getelementptr i64, ptr @choices{number}, i64 {pc}")
    total = f.value(f"load i64, ptr {entry}")
    f.set(f"waits{number}", 0)
    f.set("choice", 0)
    f.do(f"br label %try{number}")
    f.label(f"try{number}")
    choice = f.get("choice")
    out = f.value(f"inttoptr i64 {f.get('out')} to ptr")
    call = f"call i64 @process{number}(ptr %in, ptr {out}, i64 {choice}, ptr {aux})"
    code = f.value(call)
    targets = f"i64 {STEPPED}, label %stepped{number} i64 {ERROR}, label %failed{number}"
    targets += f" i64 {BLOCKED}, label %blocked{number}"
    f.do(f"switch i64 {code}, label %done{number} [{targets}]")
    assert DONE not in (STEPPED, ERROR, BLOCKED)

    f.label(f"stepped{number}")
    count = f.get("count")
    label = f.bin("or", f.bin("shl", choice, 8), number)
    meta = f.value(f"getelementptr i64, ptr %meta, i64 {f.bin('shl', count, 1)}")
    f.do(f"store i64 {label}, ptr {meta}")
    marks = f.value(f"getelementptr i64, ptr {meta}, i64 1")
    f.do(f"store i64 {f.value(f'load i64, ptr {aux}')}, ptr {marks}")
    f.set("count", f.bin("add", count, 1))
    f.set("out", f.bin("add", f.get("out"), 8 * layout.words))
    f.do(f"br label %next{number}")

    f.label(f"failed{number}")
    f.set("error", f.value(f"load i64, ptr {aux}"))
    f.set("label", f.bin("or", f.bin("shl", choice, 8), number))
    f.do(f"br label %next{number}")

    f.label(f"blocked{number}")
    f.set(f"waits{number}", f.value(f"load i64, ptr {aux}"))
    f.set("waiting", 1)
    f.do(f"br label %next{number}")

    f.label(f"done{number}")
    f.set("ended", f.bin("or", f.get("ended"), 1 << number))
    f.do(f"br label %next{number}")

    f.label(f"next{number}")
    following = f.bin("add", choice, 1)
    f.set("choice", following)
    again = f.truth("ult", following, total)
    f.do(f"br i1 {again}, label %try{number}, label %after{number}")
    f.label(f"after{number}")


def emit_deadlock(f: Function, processes: int) -> None:
    """A cycle in the wait-for graph, somebody who waits for one that has finished, or nobody can
    run though somebody has not finished."""
    f.set("deadlock", 0)
    some = f.truth("ne", f.get("waiting"), 0)
    f.do(f"br i1 {some}, label %waitfor, label %stuck")
    f.label("waitfor")
    reach = [f.get(f"waits{n}") for n in range(processes)]
    for through in range(processes):
        for n in range(processes):
            linked = f.truth("ne", f.bin("and", reach[n], 1 << through), 0)
            more = f.value(f"select i1 {linked}, i64 {reach[through]}, i64 0")
            reach[n] = f.bin("or", reach[n], more)
    found = "0"
    for n in range(processes):
        hopeless = f.bin("and", reach[n], f.bin("or", f.get("ended"), 1 << n))
        some = f.truth("ne", hopeless, 0)
        found = f.bin("or", found, f.value(f"zext i1 {some} to i64"))
    f.set("deadlock", found)
    f.do("br label %stuck")
    f.label("stuck")
    idle = f.truth("eq", f.get("count"), 0)
    unfinished = f.truth("ne", f.get("ended"), (1 << processes) - 1)
    no_error = f.truth("eq", f.get("error"), 0)
    both = f.value(f"and i1 {idle}, {unfinished}")
    stuck = f.value(f"zext i1 {f.value(f'and i1 {both}, {no_error}')} to i64")
    pointer = f.value("getelementptr i64, ptr %info, i64 1")
    f.do(f"store i64 {f.bin('or', f.get('deadlock'), stuck)}, ptr {pointer}")


def emit_claims(f: Function, claims: int, aux: str) -> None:
    """Bit k of info[0] is set when claim k does not hold."""
    violated = "0"
    for number in range(claims):
        code = f.value(f"call i64 @claim{number}(ptr %in, ptr {aux})")
        broken = f.value(f"zext i1 {f.truth('eq', code, 0)} to i64")
        violated = f.bin("or", violated, f.bin("shl", broken, number))
        failed = f.truth("eq", code, ERROR)
        site = f.value(f"load i64, ptr {aux}")
        f.set("error", f.value(f"select i1 {failed}, i64 {site}, i64 {f.get('error')}"))
    f.do(f"store i64 {violated}, ptr %info")
