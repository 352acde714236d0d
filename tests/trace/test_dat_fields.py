"""Fields, symbols, stack traces, clocks and losses of hand-made trace.dat files."""

from typing import Any

import polars as pl
import pytest

from mmuwitness.trace.dat.format import parse_fields
from mmuwitness.trace.dat.print import printed_columns
from mmuwitness.trace.dat.reader import DatTrace
from mmuwitness.trace.dat.symbols import Symbols
from mmuwitness.trace.events import Loss
from tests.trace.dat_writer import Item, Machine, Recording, format_file, ring, write_v6, write_v7
from tests.trace.test_dat_round_trip import STACK, ftrace_formats

KALLSYMS = """\
ffffffff81000000 T _text
ffffffff81001000 t do_wp_page.isra.0
ffffffff81001000 t alias_of_it
ffffffff81001380 T __handle_mm_fault
ffffffff81002000 t arch_rethook_trampoline
ffffffff81002100 T unmap_vmas
ffffffffc0400000 t kvm_unmap_gfn_range\t[kvm]
ffffffffc0400120 t kvm_set_spte_gfn\t[kvm]
"""
TEXT = 0xFFFF_FFFF_8100_0000


def read(made: Recording, items: list[Item], write: Any = write_v6) -> DatTrace:
    made.instances = [("", {0: ring(made.machine, items)})]
    return DatTrace("made", write(made))


def one_table(made: Recording, kind: int, payload: bytes) -> dict[str, Any]:
    """The fields of a single event."""
    items = [Item(1000, made.machine.record(kind, 1, payload))]
    (batch,) = read(made, items).batches()
    ((_, table),) = batch.tables.items()
    return table.drop("row").row(0, named=True)


def probes(machine: Machine) -> Recording:
    kprobe = [("unsigned long __probe_ip", 8, 8, 0), ("s16 slot", 16, 2, 1), ("u64 kvm", 24, 8, 0)]
    kretprobe = [
        ("unsigned long __probe_func", 8, 8, 0),
        ("unsigned long __probe_ret_ip", 16, 8, 0),
        ("u8 ret", 24, 1, 0),
    ]
    formats = [format_file("entry", 800, kprobe), format_file("back", 801, kretprobe)]
    return Recording(machine, ftrace_formats(machine), {"kp": formats}, KALLSYMS)


def test_kprobe() -> None:
    made = probes(Machine())
    payload = made.machine.pack("QhxxxxxxQ", 0xFFFF_FFFF_C040_0004, -2, 0xFFFF_C900_0000_0000)
    assert one_table(made, 800, payload) == {
        "function": "kvm_unmap_gfn_range",
        "offset": 4,
        "slot": -2,
        "kvm": 0xFFFF_C900_0000_0000,
    }


@pytest.mark.parametrize(
    ("back_to", "caller"),
    [
        (TEXT + 0x1385, "__handle_mm_fault+0x5/0xc80"),
        (0xFFFF_FFFF_C040_0100, "kvm_unmap_gfn_range+0x100/0x120 [kvm]"),
        (TEXT + 0x2000, "[unknown/kretprobe'd]"),
        (0x1234, "0x1234"),
    ],
)
def test_kretprobe(back_to: int, caller: str) -> None:
    made = probes(Machine())
    payload = made.machine.pack("QQB", TEXT + 0x1000, back_to, 1)
    expected = {"function": "do_wp_page", "caller": caller, "ret": 1}
    assert one_table(made, 801, payload) == expected


def test_symbols_at_the_edges() -> None:
    symbols = Symbols(KALLSYMS)
    assert symbols.at(TEXT - 1) is None
    assert symbols.at(0xFFFF_FFFF_FFFF_FFFF) is None
    assert symbols.function(TEXT) == "_text"
    assert symbols.frame(TEXT + 0x20FF) == "[unknown/kretprobe'd]"
    assert symbols.frame((1 << 31) - 1) == "[FTRACE TRAMPOLINE]"
    assert len(Symbols("")) == 0
    assert len(Symbols("0000000000000000 T _text\n0000000000000000 t f\n")) == 0


def stack(machine: Machine, pid: int, *addresses: int, room: int = 0) -> bytes:
    words = machine.pack(f"ixxxx{len(addresses)}Q", len(addresses), *addresses)
    return machine.record(STACK, pid, words + b"\xff" * 8 * room)


@pytest.mark.parametrize("batch_events", [1, 100])
@pytest.mark.parametrize("machine", [Machine(page_bytes=128), Machine(True)], ids=["many", "one"])
def test_stack_traces(machine: Machine, batch_events: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """They belong to the event before, also where a sub-buffer or a batch ends between them."""
    monkeypatch.setattr("mmuwitness.trace.dat.reader.BATCH_EVENTS", batch_events)
    monkeypatch.setattr("mmuwitness.trace.dat.reader.BLOCK_BYTES", 1)
    made = probes(machine)
    event = machine.record(800, 1, machine.pack("QhxxxxxxQ", TEXT, 0, 0))
    frames = (TEXT + 0x1010, TEXT + 0x1390, 0xDEAD)
    first = [
        Item(1000, event),
        Item(1010, stack(machine, 1, *frames)),
        Item(1020, event),
        Item(1030, event),
        Item(1040, stack(machine, 1, TEXT + 0x2100)),
        Item(1050, stack(machine, 2, TEXT + 0x2100)),  # of another task: its event is missing
    ]
    other = [Item(1001 + index, event) for index in range(12)]
    made.instances = [("", {0: ring(machine, first), 1: ring(machine, other)})]
    trace = DatTrace("made", write_v7(made))
    events = pl.concat([batch.events for batch in trace.batches()])
    assert events["row"].to_list() == list(range(16))
    mine = events.filter(cpu=0).select("time", "event", "stack").rows()
    assert mine == [
        (1000, "entry", ["do_wp_page", "__handle_mm_fault", "0xdead"]),
        (1020, "entry", None),
        (1030, "entry", ["unmap_vmas"]),
        (1050, "kernel_stack", ["unmap_vmas"]),
    ]
    assert events.filter(cpu=1)["stack"].null_count() == 12


def test_arrays_and_located_fields() -> None:
    machine = Machine(True)
    fields = [
        ("u32 words[2]", 8, 8, 0),
        ("__rel_loc char[] near", 16, 4, 0),
        ("__data_loc u16[] far", 20, 4, 0),
        ("char rest[]", 24, 0, 0),
    ]
    made = Recording(machine, systems={"sample": [format_file("arrays", 800, fields)]})
    near, far = 4 << 16 | 4, 4 << 16 | 28
    payload = machine.pack("4I", 1, 0xFF, near, far) + b"abc\0" + machine.pack("HH", 7, 0xFFFF)
    assert one_table(made, 800, payload) == {
        "words": "{0x1,0xff}",
        "near": "abc",
        "far": "{0x7,0xffff}",
        "rest": "abc",
    }


def test_located_beyond_the_record_is_cut() -> None:
    machine = Machine()
    fields = [("__data_loc char[] far", 8, 4, 0), ("__data_loc u64[] more", 12, 4, 0)]
    made = Recording(machine, systems={"sample": [format_file("arrays", 800, fields)]})
    payload = machine.pack("II", 0xFFFF << 16 | 16, 0xFFFF << 16 | 0xFFFF) + b"abcd"
    assert one_table(made, 800, payload) == {"far": "abcd", "more": "{}"}


FIELDS = frozenset({"code", "isa", "set", "ret", "mode"})


@pytest.mark.parametrize(
    ("printed", "column", "recorded", "value"),
    [
        ('"c %s", __print_symbolic(REC->code, {0x400, "npf"})', "code", {"code": 0x400}, "npf"),
        ('"c %s", __print_symbolic(REC->code, {1, "a"})', "code", {"code": 31}, "0x1f"),
        ('"c %s", __print_flags(REC->code, "|", {1, "P"}, {2, "W"})', "code", {"code": 3}, "P|W"),
        ('"c %s", __print_flags(REC->code, "|", {1, "P"})', "code", {"code": 17}, "P|0x10"),
        ('"c %s", __print_flags(REC->code, "|", {1, "P"})', "code", {"code": 0}, ""),
        (
            '"c %s%s", (REC->isa == 1) ? __print_symbolic(REC->code & 0xffff, {7, "x"}) : "y", '
            'REC->isa && REC->code & ~0xffff ? "+" : ""',
            "code",
            {"isa": 1, "code": 0x10007},
            "x+",
        ),
        ('"%s it", REC->set ? "set" : "cleared"', "set", {"set": 0}, "cleared"),
        ('"a %d fixed %d", REC->code, REC->ret == (1 << 2)', "fixed", {"ret": 4}, 1),
        ('"%s", __print_symbolic((u16)REC->mode, {1 + 2, "A" "B"})', "mode", {"mode": 3}, "AB"),
    ],
)
def test_printed_by_name(printed: str, column: str, recorded: dict, value: int | str) -> None:
    (found,) = printed_columns(printed, FIELDS)
    assert found.column == column
    assert found.value(recorded) == value


@pytest.mark.parametrize(
    "printed",
    [
        "",
        '"plain %d", REC->code',
        '"%s", __print_hex(REC->code, 4)',
        '"%s", __print_symbolic(REC->absent, {1, "a"})',
        '"%s", ({ trace_seq_printf(p, "x"); }), REC->set ? "a" : "b"',
        '"%d", REC->code +',
        '"%s %s", __print_symbolic(REC->code, {PG_locked, "a"})',
        '"%s' + '", (' * 200,
        "REC->code",
    ],
)
def test_not_evaluated(printed: str) -> None:
    assert printed_columns(printed, FIELDS) == []


def test_one_field_printed_twice() -> None:
    printed = '"%s is %s", __print_symbolic(REC->code, {1, "one"}), REC->code ? "set" : "clear"'
    file = format_file("twice", 800, [("u32 code", 8, 4, 0)], printed)
    made = Recording(Machine(), systems={"sample": [file]})
    assert one_table(made, 800, made.machine.pack("I", 1)) == {"code": "one"}


def test_damaged_fields() -> None:
    line = "\tfield:int x;\toffset:8;\tsize:4;\tsigned:1;\n"
    assert parse_fields(line, 8) is not None
    assert parse_fields(line.replace("size:4", "size:"), 8) is None
    assert parse_fields(line.replace("offset:8", "offset:65536"), 8) is None
    assert parse_fields(line.replace("int x", "__data_loc char[] x").replace(":4", ":2"), 8) is None


def clocked(number: int, content: bytes) -> int:
    """The time of an event at 10**10, in a file with this option."""
    made = probes(Machine())
    made.options = [(number, content)]
    record = made.machine.record(800, 1, made.machine.pack("QhxxxxxxQ", TEXT, 0, 0))
    (batch,) = read(made, [Item(10**10, record)], write_v7).batches()
    return int(batch.events["time"][0])


def test_clocks() -> None:
    assert clocked(7, b"-5\0") == 10**10 - 5  # OFFSET
    assert clocked(1, b"0x10\0") == 10**10 + 16_000  # DATE, in microseconds
    # TSC2NSEC at 2.5 GHz: 0.4 ns a tick
    multiplier = round(0.4 * 2**32)
    assert clocked(14, Machine().pack("IIQ", multiplier, 32, 0)) == 10**10 * multiplier >> 32


def test_losses_by_row() -> None:
    made = probes(Machine())
    record = made.machine.record(800, 1, made.machine.pack("QhxxxxxxQ", TEXT, 0, 0))
    items = [
        Item(10, record),
        Item(20, record, lost=7),
        Item(30, record),
        Item(40, record, lost=-1),
    ]
    trace = read(made, items)
    list(trace.batches())
    assert trace.losses == [Loss(1, 0, 7), Loss(3, 0, None)]
    assert (trace.lost, trace.complete) == (8, False)


def test_losses_that_only_the_counters_tell() -> None:
    made = probes(Machine())
    made.options = [
        (2, b"CPU: 0\nentries: 1\noverrun: 12\ncommit overrun: 0\ndropped events: 3\n\0")
    ]
    record = made.machine.record(800, 1, made.machine.pack("QhxxxxxxQ", TEXT, 0, 0))
    trace = read(made, [Item(10, record), Item(20, record, lost=7)])
    list(trace.batches())
    assert trace.losses == [Loss(0, None, 5), Loss(1, 0, 7), Loss(2, None, 3)]


def test_a_clock_that_is_set_back_reorders_no_cpu() -> None:
    machine = Machine()
    made = probes(machine)
    pages = []
    for time in (5000, 100):
        record = machine.record(800, time, machine.pack("QhxxxxxxQ", TEXT, 0, 0))
        pages += ring(machine, [Item(time, record), Item(time + 1, record)])
    made.instances = [("", {0: pages})]
    (batch,) = DatTrace("made", write_v6(made)).batches()
    assert batch.events["time"].to_list() == [5000, 5001, 100, 101]


def test_trace_marker_and_unknown_writer() -> None:
    made = probes(Machine())
    pack = made.machine.pack
    items = [
        Item(10, made.machine.record(5, 1, pack("Q", TEXT + 0x2101) + b"a b\n\0")),
        Item(20, made.machine.record(5, 1, pack("Q", 0x10) + b"c\0")),
    ]
    (batch,) = read(made, items).batches()
    assert batch.events["event"].to_list() == ["unmap_vmas", "print"]
    assert [batch.tables[name]["text"].to_list() for name in ("unmap_vmas", "print")] == [
        ["a b"],
        ["c"],
    ]


def test_hidden_addresses_are_noted() -> None:
    made = probes(Machine())
    made.kallsyms = "0000000000000000 T _text\n"
    record = made.machine.record(800, 1, made.machine.pack("QhxxxxxxQ", TEXT, 0, 0))
    trace = read(made, [Item(10, record)])
    (batch,) = trace.batches()
    assert batch.tables["entry"].row(0)[1:3] == (f"{TEXT:#x}", None)
    assert any("kptr_restrict" in note for note in trace.notes)


def test_two_groups_of_one_name() -> None:
    machine = Machine()
    one, two = ([(f"u32 {name}", 8, 4, 0), ("u32 both", 12, 4, 0)] for name in ("first", "second"))
    systems = {"a": [format_file("same", 800, one)], "b": [format_file("same", 801, two)]}
    made = Recording(machine, systems=systems)
    items = [
        Item(10 * at, machine.record(800 + at % 2, 1, machine.pack("II", at, 9))) for at in (1, 2)
    ]
    (batch,) = read(made, items).batches()
    assert batch.tables["same"].sort("row").rows(named=True) == [
        {"row": 0, "first": None, "second": 1, "both": 9},
        {"row": 1, "first": 2, "second": None, "both": 9},
    ]
