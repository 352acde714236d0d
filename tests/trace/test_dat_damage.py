"""A damaged trace.dat is refused with its place, or read as far as it goes, and says so."""

import random
import tracemalloc
from collections.abc import Callable

import pytest

from mmuwitness.trace.dat.reader import DatTrace
from mmuwitness.trace.events import TraceError
from tests.trace.dat_writer import Item, Machine, Recording, format_file, ring, write_v6, write_v7
from tests.trace.test_dat_round_trip import NUMBERS, PRINT, TEXTS, Event, recording, write

MACHINES = [Machine(page_bytes=256), Machine(True, 4, 256)]
LAYOUTS = ["v6", "none", "zlib", "zstd"]
EVENTS_PER_CPU = 20
MEMORY_MAX = 64 << 20
FLIPS = 100


def small(machine: Machine) -> Recording:
    """Two CPUs with 20 events each, and a second instance with 20."""
    made = recording(machine)
    for name, cpus in (("", (0, 1)), ("foo", (1,))):
        written = {}
        for cpu in cpus:
            items = []
            for index in range(EVENTS_PER_CPU):
                kind = (NUMBERS, TEXTS, PRINT)[index % 3]
                fields: dict[int, dict[str, int | str]] = {
                    NUMBERS: {"wide": index, "signed_one": -index, "small": cpu},
                    TEXTS: {"fixed": "ab", "far": "cd" * index},
                    PRINT: {"text": f"event {index}"},
                }
                record = Event(kind, cpu, fields[kind]).record(machine)
                items.append(Item(1000 + 10 * index + cpu, record))
            written[cpu] = ring(machine, items)
        made.instances.append((name, written))
    return made


def outcome(data: bytes) -> tuple[int, DatTrace | None]:
    """How many events were read, and from what; None if it was refused."""
    try:
        trace = DatTrace("damaged.dat", data)
        count = 0
        for batch in trace.batches():
            count += len(batch.events)
            for table in batch.tables.values():
                assert table["row"].is_in(batch.events["row"].implode()).all()
    except TraceError as error:
        assert error.why
        assert error.path == "damaged.dat"
        assert error.place is None or 0 <= error.place <= len(data)
        return 0, None
    return count, trace


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("machine", MACHINES, ids=["little64", "big32"])
def test_every_cut(machine: Machine, layout: str) -> None:
    data = write(small(machine), layout)
    whole, trace = outcome(data)
    assert trace is not None
    assert (whole, trace.complete, trace.lost) == (3 * EVENTS_PER_CPU, True, 0)
    read = set()
    step = 3 if layout == "v6" else 11
    for size in range(0, len(data), step):
        count, trace = outcome(data[:size])
        if trace is not None:
            assert not trace.complete
            assert trace.notes
            read.add(count)
    # Version 6 has its events at the end; the index of version 7 is there.
    assert (max(read, default=0) > EVENTS_PER_CPU) is (layout == "v6")


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("machine", MACHINES, ids=["little64", "big32"])
def test_flipped_bytes(machine: Machine, layout: str) -> None:
    data = write(small(machine), layout)
    random_bytes = random.Random(7)
    tracemalloc.start()
    silent = 0
    for _ in range(FLIPS):
        damaged = bytearray(data)
        for _ in range(random_bytes.choice((1, 1, 1, 2, 8))):
            damaged[random_bytes.randrange(len(data))] ^= 1 << random_bytes.randrange(8)
        count, trace = outcome(bytes(damaged))
        if trace is not None and count != 3 * EVENTS_PER_CPU:
            silent += trace.complete
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < MEMORY_MAX
    # There is no checksum: a number of CPUs or of bytes may be another that is as good.
    assert silent <= FLIPS // 20


def bad_sizes(data: bytes) -> bytes:
    """The last size of a chunk or section that is found says 4 GB."""
    at = data.rindex(b"\x28\xb5\x2f\xfd") - 4
    return data[:at] + b"\xff\xff\xff\xff" + data[at + 4 :]


def bad_version(data: bytes) -> bytes:
    return data.replace(b"tracing6\0", b"tracing9\0").replace(b"tracing7\0", b"tracing9\0")


@pytest.mark.parametrize(
    ("layout", "damage", "says"),
    [
        ("v6", lambda data: data[:5], r"^x: byte 0|needs 10 bytes, 5 are left"),
        ("v6", bad_version, "version '9': versions 6 and 7 are known"),
        ("zstd", bad_sizes, "cannot make 4,294,967,295"),
        ("none", lambda data: data.replace(b"none\0", b"lz4\0\0"), "compressed with 'lz4'"),
        ("v6", lambda data: data.replace(b"header_page\0", b"header_pagX\0"), "header_page"),
        ("none", lambda data: data[:-60], "cut short"),
    ],
)
def test_says_what_and_where(layout: str, damage: Callable[[bytes], bytes], says: str) -> None:
    with pytest.raises(TraceError, match=says):
        list(DatTrace("x", damage(write(small(Machine()), layout))).batches())


def test_damaged_sub_buffer_costs_only_itself() -> None:
    machine = Machine(page_bytes=256)
    record = Event(NUMBERS, 1, {"wide": 1, "signed_one": 2, "small": 3}).record(machine)
    pages = ring(machine, [Item(1000 + index, record) for index in range(24)])
    assert len(pages) == 3  # 8 events of 28 bytes each
    broken = bytearray(pages[1])
    broken[8:12] = machine.pack("I", 250)  # more than there is room for
    made = recording(machine)
    made.instances = [("", {0: [pages[0], bytes(broken), *pages[2:]]})]
    trace = DatTrace("x", write_v6(made))
    rows = [row for batch in trace.batches() for row in batch.events["row"]]
    assert len(rows) == 16
    assert [(loss.cpu, loss.count) for loss in trace.losses] == [(0, None)]
    assert trace.losses[0].row == 8
    assert any("damaged; 1 sub-buffers of CPU 0" in note for note in trace.notes)


def test_text_instance_alone_is_refused() -> None:
    made = recording(Machine())
    made.instances = [("", {0: []})]
    made.options = [(22, bytes(8) + b"late\0mono\0")]
    with pytest.raises(TraceError, match="the instance late is text"):
        list(DatTrace("x", write_v7(made)).batches())


def test_unreadable_format_and_unknown_type() -> None:
    machine = Machine()
    made = recording(machine)
    made.systems["bad"] = [
        "no format at all\n",
        format_file("broken", 702, [("int x", 99_999, 4, 1)]),
    ]
    records = [machine.record(kind, 1, bytes(16)) for kind in (702, 999, NUMBERS)]
    made.instances = [("", {0: ring(machine, [Item(5, record) for record in records])})]
    trace = DatTrace("x", write_v6(made))
    (batch,) = trace.batches()
    assert batch.events["event"].to_list() == ["broken", "type_999", "numbers"]
    assert set(batch.tables) == {"numbers"}
    assert not trace.complete
    said = " ".join(trace.notes)
    assert "the format of an event of bad is not readable" in said
    assert "1 events type_999: the file does not say how they look" in said
    assert "1 events broken: the file" in said


def test_short_records_are_kept_without_fields() -> None:
    machine = Machine()
    made = recording(machine)
    whole = Event(NUMBERS, 1, {"wide": 1, "signed_one": 2, "small": 3}).record(machine)
    for records, with_fields in (([whole[:12], whole], [1]), ([whole[:12]], [])):
        items = [Item(5 + at, record) for at, record in enumerate(records)]
        made.instances = [("", {0: ring(machine, items)})]
        trace = DatTrace("x", write_v6(made))
        (batch,) = trace.batches()
        assert batch.events["event"].to_list() == ["numbers"] * len(records)
        assert [row for each in batch.tables.values() for row in each["row"]] == with_fields
        assert "1 events numbers are shorter than their fields" in trace.notes[-1]
