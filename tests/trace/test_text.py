"""Reading trace text: every kind of line, what is lost, cut, foreign or misplaced."""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest

from mmuwitness.trace.events import Loss, TraceError
from mmuwitness.trace.open import open_trace
from tests.trace.printed import only, read, rows, written

DATA = Path(__file__).parents[1] / "data"
KSM_MERGE = DATA / "x86/6.1-tdp-ksm-merge.txt.xz"
HEAD = "             vmm-419     [001] d..1.    20.758553: "
ENTRY = HEAD + "kvm_entry: vcpu 0, rip 0x8006\n"


def ksm_merge_text() -> str:
    return lzma.decompress(KSM_MERGE.read_bytes()).decode()


@pytest.mark.parametrize(
    ("line", "task", "pid", "cpu", "time_ns"),
    [
        ("a b-c-d-200     [001] ...1.    16.5: kvm_exit: x", "a b-c-d", 200, 1, 16_500_000_000),
        ("  a b-c-d-200 (  107) [001] ...1.  16.5: kvm_exit: x", "a b-c-d", 200, 1, 16_500_000_000),
        ("a-200 (-----) [001] dN.1.  16.500000001: kvm_exit: x", "a", 200, 1, 16_500_000_001),
        ("a-200 [001] 16.5: kvm_exit:    x", "a", 200, 1, 16_500_000_000),
        ("a-200 [001] ..... 123456: kvm_exit: x", "a", 200, 1, 123_456),  # clock `counter`
        ("     vmm-163     0d....    18.683360: kvm_exit: x", "vmm", 163, 0, 18_683_360_000),
        ("  <idle>-0       3dNh2.   12us!: kvm_exit: x", "<idle>", 0, 3, 12_000),
        ("vmm 12/13 [001] 5.000001:          1 kvm:kvm_exit: x", "vmm", 13, 1, 5_000_001_000),
        ("migration/0    18 [000] 5.000001: kvm:kvm_exit: x", "migration/0", 18, 0, 5_000_001_000),
        ("             :-1    -1 [001] 5.5: kvm:kvm_exit: x", ":-1", -1, 1, 5_500_000_000),  # perf
        ("  inst:              vmm-163   [000] 5.5: kvm_exit: x", "vmm", 163, 0, 5_500_000_000),
        ("x-1 [0] .....- 16.5: kvm_exit: x", "x", 1, 0, 16_500_000_000),  # a dash in column 16
        ("vmm-1 [000] ..... 16.5: kvm_exit: x\r", "vmm", 1, 0, 16_500_000_000),
    ],
)
def test_finds_everything_wherever_it_stands(
    tmp_path: Path, line: str, task: str, pid: int, cpu: int, time_ns: int
) -> None:
    row = only(tmp_path / "trace", line + "\n")
    assert (row["task"], row["pid"], row["cpu"], row["time"]) == (task, pid, cpu, time_ns)
    assert (row["event"], row["fields"], row["place"]) == ("kvm_exit", {"text": "x"}, 1)


@pytest.mark.parametrize(
    ("printed", "event", "fields"),
    [
        (
            "sys_madvise(start: 7f3b7d600000, len_in: 100000, behavior: f)",
            "sys_enter_madvise",
            {"start": 0x7F3B7D600000, "len_in": 0x100000, "behavior": 15},
        ),
        ("sys_madvise -> 0x0", "sys_exit_madvise", {"ret": 0}),
        ("sys_madvise -> 0xfffffffffffffff2", "sys_exit_madvise", {"ret": -14}),
        ("sys_getpid()", "sys_enter_getpid", {}),
        (
            "sys_enter_munmap:     addr: 0x7ff02534c000, len: 0x000b4000",  # trace-cmd
            "sys_enter_munmap",
            {"addr": 0x7FF02534C000, "len": 0xB4000},
        ),
        ("sys_exit_munmap:      0x0", "sys_exit_munmap", {"ret": 0}),
        ("sys_exit_x:  __syscall_nr=11 ret=0x1", "sys_exit_x", {"__syscall_nr": 11, "ret": 1}),
        ("tracing_mark_write: S:1 op=a vcpu=0", "tracing_mark_write", {"text": "S:1 op=a vcpu=0"}),
        ("print:    tracing_mark_write: E:1 rc=0", "tracing_mark_write", {"text": "E:1 rc=0"}),
        (
            "print:    ip=tracing_mark_write buf=E:1 rc=0",
            "tracing_mark_write",
            {"text": "E:1 rc=0"},
        ),
        ("console: [ 1.0] WARNING: a=1", "console", {"text": "[ 1.0] WARNING: a=1"}),
        (
            "wp_page_copy <-do_wp_page",
            "function",
            {"function": "wp_page_copy", "caller": "do_wp_page"},
        ),
        ("<user stack trace>", "user_stack", {}),
        (
            "mn: (__mmu_start+0x4/0x1e0 [kvm]) mm=0xffff888004062680 n=-1 s=x",
            "mn",
            {"function": "__mmu_start", "offset": 4, "mm": 0xFFFF888004062680, "n": -1, "s": "x"},
        ),
        (
            "r: ([unknown/kretprobe'd] <- wp.constprop.0) ret=0x8",
            "r",
            {"function": "wp", "caller": "[unknown/kretprobe'd]", "ret": 8},
        ),
        (
            "r: (stage2_map_walker+0x6c/0x1ec [kvm] <- leaf)",
            "r",
            {"function": "leaf", "caller": "stage2_map_walker+0x6c/0x1ec [kvm]"},
        ),
        ("p: (ffffffff812ce600) a=1", "p", {"function": "0xffffffff812ce600", "a": 1}),
        (
            "p: (ffffffff812ce600 <- ffffffff8106ba10)",  # formats print the function first
            "p",
            {"function": "0xffffffff812ce600", "caller": "0xffffffff8106ba10"},
        ),
        (
            "p: __probe_func=ffffffff812ce600 __probe_ret_ip=ffffffff8106ba10 ret=4",
            "p",
            {"function": "0xffffffff812ce600", "caller": "0xffffffff8106ba10", "ret": 4},
        ),
        (
            "p: (f+0x0/0x8) offset=1 row=2",
            "p",
            {"function": "f", "offset": 0, "offset_": 1, "row_": 2},
        ),
        (
            'p: (f+0x0/0x8) name="a b" n=2',
            "p",
            {"function": "f", "offset": 0, "name": "a b", "n": 2},
        ),
        ("p: (f+0x0/0x8) a=(fault) b=1", "p", {"function": "f", "offset": 0, "b": 1}),
        ("e: a=18446744073709551615", "e", {"a": 2**64 - 1}),
        ("e: a=18446744073709551616", "e", {"a": "18446744073709551616"}),
        ("e: a=", "e", {"a": ""}),
        ("e: no fields at all", "e", {"text": "no fields at all"}),
        ("e:", "e", {}),
        (
            "sched_switch: prev_comm=a b prev_pid=1 prev_state=S ==> next_comm=c next_pid=2",
            "sched_switch",
            {"prev_comm": "a b", "prev_pid": 1, "prev_state": "S", "next_comm": "c", "next_pid": 2},
        ),
        (
            "kvm_mmu_set_spte: gfn 1 spte 29eae67 (rwxu) level 1 at 7e74008",
            "kvm_mmu_set_spte",
            {"gfn": 1, "spte": 0x29EAE67, "level": 1, "sptep": 0x7E74008},
        ),
        # The same from a raw report: digits alone are hexadecimal, as the kernel prints them.
        (
            "kvm_mmu_set_spte:  gfn=10 spte=5647e67 sptep=58a3008 level=1 r=1",
            "kvm_mmu_set_spte",
            {"gfn": 16, "spte": 0x5647E67, "sptep": 0x58A3008, "level": 1, "r": 1},
        ),
    ],
)
def test_knows_payloads(
    tmp_path: Path, printed: str, event: str, fields: dict[str, int | str]
) -> None:
    row = only(tmp_path / "trace", HEAD + printed + "\n")
    assert (row["event"], row["fields"]) == (event, fields)


def test_types_follow_what_is_printed(tmp_path: Path) -> None:
    lines = ["e: a=1 b=0x1", "e: a=-1 b=0x2", "e: a=x b=(fault)", "e: odd", "f: a=1", "f: a=0x10"]
    trace = written(tmp_path / "trace", "".join(f"{HEAD}{line}\n" for line in lines))
    (batch,) = trace.batches()
    assert batch.tables["e"].to_dict(as_series=False) == {
        "row": [0, 1, 2, 3],
        "a": ["1", "-1", "x", None],
        "b": [1, 2, None, None],
        "text": [None, None, None, "odd"],
    }
    assert batch.tables["f"].to_dict(as_series=False) == {"row": [4, 5], "a": [1, 16]}
    types = {name: str(kind) for name, kind in batch.events.schema.items()}
    assert types == {
        "row": "UInt64",
        "time": "Int64",
        "cpu": "Int32",
        "task": "Categorical",
        "pid": "Int32",
        "event": "Categorical",
        "place": "UInt64",
        "stack": "List(String)",
    }


def test_names_may_be_any_bytes(tmp_path: Path) -> None:
    row = only(tmp_path / "trace", b"        a\xff\xc3\xa9\x01b-1 [000] ..... 1.0: e: x=\xfe y=1\n")
    assert (row["task"], row["fields"]) == ("a\ufffd\u00e9\x01b", {"x": "\ufffd", "y": 1})


def test_stacks_go_to_their_events(tmp_path: Path) -> None:
    other = HEAD.replace("[001]", "[000]").replace("-419", "-420")
    frames = " => f.constprop.0\n => g+0x4/0x20\n => 0xffffffffc0101234\n"
    text = f"{HEAD}a: x\n{other}b: x\n{HEAD}<stack trace>\n{frames}{other}c: x\n"
    found = read(tmp_path / "trace", text)
    assert [(row["event"], row["stack"]) for row in found] == [
        ("a", ["f", "g", "0xffffffffc0101234"]),
        ("b", None),
        ("c", None),
    ]
    assert [row["place"] for row in found] == [1, 2, 7]
    # Its event is gone: before it is another task, or nothing.
    (stack, _) = read(tmp_path / "trace", f"{other}<stack trace>\n => f\n{HEAD}b: x\n")
    assert (stack["event"], stack["stack"]) == ("kernel_stack", ["f"])
    found = read(
        tmp_path / "trace", f"{HEAD}b: x\n{HEAD.replace('419', '7')}<stack trace>\n => f\n"
    )
    assert [(row["event"], row["stack"]) for row in found] == [("b", None), ("kernel_stack", ["f"])]


def test_a_mark_may_have_several_lines(tmp_path: Path) -> None:
    text = f"{HEAD}tracing_mark_write: one\ntwo: [3] 4.0: x\n# three\n{ENTRY}"
    trace = written(tmp_path / "trace", text)
    mark, entry = rows(trace)
    assert mark["fields"] == {"text": "one\ntwo: [3] 4.0: x\n# three"}
    assert (entry["place"], entry["fields"]) == (4, {"vcpu_id": 0, "rip": 0x8006})
    assert trace.notes == ["2 lines belong to the text of the event before them"]
    assert trace.complete


@pytest.mark.parametrize(
    ("remark", "loss"),
    [
        ("CPU:1 [LOST 17 EVENTS]", Loss(1, 1, 17)),
        ("CPU:1 [LOST EVENTS]", Loss(1, 1, None)),
        ("CPU:1 [17 EVENTS DROPPED]", Loss(1, 1, 17)),
        ("CPU:12 [EVENTS DROPPED]", Loss(1, 12, None)),
        ("# entries-in-buffer/entries-written: 1/18   #P:2", Loss(1, None, 17)),
        ("# latency: 0 us, #1/18, CPU#0 | (M:desktop VP:0, KP:0, SP:0 HP:0)", Loss(1, None, 17)),
        ("  perf  0 [001] 5.0: PERF_RECORD_LOST lost 17", Loss(1, None, 17)),
    ],
)
def test_notices_lost_events(tmp_path: Path, remark: str, loss: Loss) -> None:
    trace = written(tmp_path / "trace", ENTRY + remark + "\n" + ENTRY)
    assert len(rows(trace)) == 2
    assert trace.losses == [loss]
    assert trace.lost == (loss.count or 1)
    assert not trace.complete
    assert trace.notes == []


@pytest.mark.parametrize(
    "remark",
    ["##### CPU 1 buffer started ####", "", "cpus=2", "version = 7", "CPU 3 is empty", "TRACEEND"],
)
def test_remarks_mean_no_harm(tmp_path: Path, remark: str) -> None:
    trace = written(tmp_path / "trace", ENTRY + remark + "\n" + ENTRY)
    assert [row["place"] for row in rows(trace)] == [1, 3]
    assert (trace.complete, trace.notes, trace.lost) == (True, [], 0)


def test_headers_say_what_was_recorded(tmp_path: Path) -> None:
    latency = "# nop latency trace v1.1.5 on 6.1.0-56-cloud-amd64\n"
    trace = written(tmp_path / "trace", latency + "vmm-1  0d.... 7: e: x\n")
    rows(trace)
    assert trace.release == "6.1.0-56-cloud-amd64"
    assert trace.clock == "ticks"
    assert trace.notes == [
        "its times are ticks of the trace's clock, not seconds",
        "the latency format cuts the names of tasks to 8 characters",
    ]


def test_several_buffers_in_one_file(tmp_path: Path) -> None:
    text = ksm_merge_text()
    trace = written(tmp_path / "trace", text + text)
    assert len(rows(trace)) == 2 * 3251  # its entries-in-buffer
    assert trace.complete
    line = text.count("\n") + 13
    assert trace.notes == [f"time goes back in line {line}: several traces in one file?"]
    prefixed = "  inst:" + ENTRY + "       " + ENTRY
    trace = written(tmp_path / "trace", prefixed)
    assert [row["task"] for row in rows(trace)] == ["vmm", "vmm"]
    assert trace.notes == ["it holds several buffers; their events are put together"]


def test_lines_that_are_no_events_are_counted(tmp_path: Path) -> None:
    trace = written(tmp_path / "trace", ENTRY + "a [b] c: d\n" + ENTRY + "Oops: 0002\n" * 4)
    assert len(rows(trace)) == 2
    assert not trace.complete
    assert trace.notes == [
        "5 lines are no events, left out: line 2 'a [b] c: d', line 4 'Oops: 0002', "
        "line 5 'Oops: 0002' ..."
    ]


def test_a_cut_text_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    lines = ksm_merge_text().splitlines(keepends=True)
    trace = written(tmp_path / "trace", "".join(lines[:500])[:-9])
    assert len(rows(trace)) == 487
    assert not trace.complete
    assert trace.notes[0].startswith("line 500 is cut off and left out: '")
    assert trace.notes[1].startswith("487 entries, but the header promises 3251: ")
    trace = written(tmp_path / "trace", "".join(lines[:500]))
    assert len(rows(trace)) == 488
    assert (trace.complete, len(trace.notes)) == (False, 1)


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("some words\n" * 7, 7, "no event of a trace up to here: line 1 is none: 'some words'"),
        ("# tracer: nop\n#\n", 2, "no event of a trace up to here: its buffer was empty"),
        (
            "# tracer: function_graph\n 0)   0.9 us  |  f();\n",
            2,
            "the function_graph tracer prints",
        ),
        (
            "    perf 12275 12365.212616: sched:sched_switch: prev_comm=perf\n",
            1,
            "line 1 has no CPU, add `cpu` to the -F of perf script",
        ),
    ],
)
def test_refuses_what_is_no_trace(tmp_path: Path, text: str, line: int, why: str) -> None:
    with pytest.raises(TraceError) as refused:
        rows(written(tmp_path / "trace", text))
    assert why in str(refused.value)
    assert str(refused.value).startswith(f"{tmp_path / 'trace'}:{line}: ")
    assert refused.value.place == line


def test_refuses_lines_without_end(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no line ends in 4096 bytes"):
        rows(written(tmp_path / "trace", ENTRY + "x" * 9000, 4096))


def test_can_be_read_twice() -> None:
    trace = open_trace(str(KSM_MERGE))
    first = rows(trace)
    assert first == rows(trace)
    assert len(first) == 3251
