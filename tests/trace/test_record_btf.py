"""Types from BTF, and the probe lines that they lead to."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmuwitness.trace.record.btf import TYPEDEF, Btf, BtfError, read_btf
from mmuwitness.trace.record.probes import PROBES, Probe, probe_lines
from mmuwitness.trace.tracepoints import NAMES
from tests.trace.btf_builder import BtfBuilder, Kernel

VMLINUX = Path("/sys/kernel/btf/vmlinux")
POINTER = ctypes.sizeof(ctypes.c_void_p)


# As registered by hand on these two kernels, with $arg1 for %di, $arg2 for %si.
LINES = {
    "6.1": """
        p:g/mn_start __mmu_notifier_invalidate_range_start mm=+8($arg1):x64 start=+16($arg1):x64
            end=+24($arg1):x64 flags=+32($arg1):u32 event=+36($arg1):u32
        r256:g/mn_start_ret __mmu_notifier_invalidate_range_start ret=$retval:s32
        p:g/mn_end __mmu_notifier_invalidate_range_end mm=+8($arg1):x64 start=+16($arg1):x64
            end=+24($arg1):x64 flags=+32($arg1):u32 event=+36($arg1):u32 only_end=$arg2:u8
        r256:g/mn_end_ret __mmu_notifier_invalidate_range_end
        p:g/kvm_start kvm_mmu_notifier_invalidate_range_start mn=$arg1:x64 mm=+8($arg2):x64
            start=+16($arg2):x64 end=+24($arg2):x64 flags=+32($arg2):u32 event=+36($arg2):u32
            seq=+56($arg1):u64 inprog=+64($arg1):s64 rs=+72($arg1):x64 re=+80($arg1):x64
            active=-35080($arg1):u64
        r256:g/kvm_start_ret kvm_mmu_notifier_invalidate_range_start ret=$retval:s32
        p:g/hva_to_pfn hva_to_pfn addr=$arg1:x64
        r256:g/hva_to_pfn_ret hva_to_pfn pfn=$retval:x64
        p:g/kvm_unmap_gfn kvm_unmap_gfn_range kvm=$arg1:x64 slot=+260(+0($arg2)):s16
            start=+8($arg2):x64 end=+16($arg2):x64 may_block=+32($arg2):u8
        r256:g/kvm_unmap_gfn_ret kvm_unmap_gfn_range ret=$retval:u8
        p:g/kvm_set_spte_gfn kvm_set_spte_gfn kvm=$arg1:x64 slot=+260(+0($arg2)):s16
            start=+8($arg2):x64 end=+16($arg2):x64 pte=+24($arg2):x64
        r256:g/kvm_set_spte_gfn_ret kvm_set_spte_gfn ret=$retval:u8
        p:g/do_wp_page do_wp_page mm=+16(+0($arg1)):x64 addr=+24($arg1):x64 flags=+40($arg1):x32
        r256:g/do_wp_page_ret do_wp_page ret=$retval:x32
    """,
    "6.12": """
        p:g/mn_start __mmu_notifier_invalidate_range_start mm=+0($arg1):x64 start=+8($arg1):x64
            end=+16($arg1):x64 flags=+24($arg1):u32 event=+28($arg1):u32
        r256:g/mn_start_ret __mmu_notifier_invalidate_range_start ret=$retval:s32
        p:g/mn_end __mmu_notifier_invalidate_range_end mm=+0($arg1):x64 start=+8($arg1):x64
            end=+16($arg1):x64 flags=+24($arg1):u32 event=+28($arg1):u32
        r256:g/mn_end_ret __mmu_notifier_invalidate_range_end
        p:g/kvm_start kvm_mmu_notifier_invalidate_range_start mn=$arg1:x64 mm=+0($arg2):x64
            start=+8($arg2):x64 end=+16($arg2):x64 flags=+24($arg2):u32 event=+28($arg2):u32
            seq=+56($arg1):u64 inprog=+64($arg1):s64 rs=+72($arg1):x64 re=+80($arg1):x64
            active=-2352($arg1):u64
        r256:g/kvm_start_ret kvm_mmu_notifier_invalidate_range_start ret=$retval:s32
        p:g/hva_to_pfn hva_to_pfn addr=$arg1:x64
        r256:g/hva_to_pfn_ret hva_to_pfn pfn=$retval:x64
        p:g/kvm_unmap_gfn kvm_unmap_gfn_range kvm=$arg1:x64 slot=+260(+0($arg2)):s16
            start=+8($arg2):x64 end=+16($arg2):x64
        r256:g/kvm_unmap_gfn_ret kvm_unmap_gfn_range ret=$retval:u8
        p:g/kvm_set_spte_gfn kvm_set_spte_gfn kvm=$arg1:x64 slot=+260(+0($arg2)):s16
            start=+8($arg2):x64 end=+16($arg2):x64 pte=+24($arg2):x64
        r256:g/kvm_set_spte_gfn_ret kvm_set_spte_gfn ret=$retval:u8
        p:g/do_wp_page do_wp_page mm=+16(+0($arg1)):x64 addr=+24($arg1):x64 flags=+40($arg1):x32
        r256:g/do_wp_page_ret do_wp_page ret=$retval:x32
    """,
}


def expected(release: str) -> list[str]:
    lines: list[str] = []
    for word in LINES[release].split():
        lines += [word] if word.startswith(("p:", "r256:")) else []
        lines[-1] = lines[-1] if word == lines[-1] else f"{lines[-1]} {word}"
    return lines


@pytest.mark.parametrize("release", LINES)
def test_probe_lines_fit_the_kernel(release: str) -> None:
    functions = {probe.function for probe in PROBES}
    lines, notes = probe_lines("g", Kernel(release).btf, functions)
    assert [line.text for line in lines] == expected(release)
    assert "wp_page_copy: not probed, BTF does not say what it takes" in notes


def test_only_functions_that_the_kernel_has_are_probed() -> None:
    lines, notes = probe_lines("g", Kernel("6.1").btf, {"hva_to_pfn"})
    assert {line.function for line in lines} == {"hva_to_pfn"}
    assert notes == []


def test_a_probe_without_what_it_is_for_is_not_set() -> None:
    probes = [
        Probe("a", "hva_to_pfn", "addr=hva:x"),
        Probe("b", "hva_to_pfn", "addr=addr.start:x"),
        Probe("c", "hva_to_pfn", "addr=hva|addr:x slot=slot.id?"),
    ]
    lines, notes = probe_lines("g", Kernel("6.1").btf, {"hva_to_pfn"}, probes)
    assert [line.text for line in lines] == ["p:g/c hva_to_pfn addr=$arg1:x64"]
    assert notes == [
        "hva_to_pfn: not probed, it has no hva",
        "hva_to_pfn: not probed, it has no addr.start",
    ]


def test_registers_after_an_argument_of_several_are_not_known() -> None:
    builder = BtfBuilder()
    long = builder.integer("long", 8)
    wide = builder.struct("wide", 16, [("a", long, 0), ("b", long, 8)])
    builder.function("f", 0, [("first", long), ("wide", wide), ("last", long)])
    probes = [Probe("first", "f", "x=first"), Probe("last", "f", "x=last")]
    lines, notes = probe_lines("g", Btf(builder.data(), "here"), {"f"}, probes)
    assert [line.event for line in lines] == ["first"]
    assert notes == ["f: not probed, it has no last"]


def test_two_functions_of_one_name_that_differ_are_not_probed() -> None:
    builder = BtfBuilder()
    long = builder.integer("long", 8)
    builder.function("same", long, [("x", long)])
    builder.function("same", long, [("x", long)])
    builder.function("differ", long, [("x", long)])
    builder.function("differ", long, [("y", long), ("x", long)])
    btf = Btf(builder.data(), "here")
    assert btf.prototype("differ") is None
    assert btf.prototype("same") is not None


def test_the_audit_knows_every_field_that_probes_fetch() -> None:
    known = {name for names in NAMES.values() for name in names}
    of_mm = {"page", "kpage", "may_block", "only_end", "map_writable", "write"}
    of_mm |= {"ipa", "phys", "prot"}  # of stage 2: tracepoints.py takes gfn and pfn from them
    fetched = {text.partition("=")[0] for probe in PROBES for text in (probe.fetches or "").split()}
    assert fetched - known <= of_mm | {"vcpu", "kvm", "pte", "mmu_seq"}


@pytest.mark.parametrize("order", ["<", ">"])
def test_both_byte_orders(order: str) -> None:
    builder = BtfBuilder(order)
    long = builder.integer("long", 8)
    builder.struct("s", 16, [("a", long, 0), ("b", long, 8)])
    btf = Btf(builder.data(), "here")
    member = btf.member(btf.struct("s"), "b")
    assert member and member.offset == 8


def test_a_bit_field_is_no_place() -> None:
    builder = BtfBuilder()
    word = builder.integer("int", 4)
    number = builder.struct("s", 4, [("flag", word, 0)])
    data = bytearray(builder.data())
    at = data.index((number and 4 << 24 | 1).to_bytes(4, "little"))
    data[at + 3] |= 0x80  # kind_flag: offsets of members hold the size of a bit field, too
    data[at + 8 + 8 : at + 8 + 12] = (3 << 24 | 2).to_bytes(4, "little")
    btf = Btf(bytes(data), "here")
    member = btf.member(btf.struct("s"), "flag")
    assert member and member.is_bits


SCALARS = [ctypes.c_uint8, ctypes.c_int16, ctypes.c_uint32, ctypes.c_int64, ctypes.c_void_p]
layouts = st.recursive(
    st.sampled_from(SCALARS),
    lambda inner: st.lists(st.tuples(st.booleans(), inner), min_size=1, max_size=5),
    max_leaves=20,
)


@given(st.lists(st.tuples(st.booleans(), layouts), min_size=1, max_size=6))
@settings(max_examples=100, deadline=None)
def test_members_lie_where_the_c_compiler_puts_them(layout: list) -> None:
    """Structs in structs, anonymous and named: ctypes lays them out by the ABI's rules."""
    builder, count = BtfBuilder(), iter(range(10**6))

    def build(what: Any, name: str) -> tuple[int, Any, dict[str, int]]:
        """Its number, the same for ctypes, and the members that C sees in it."""
        if not isinstance(what, list):
            return builder.integer(what.__name__, ctypes.sizeof(what)), what, {}
        parts = [(f"m{next(count)}", hidden, *build(inner, "")) for hidden, inner in what]
        fields = [(member, inner) for member, _, _, inner, _ in parts]
        made = type("S", (ctypes.Structure,), {"_fields_": fields})
        members, seen = [], {}
        for member, hidden, number, _, below in parts:
            offset = getattr(made, member).offset
            is_anonymous = hidden and bool(below)
            members.append(("" if is_anonymous else member, number, offset))
            seen |= {each: offset + at for each, at in below.items()} if is_anonymous else {}
            seen |= {} if is_anonymous else {member: offset}
        return builder.struct(name, ctypes.sizeof(made), members), made, seen

    _, _, seen = build(layout, "whole")
    btf = Btf(builder.data(), "here")
    found = {name: btf.member(btf.struct("whole"), name) for name in seen}
    assert {name: member and member.offset for name, member in found.items()} == seen


def test_what_is_no_btf_is_said() -> None:
    builder = BtfBuilder()
    builder.struct("s", 8, [("a", builder.integer("long", 8), 0)])
    data = builder.data()
    for bad, why in (
        (b"", "0 bytes are too few"),
        (b"\x7fELF" + data[4:], "begins with 7f454c"),
        (data[:-1], "cut off at"),
        (data[:28] + b"\xff" * 4 + data[32:], "kind 31 is not known"),
    ):
        with pytest.raises(BtfError, match=f"here: .*{why}"):
            Btf(bad, "here")


@given(st.binary(max_size=200), st.integers(0, 300), st.integers(0, 255))
@settings(max_examples=300, deadline=None)
def test_damaged_btf_is_an_error_and_no_traceback(junk: bytes, at: int, byte: int) -> None:
    data = bytearray(Kernel("6.1").btf.base.data)
    data[at % len(data)] = byte
    for each in (bytes(data), bytes(data[:24]) + junk):
        try:
            btf = Btf(each, "here")
            found = [btf.member(btf.struct("mmu_notifier_range"), "start")]
            found.append(btf.prototype("do_wp_page"))
        except BtfError as error:
            assert "here" in str(error)
        else:
            assert len(found) == 2


C_SOURCE = """
struct inner { char c; void *p; };
struct whole {
    char first; long second;
    struct { short third; union { int fourth; long fifth; }; };
    struct inner inner; int bits : 3; struct inner *to;
} whole;
int function(struct whole *one, const char *two) { return 0; }
"""


@pytest.mark.skipif(not shutil.which("gcc"), reason="there is no C compiler")
def test_reads_what_a_compiler_writes(tmp_path: Path) -> None:
    (tmp_path / "a.c").write_text(C_SOURCE)
    done = subprocess.run(
        ["gcc", "-gbtf", "-c", "a.c"], cwd=tmp_path, capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("gcc before 12 writes no BTF")
    copy = ["objcopy", "-O", "binary", "--only-section=.BTF", "--set-section-flags", ".BTF=alloc"]
    subprocess.run([*copy, "a.o", "btf"], cwd=tmp_path, check=True)
    btf = read_btf(tmp_path / "btf")
    whole = btf.struct("whole")
    offsets = {"second": 8, "third": 16, "fourth": 24, "fifth": 24, "inner": 32, "to": 56}
    for name, offset in offsets.items():
        member = btf.member(whole, name)
        assert member and member.offset == offset
        assert not member.is_bits
    bits = btf.member(whole, "bits")
    assert bits and bits.is_bits


@pytest.mark.slow
@pytest.mark.skipif(not os.access(VMLINUX, os.R_OK), reason="this kernel has no BTF")
def test_reads_the_running_kernel() -> None:
    btf = read_btf(VMLINUX)
    head = btf.struct("list_head")
    assert [(each.name, each.offset) for each in btf.members(head)] == [
        ("next", 0),
        ("prev", POINTER),
    ]
    tracepoints = {name for name in btf.names(TYPEDEF) if name.startswith("btf_trace_")}
    assert {"btf_trace_sched_switch", "btf_trace_sys_enter"} <= tracepoints
