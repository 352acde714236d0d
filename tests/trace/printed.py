"""Traces as the kernel and its tools print them, and what is read back, row by row."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmuwitness.trace.events import Trace
from mmuwitness.trace.text.reader import TextTrace

NS = 1_000_000_000


@dataclass(frozen=True)
class Printed:
    """An event before it is printed: `payload` is what stands behind its name."""

    task: str
    pid: int
    cpu: int
    time_ns: int
    event: str
    payload: str
    fields: dict[str, Any] = field(default_factory=dict)
    stack: tuple[str, ...] = ()


def micros(ns: int) -> str:
    return f"{ns // NS:5d}.{ns % NS // 1000:06d}"


def nanos(ns: int) -> str:
    return f"{ns // NS:5d}.{ns % NS:09d}"


def frames(each: Printed, head: str, arrow: str, suffix: str) -> str:
    lines = "".join(f"{arrow}{name}{suffix}\n" for name in each.stack)
    return f"{head}\n{lines}" if lines else ""


def trace_line(each: Printed) -> str:
    """tracefs `trace`: kernel/trace/trace_output.c, trace_print_context()."""
    head = f"{each.task:>16}-{each.pid:<7d} [{each.cpu:03d}] dN.1. {micros(each.time_ns)}: "
    stack = frames(each, head + "<stack trace>", " => ", "")
    return f"{head}{each.event}: {each.payload}\n{stack}"


def trace_tgid_line(each: Printed) -> str:
    """With the options record-tgid and irq-info off."""
    head = f"{each.task:>16}-{each.pid:<7d} (-------) [{each.cpu:03d}] {micros(each.time_ns)}: "
    stack = frames(each, head + "<stack trace>", " => ", "")
    return f"{head}{each.event}: {each.payload}\n{stack}"


def trace_cmd_line(each: Printed) -> str:
    """`trace-cmd report -t`."""
    head = f"{each.task:>16}-{each.pid:<5d} [{each.cpu:03d}] {nanos(each.time_ns)}: "
    stack = frames(
        each, head + "kernel_stack:         <stack trace >", "=> ", " (ffffffffc040ba95)"
    )
    return f"{head}{each.event + ':':<21} {each.payload}\n{stack}"


def latency_line(each: Printed) -> str:
    """tracefs `trace` with the option latency-format: trace_print_lat_context()."""
    head = f"{each.task[:8]:>8}-{each.pid:<7d} {each.cpu:3d}dN.1. {each.time_ns // 1000:4d}us+: "
    stack = frames(each, head + "<stack trace>", " => ", "")
    return f"{head}{each.event}: {each.payload}\n{stack}"


def perf_line(each: Printed) -> str:
    """`perf script --ns`, with call chains."""
    chain = "".join(f"\tffffffff81234567 {name}+0x1f ([kvm])\n" for name in each.stack)
    user = "\t           ee137 sched_setaffinity+0x7 (/usr/lib/libc.so.6)\n" if chain else ""
    head = f"{each.task:>16} {each.pid:5d} [{each.cpu:03d}] {nanos(each.time_ns)}: "
    return f"{head}{'kvm:' + each.event:>20}: {each.payload}\n{chain}{user}\n"


def rows(trace: Trace) -> list[dict[str, Any]]:
    """Every event with its fields, in order; a null is no field."""
    found: list[dict[str, Any]] = []
    for batch in trace.batches():
        assert batch.events.height > 0
        assert batch.events["row"].to_list() == list(
            range(len(found), len(found) + batch.events.height)
        )
        start = len(found)
        for event in batch.events.iter_rows(named=True):
            found.append(event | {"fields": {}})
        for name, table in batch.tables.items():
            for fields in table.iter_rows(named=True):
                row = found[fields.pop("row")]
                assert row["event"] == name
                row["fields"] = {k: value for k, value in fields.items() if value is not None}
        assert len(found) > start
    return found


def read(path: Path, text: str | bytes, block_bytes: int = 1 << 20) -> list[dict[str, Any]]:
    """The rows of a text."""
    return rows(written(path, text, block_bytes))


def written(path: Path, text: str | bytes, block_bytes: int = 1 << 20) -> TextTrace:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return TextTrace(str(path), block_bytes=block_bytes)


def only(path: Path, text: str | bytes) -> dict[str, Any]:
    (row,) = read(path, text)
    return row
