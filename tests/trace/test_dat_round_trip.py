"""What is written into a trace.dat is read back, whatever machine recorded it."""

from dataclasses import dataclass

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmuwitness.trace.dat.reader import DatTrace
from tests.trace.dat_writer import Item, Machine, Recording, format_file, ring, write_v6, write_v7

NUMBERS, TEXTS, PRINT, STACK = 700, 701, 5, 4
FORMATS = [
    format_file(
        "numbers",
        NUMBERS,
        [("u64 wide", 8, 8, 0), ("s32 signed_one", 16, 4, 1), ("u8 small", 20, 1, 0)],
    ),
    format_file(
        "texts",
        TEXTS,
        [("char fixed[8]", 8, 8, 0), ("__data_loc char[] far", 16, 4, 0)],
    ),
]
SYMBOLS = {0x8100_0000: "_text", 0x8100_1000: "tracing_mark_write", 0x8100_2000: "do_wp_page"}


def ftrace_formats(machine: Machine) -> list[str]:
    size = machine.long_size
    address = ("unsigned long ip", 8, size, 0)
    callers = (f"unsigned long caller[{8}]", 8 + size, 8 * size, 0)
    return [
        format_file("print", PRINT, [address, ("char buf[]", 8 + size, 0, 0)]),
        format_file("kernel_stack", STACK, [("int size", 8, 4, 1), callers]),
    ]


@dataclass(frozen=True)
class Event:
    """One event, and what must be read: `fields`, or frames of a stack trace."""

    kind: int
    pid: int
    fields: dict[str, int | str]

    def record(self, machine: Machine) -> bytes:
        pack, fields = machine.pack, self.fields
        if self.kind == NUMBERS:
            payload = pack("QiB", fields["wide"], fields["signed_one"], fields["small"])
        elif self.kind == TEXTS:
            fixed, far = str(fields["fixed"]).encode(), str(fields["far"]).encode() + b"\0"
            payload = fixed.ljust(8, b"\0") + pack("I", len(far) << 16 | 20) + far
        else:
            payload = pack(machine.long, 0x8100_1010) + str(fields["text"]).encode() + b"\n\0"
        return machine.record(self.kind, self.pid, payload)

    @property
    def name(self) -> str:
        return {NUMBERS: "numbers", TEXTS: "texts", PRINT: "tracing_mark_write"}[self.kind]


words = st.text(st.characters(codec="utf-8", exclude_characters="\0\n"), max_size=30)
pids = st.integers(0, 9)
events = st.one_of(
    st.builds(
        Event,
        st.just(NUMBERS),
        pids,
        st.fixed_dictionaries(
            {
                "wide": st.integers(0, (1 << 64) - 1),
                "signed_one": st.integers(-(1 << 31), (1 << 31) - 1),
                "small": st.integers(0, 255),
            }
        ),
    ),
    st.builds(
        Event,
        st.just(TEXTS),
        pids,
        st.fixed_dictionaries({"fixed": st.text("ab: é", max_size=4), "far": words}),
    ),
    st.builds(Event, st.just(PRINT), pids, st.fixed_dictionaries({"text": words})),
)
machines = st.builds(
    Machine, st.booleans(), st.sampled_from([4, 8]), st.sampled_from([256, 512, 4096, 16384])
)
# A discarded event's time of 1 is ambiguous: the kernel writes it for 0, too.
gaps = st.one_of(st.integers(2, 60), st.sampled_from([0, 1 << 26, 1 << 27, 1 << 40]))
hows = st.sampled_from(["plain", "plain", "plain", "absolute", "long", "discarded"])
losses = st.sampled_from([0, 0, 0, 0, 0, -1, 1, 77])
rings = st.lists(st.tuples(gaps, events, hows, losses), max_size=12)
layouts = st.sampled_from(["v6", "none", "zlib", "zstd"])


def recording(machine: Machine) -> Recording:
    digits = 2 * machine.long_size
    lines = [f"{address:0{digits}x} T {name}" for address, name in SYMBOLS.items()]
    return Recording(
        machine,
        ftrace_formats(machine),
        {"sample": FORMATS},
        "\n".join(lines) + "\n",
        cmdlines="3 qemu kvm\n4 ksmd\n",
    )


def write(made: Recording, layout: str) -> bytes:
    return write_v6(made) if layout == "v6" else write_v7(made, layout)


@given(machines, layouts, st.lists(st.lists(rings, min_size=1, max_size=3), min_size=1, max_size=2))
def test_everything_is_read_back(machine: Machine, layout: str, instances: list) -> None:
    made = recording(machine)
    expected: list[tuple[int, int, int, Event]] = []
    lost: list[int] = []
    for which, cpus in enumerate(instances):
        written: dict[int, list[bytes]] = {}
        for cpu, content in enumerate(cpus):
            time, items = 5 << 59 | 1000, []
            for gap, event, how, missing in content:
                time += gap
                items.append(Item(time, event.record(machine), how, missing))
                if missing:
                    lost.append(missing)
                if how != "discarded":
                    expected.append((time, which, cpu, event))
            written[cpu] = ring(machine, items)
        made.instances.append(("foo" if which else "", written))
    expected.sort(key=lambda each: each[:3])
    trace = DatTrace("made", write(made, layout))
    if not expected:
        with pytest.raises(ValueError, match="no events in the file"):
            list(trace.batches())
        return
    batches = list(trace.batches())
    table = pl.concat([batch.events for batch in batches])
    assert table["time"].to_list() == [time - (1 << 64) * (time >> 63) for time, *_ in expected]
    assert table["cpu"].to_list() == [cpu for _, _, cpu, _ in expected]
    assert table["pid"].to_list() == [event.pid for *_, event in expected]
    assert table["event"].to_list() == [event.name for *_, event in expected]
    names = {0: "<idle>", 3: "qemu kvm", 4: "ksmd"}
    assert table["task"].to_list() == [names.get(each.pid, "<...>") for *_, each in expected]
    fields = {
        row.pop("row"): row
        for batch in batches
        for each in batch.tables.values()
        for row in each.iter_rows(named=True)
    }
    assert [fields[row] for row in table["row"]] == [event.fields for *_, event in expected]
    assert trace.lost == pytest.approx(sum(1 if each < 0 else each for each in lost), abs=len(lost))
    assert trace.complete is not bool(lost)
