"""Events printed as each tool prints them are read back as they were."""

import lzma
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmuwitness.trace.text.layout import FREE_TEXT
from mmuwitness.trace.tracepoints import TRACEPOINT
from tests.trace.printed import (
    Printed,
    latency_line,
    perf_line,
    read,
    trace_cmd_line,
    trace_line,
    trace_tgid_line,
)

DATA = Path(__file__).parents[1] / "data"
# What a task may be called: anything of 15 bytes. What looks like the rest of a line is worst.
HOSTILE = [
    "a-1 [0] 1: b: x",
    "-1 [000] 1.0: x",
    "[000]",
    "a b-c-d",
    "<...>",
    "a#",
    "vmm-3 (7)",
    "=>",
]
ANY_TASK = st.sampled_from(HOSTILE) | st.text(
    st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=15
)
# Where nothing separates a task from what follows but its looks, it must not look like that.
PLAIN_TASK = st.from_regex(r"[a-zA-Z<][a-zA-Z0-9:/_. -]{0,13}[a-zA-Z>]", fullmatch=True)
NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,12}", fullmatch=True)
RESERVED = {"row", "text", "function", "offset", "caller"}
FIELDS = NAMES.filter(lambda name: name not in RESERVED)
EVENTS = NAMES.filter(
    lambda name: (
        name not in FREE_TEXT | {"print", "kernel_stack"}
        and name not in TRACEPOINT
        and not name.startswith("sys_")
    )
)
SYMBOLS = st.from_regex(r"[a-z_][a-z0-9_]{0,20}", fullmatch=True)
U64 = st.integers(0, 2**64 - 1)


@st.composite
def values(draw: st.DrawFn) -> tuple[Callable[[object], str], st.SearchStrategy[object]]:
    """How a field is printed, and its values."""
    kind = draw(st.sampled_from(["hex", "signed", "word"]))
    if kind == "hex":
        return (lambda value: f"{value:#x}"), U64
    if kind == "signed":
        return str, st.integers(-(2**63), 2**63 - 1)
    return str, st.from_regex(r"[g-z|][a-zA-Z|+/]{0,9}", fullmatch=True)


@st.composite
def probes(draw: st.DrawFn) -> Callable[[st.DrawFn], tuple[str, dict[str, object]]]:
    """An event as a probe or tracepoint defines it: makes payloads with their fields."""
    names = draw(st.lists(FIELDS, max_size=4, unique=True))
    fields = [(name, *draw(values())) for name in names]
    place = draw(st.sampled_from(["entry", "return", "none" if fields else "entry"]))
    function, module = draw(SYMBOLS), draw(st.sampled_from(["", " [kvm]"]))
    suffix = draw(st.sampled_from(["", ".isra.0", ".constprop.0.isra.3"]))
    separator = draw(st.sampled_from([" ", ", "]))

    def make(draw: st.DrawFn) -> tuple[str, dict[str, object]]:
        drawn = [(name, show, draw(several)) for name, show, several in fields]
        payload = separator.join(f"{name}={show(value)}" for name, show, value in drawn)
        found: dict[str, object] = {name: value for name, _, value in drawn}
        if place == "entry":
            offset = draw(st.integers(0, 0xFFFF))
            payload = f"({function}{suffix}+{offset:#x}/0x10000{module}) {payload}".rstrip()
            found |= {"function": function, "offset": offset}
        elif place == "return":
            caller = draw(
                st.sampled_from(["[unknown/kretprobe'd]", "g+0x8/0x20 [kvm]", "h+0x4/0x8"])
            )
            payload = f"({caller} <- {function}{suffix}{module}) {payload}".rstrip()
            found |= {"function": function, "caller": caller}
        return payload, found

    return make


@st.composite
def traces(draw: st.DrawFn, tasks: st.SearchStrategy[str]) -> list[Printed]:
    kinds = draw(st.dictionaries(EVENTS, probes(), min_size=1, max_size=3))
    made, time_ns = [], draw(st.integers(0, 10**14))
    for _ in range(draw(st.integers(1, 12))):
        event = draw(st.sampled_from(sorted(kinds)))
        payload, fields = kinds[event](draw)
        time_ns += draw(st.integers(0, 10**10))
        stack = draw(st.just(()) | st.lists(SYMBOLS, max_size=3).map(tuple))
        pid, cpu = draw(st.integers(0, 4194304)), draw(st.integers(0, 300))
        made.append(Printed(draw(tasks), pid, cpu, time_ns, event, payload, fields, stack))
    return made


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "unit_ns", "task_chars", "tasks"),
    [
        (trace_line, 1000, 16, ANY_TASK),
        (trace_tgid_line, 1000, 16, ANY_TASK),
        (trace_cmd_line, 1, 16, ANY_TASK),
        (latency_line, 1000, 8, PLAIN_TASK),
        (perf_line, 1, 16, PLAIN_TASK),
    ],
)
def test_what_is_printed_is_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    line: Callable[[Printed], str],
    unit_ns: int,
    task_chars: int,
    tasks: st.SearchStrategy[str],
) -> None:
    path = tmp_path_factory.getbasetemp() / "printed"

    @given(traces(tasks))
    def check(events: list[Printed]) -> None:
        found = read(path, "".join(map(line, events)))
        for event, row in zip(events, found, strict=True):
            assert row["task"].strip() == event.task[:task_chars].strip()
            assert (row["pid"], row["cpu"], row["event"]) == (event.pid, event.cpu, event.event)
            assert row["time"] == event.time_ns // unit_ns * unit_ns
            assert row["stack"] == (list(event.stack) or None)
            assert row["fields"] == event.fields

    check()


@pytest.mark.parametrize("block_bytes", [20_000, 50_000])
def test_the_borders_of_blocks_do_not_show(tmp_path: Path, block_bytes: int) -> None:
    """A stack trace may be in another block than its event, and text has lines of its own."""
    text = lzma.decompress((DATA / "x86/6.1-stock-ksm-merge.txt.xz").read_bytes()).decode()
    text = text.replace("E:4 ", "E:4\nand\nmore ")
    whole = read(tmp_path / "whole", text)
    assert sum(row["stack"] is not None for row in whole) == 148
    assert read(tmp_path / "parts", text, block_bytes) == whole
