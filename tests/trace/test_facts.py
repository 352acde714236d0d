"""Facts are found whatever the probes are called, and read the same from every kind of trace."""

import re
from pathlib import Path

import pytest

from mmuwitness.trace.facts import Fact, FactReader
from mmuwitness.trace.open import open_trace
from mmuwitness.trace.tracepoints import NAMES, PROBES, TRACEPOINTS, Kind
from tests.trace.audited import DATA, made_line

FIELD = re.compile(r"\{(\w*):(\w+)\}")
TYPES = {"hex", "dec", "udec", "word", "text", "symbol"}


def facts_of(text: str, directory: Path) -> list[Fact]:
    path = directory / "made.txt"
    path.write_text("# tracer: nop\n" + "".join(made_line(line) for line in text.splitlines()))
    return read(path)


def read(path: Path) -> list[Fact]:
    reader = FactReader()
    return [f for batch in open_trace(str(path)).batches() for f in reader.read(batch).rows()]


def test_templates_have_known_types_and_unique_names() -> None:
    for row in TRACEPOINTS:
        for template in row.prints:
            fields = FIELD.findall(template)
            assert {kind for _, kind in fields} <= TYPES, row.name
            names = [name for name, _ in fields if name]
            assert len(names) == len(set(names)), row.name
    assert len({row.name for row in TRACEPOINTS}) == len(TRACEPOINTS)
    assert len({row.function for row in PROBES}) == len(PROBES)


def test_rows_tell_columns_that_facts_have() -> None:
    for row in (*TRACEPOINTS, *PROBES):
        assert set(row.facts) <= set(Fact._fields)
    assert set(NAMES) <= set(Fact._fields)


def test_a_probe_is_found_by_its_function_and_its_arguments_by_any_name(tmp_path: Path) -> None:
    text = """
vm-1 1 anything: (kvm_mmu_notifier_change_pte+0x4/0x300 [kvm]) addr=0x1000 count=7 inprog=1 active=2
vm-1 2 other: (kvm_set_spte_gfn.isra.0+0x0/0xb0) gfn=0x40209 gend=0x4020a pte=0x60 in_progress=1
vm-1 3 third: (kvm_set_spte_gfn+0x0/0x280 [kvm]) kvm=0x5 start=0x200 end=0x201
"""
    first, second = facts_of(text, tmp_path)
    assert (first.kind, first.address, first.in_progress, first.active) == (
        Kind.KVM_CHANGE_PTE, 0x1000, 1, 2,
    )  # fmt: skip
    assert (second.kind, second.gfn, second.gfn_end, second.new) == (
        Kind.SET_SPTE_GFN, 0x40209, 0x4020A, 0x60,
    )  # fmt: skip
    # The third is another probe on the same function: it would count every call twice.


def test_gfns_of_a_handler_are_no_addresses(tmp_path: Path) -> None:
    line = "vm-1 3 x: (kvm_unmap_gfn_range+0x0/0x280 [kvm]) kvm=0x5 slot=1 start=0x200 end=0x208"
    (fact,) = facts_of(line, tmp_path)
    assert (fact.gfn, fact.gfn_end, fact.start, fact.end, fact.vm) == (0x200, 0x208, None, None, 5)


def test_probes_inside_functions_are_stores_or_nothing(tmp_path: Path) -> None:
    text = """
vm-1 1 s: (stage2_map_walk_leaf+0x20c/0x2a0) new=0x40000041e847ff ptep=0x5000 old=0x0 ipa=0x40209000
vm-1 2 s: (wp_page_copy+0x20c/0x2a0) new=0x40000041e847ff ptep=0x5000 old=0x0
"""
    (fact,) = facts_of(text, tmp_path)
    assert (fact.kind, fact.gfn, fact.new) == (Kind.SPTE_STORE, 0x40209, 0x40000041E847FF)


def test_returns_say_where_to(tmp_path: Path) -> None:
    line = "vm-1 1 r: (wp_page_copy+0x55e/0x700 <- __mmu_notifier_invalidate_range_start) ret=0"
    (fact,) = facts_of(line, tmp_path)
    assert (fact.kind, fact.caller, fact.ret) == (Kind.MN_START_RET, "wp_page_copy+0x55e/0x700", 0)


def test_system_calls(tmp_path: Path) -> None:
    text = """
vm-1 1 sys_madvise(start: 7f7b7cbff000, len_in: 1000, behavior: 4)
vm-1 2 sys_madvise -> 0xfffffffffffffff2
"""
    entered, left = facts_of(text, tmp_path)
    assert (entered.kind, entered.function) == (Kind.SYSCALL_ENTER, "madvise")
    assert (entered.start, entered.size, entered.flags) == (0x7F7B7CBFF000, 0x1000, 4)
    assert (left.kind, left.ret) == (Kind.SYSCALL_EXIT, -14)


@pytest.mark.parametrize(
    ("text", "binary"),
    [
        ("6.1-tdp-single-ksm-merge.txt", "6.1-tdp-ksm-merge.dat"),
        ("6.1-stock-cow-break.txt", "6.1-stock-cow-break.dat"),
        ("6.12-stock-cow-break.txt", "6.12-stock-cow-break.dat"),
    ],
)
def test_text_and_binary_of_a_run_tell_the_same_facts(text: str, binary: str) -> None:
    """But for the digits of the time stamps, and the stack traces that text alone may lack."""
    left, right = read(DATA / f"x86/{text}.xz"), read(DATA / f"x86/{binary}.xz")
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        same = [
            fact._replace(row=0, time=0, stack=None, text=None, fixed=None, function=None)
            for fact in (one, other)
        ]
        if one.kind == Kind.FAST_FAULT:  # text: whether it fixed; binary: the code that says so
            same = [fact._replace(ret=None) for fact in same]
        assert same[0] == same[1]
        assert abs(one.time - other.time) <= 1000
