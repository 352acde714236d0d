"""Reading ftrace text: real files whole, damaged ones not at all."""

import lzma
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmuwitness.trace.ftrace import Event, Probe, Trace, TraceError

DATA = Path(__file__).parents[1] / "data"
KSM_MERGE = DATA / "x86/6.1-tdp-ksm-merge.txt.xz"
LINE = "  vmm-419  [001] d..1.  20.75: kvm_entry: vcpu 0, rip 0x8006\n"


def written(path: Path, text: str) -> Trace:
    path.write_text(text, encoding="utf-8")
    return Trace(path)


def event(directory: Path, line: str) -> Event:
    (only,) = written(directory / "trace", line + "\n")
    return only


def check_refused(trace: Trace, line: int, why: str) -> None:
    with pytest.raises(TraceError, match=why) as refused:
        list(trace)
    assert (refused.value.path, refused.value.line) == (trace.path, line)
    assert str(refused.value).startswith(f"{trace.path}:{line}: ")


@pytest.mark.parametrize(
    ("name", "entries", "kvm_guest_fault"),
    # From the recorder's summaries of the two runs: probes lost nothing, faults were counted.
    [("scn6.1_a57", 31691, 1242), ("scn6.12_a57", 20936, 1651)],
)
def test_reads_every_entry_of_a_real_trace(name: str, entries: int, kvm_guest_fault: int) -> None:
    trace = Trace(DATA / f"arm64/{name}.trace.xz")
    names = Counter(event.name for event in trace)
    assert names.total() == entries
    assert names["kvm_guest_fault"] == kvm_guest_fault
    assert trace.lost == 0


def test_plain_text_is_the_same_and_can_be_read_twice(tmp_path: Path) -> None:
    trace = written(tmp_path / "any.name", lzma.decompress(KSM_MERGE.read_bytes()).decode())
    first = list(trace)
    assert first == list(trace) == list(Trace(KSM_MERGE))
    assert len(first) == 3251  # its entries-in-buffer


def test_leaves_out_stack_dumps() -> None:
    names = Counter(event.name for event in Trace(DATA / "x86/6.1-stock-ksm-merge.txt.xz"))
    assert names["kvm_set_spte_hva"] == 71
    assert "<stack trace>" not in names


@pytest.mark.parametrize(
    "line",
    [
        "a b-c-d-200     [001] ...1.    16.5: kvm_exit: vcpu 0",
        "a b-c-d-200 (  107) [001] ...1.  16.5: kvm_exit: vcpu 0",  # record-tgid
        "a b-c-d-200 (-----) [001] dN.1.  16.500000000: kvm_exit: vcpu 0",
        "a b-c-d-200 [001] 16.5: kvm_exit:    vcpu 0",  # no flags, as old trace-cmd report
    ],
)
def test_finds_fields_wherever_they_stand(tmp_path: Path, line: str) -> None:
    assert event(tmp_path, line) == Event("a b-c-d", 200, 1, 16.5, "kvm_exit", "vcpu 0")


def test_knows_probes_by_their_function(tmp_path: Path) -> None:
    def probe(text: str) -> Probe | None:
        return event(tmp_path, f"x-1 [000] ..... 1.0: any_name: {text}").probe

    entry = probe("(kvm_unmap_gfn_range+0x4/0xb0 [kvm]) kvm=0xffffc90000891000")
    assert entry == Probe("kvm_unmap_gfn_range", 4, returns=False)
    assert entry.enters
    inner = probe("(stage2_map_walk_leaf+0x20c/0x2a0) new=0x40000041e8477f")
    assert inner == Probe("stage2_map_walk_leaf", 0x20C, returns=False)
    assert not inner.enters
    returned = probe("([unknown/kretprobe'd] <- write_protect_page.constprop.0) ret=1")
    assert returned == Probe("write_protect_page", 0, returns=True)
    assert not returned.enters
    assert probe("address=0x401780 ip=0x401780") is None


def test_reads_values_lazily_as_numbers_or_text(tmp_path: Path) -> None:
    read = event(tmp_path, "x-1 [000] ..... 1.0: any: (f+0x0/0x8) ret=-12 gfn=0x200, op=x seq=007")
    assert read.fields == {"ret": -12, "gfn": 0x200, "op": "x", "seq": 7}
    assert read.number("missing", "op", "gfn") == 0x200
    assert read.number("missing") is None


def test_names_system_calls(tmp_path: Path) -> None:
    assert event(tmp_path, "x-1 [000] ..... 1.0: sys_madvise -> 0x0").name == "sys_madvise"
    assert event(tmp_path, "x-1 [000] ..... 1.0: sys_mprotect(start: 4bf000)").args[0] == "("


@pytest.mark.parametrize(
    ("remark", "lost"),
    [
        ("CPU:1 [LOST 17 EVENTS]", 17),
        ("CPU:1 [LOST EVENTS]", 1),
        ("CPU:1 [17 EVENTS DROPPED]", 17),
        ("# entries-in-buffer/entries-written: 2/19   #P:2", 17),
        ("##### CPU 1 buffer started ####", 0),
    ],
)
def test_notices_lost_events(tmp_path: Path, remark: str, lost: int) -> None:
    trace = written(tmp_path / "trace", LINE + remark + "\n" + LINE)
    assert len(list(trace)) == 2
    assert trace.lost == lost


def test_refuses_a_cut_xz_file(tmp_path: Path) -> None:
    path = tmp_path / "cut.txt.xz"
    path.write_bytes(KSM_MERGE.read_bytes()[:9000])
    with pytest.raises(TraceError, match=r"cut\.txt\.xz:\d+: damaged or cut short"):
        list(Trace(path))


def test_refuses_a_cut_text_file(tmp_path: Path) -> None:
    text = lzma.decompress(KSM_MERGE.read_bytes()).decode()
    lines = text.splitlines(keepends=True)
    path = tmp_path / "trace"
    check_refused(written(path, "".join(lines[:500])), 500, r"\d+ entries.* promises 3251")
    check_refused(written(path, "".join(lines[:500])[:-9]), 500, "cut off")
    check_refused(written(path, "".join(lines[:500])[:-120]), 500, "cut off")


def test_refuses_garbage(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    check_refused(written(path, LINE + LINE + "a [b] c: d\n" + LINE), 3, "not an ftrace event: 'a")
    check_refused(written(path, "some words\n" * 7), 7, "no ftrace event in the whole file")
    check_refused(written(path, "some words\n" * 700), 101, "no ftrace event up to here")
    check_refused(written(path, ""), 0, "no ftrace event in the whole file")
    check_refused(Trace(DATA / "x86/6.1-tdp-_formats.txt.xz"), 101, "no ftrace event up to here")


@given(st.binary(max_size=300), st.sampled_from([b"", b"\xfd7zXZ\x00", LINE.encode()]))
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, tail: bytes, head: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes"
    path.write_bytes(head + tail)
    try:
        assert list(Trace(path))
    except TraceError as refused:
        assert refused.why
