"""The audit's counts are those that were tabulated when the traces were recorded."""

import re
from collections import Counter

import pytest

from mmuwitness.trace.audit.change_pte import Effect
from mmuwitness.trace.audit.faults import Outcome
from mmuwitness.trace.tracepoints import Kind
from tests.trace.audited import DATA, audited, zapping

# Counted by other programs in the kernels' ring buffers when the traces were made.
TABLE = """
trace mn_start mn_change_pte k_start k_change_pte k_set_spte_gfn k_unmap_gfn k_page_fault \
tdp_spte_changed k_mmu_set_spte fast_page_fault do_wp_page try_merge_one migrate_one \
unmap_ret1 unmap_ret0 retries
6.1-tdp-ksm-merge        78  71  77  71  71  71   78 164  78  0  3 36   0  32  39    0
6.1-tdp-cow-break        86  79  85  79  79  79   94 164  78  8 19 32   0  40  39   16
6.1-tdp-host-write       82  75  81  75  75  75   58 124  58  0 15 32   0  40  35    0
6.1-tdp-madvise          22   5  21   5   5  15   64 118  55  6  8  0   0  12   3    5
6.1-tdp-numa            171   0 170   0   0 138  548 976 484  0  3  0 129  74  64   64
6.1-tdp-stress-ksm      259 238 258 238 238 246 4692 357 184 46 60 97   0 140 106 4508
6.1-npt-legacy-cow-break 86  79  85  79  79  79   93   0  78  8 19 32   0  40  39   16
6.1-shadow-ksm-merge     78  71  77  71  71  71   73   0  73  0  3 36   0  32  39    0
6.1-shadow-cow-break     86  79  85  79  79  79   89   0  73  0 19 32   0  40  39   16
6.12-tdp-ksm-merge       79   0  78   0   0  71   78 164  78  0  3 36   0  32  39    0
6.12-tdp-cow-break       87   0  86   0   0  79   94 164  78  8 19 32   0  40  39   16
6.12-tdp-madvise         24   0  23   0   0  15   64 118  55  6  8  0   0  12   3    5
6.12-tdp-numa           180   0 179   0   0 140  473 755 403 59 81  0 145  70  70   70
"""
HEAD, *ROWS = [line.split() for line in TABLE.strip().splitlines()]
EVENT_TYPES = {
    "6.1-tdp-ksm-merge": {0: 7, 1: 71},
    "6.1-tdp-cow-break": {0: 7, 1: 79},
    "6.1-tdp-host-write": {0: 7, 1: 75},
    "6.1-tdp-madvise": {0: 11, 1: 7, 2: 4},
    "6.1-tdp-numa": {0: 7, 1: 129, 2: 35},
    "6.1-tdp-stress-ksm": {0: 7, 1: 252},
    "6.12-tdp-cow-break": {0: 7, 1: 80},
    "6.12-tdp-madvise": {0: 11, 1: 9, 2: 4},
    "6.12-tdp-numa": {0: 7, 1: 147, 2: 26},
}
STEP = re.compile(r"D:(\d+) exits=(\d+) pf_taken=(\d+) pf_fixed=(\d+) pf_spurious=(\d+)")
LOGS = sorted(path.stem for path in DATA.glob("x86/*.log"))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_event_counts(row: list[str]) -> None:
    audit = audited(f"x86/{row[0]}.txt.xz")
    counts, functions, rows = audit.counts, audit.functions, audit.totals.causes.values()
    found = {
        "mn_start": functions["__mmu_notifier_invalidate_range_start"],
        "mn_change_pte": functions["__mmu_notifier_change_pte"],
        "k_start": functions["kvm_mmu_notifier_invalidate_range_start"],
        "k_change_pte": functions["kvm_mmu_notifier_change_pte"],
        "k_set_spte_gfn": functions["kvm_set_spte_gfn"],
        "k_unmap_gfn": functions["kvm_unmap_gfn_range"],
        "k_page_fault": counts[Kind.PAGE_FAULT],
        "tdp_spte_changed": counts[Kind.SPTE_CHANGED],
        "k_mmu_set_spte": counts[Kind.SET_SPTE],
        "fast_page_fault": counts[Kind.FAST_FAULT],
        "do_wp_page": functions["do_wp_page"],
        "try_merge_one": functions["try_to_merge_one_page"],
        "migrate_one": functions["try_to_migrate_one"],
        "unmap_ret1": zapping(audit),
        "unmap_ret0": sum(each.in_slot for each in rows) - zapping(audit),
        "retries": audit.totals.faults[Outcome.RETRY],
    }
    assert found == dict(zip(HEAD[1:], map(int, row[1:]), strict=True))
    assert (audit.unmatched_starts, audit.unmatched_ends, audit.complete) == (0, 0, True)


@pytest.mark.parametrize("name", EVENT_TYPES)
def test_event_types(name: str) -> None:
    assert audited(f"x86/{name}.txt.xz").totals.event_types == EVENT_TYPES[name]


@pytest.mark.parametrize("name", LOGS)
def test_exits_and_faults_per_step_are_the_hypervisors(name: str) -> None:
    """KVM's own statistics, which the VMM read before and after each step."""
    steps = {step.text.split()[0]: step for step in audited(f"x86/{name}.txt.xz").totals.steps}
    said = STEP.findall((DATA / f"x86/{name}.log").read_text())
    assert said
    for number, *numbers in said:
        step = steps[f"S:{number}"]
        faults = step.faults
        taken, fixed = faults.total(), faults[Outcome.FIXED]
        found = [step.exits, taken, fixed, faults[Outcome.SPURIOUS]]
        assert found == list(map(int, numbers)), step.text


@pytest.mark.parametrize("name", ["scn6.1_a57", "scn6.12_a57"])
def test_arm64_phases_are_those_of_the_summary(name: str) -> None:
    """Faults and windows of each phase, as counted by the program that recorded them."""
    said: dict[str, list[int]] = {}
    for line in (DATA / f"arm64/{name}.summary").read_text().splitlines():
        if line.startswith("## "):
            counts = said[line[3:].strip()] = [0, 0]
        elif match := re.match(r"\s+(guest_fault|inv_start)\b.*\s(\d+)$", line):
            counts[match[1] == "inv_start"] += int(match[2])
    audit = audited(f"arm64/{name}.trace.xz")
    total = said.pop("TOTAL")
    # The summary begins with what came before the first mark.
    assert total == [audit.totals.faults.total(), audit.counts[Kind.MN_START]]
    found = {step.text: [step.faults.total(), step.windows.total()] for step in audit.totals.steps}
    said.pop("pre")
    last = next(text for text in said if text.startswith("Z end"))
    assert said.pop(last)[1] == audit.totals.elsewhere == 1  # exit_mmap(), after KVM was gone
    for phase, counts in said.items():
        assert found.get(phase) == counts, phase
    assert {text for text, counts in found.items() if any(counts)} == set(said) - {last}


def test_change_pte_on_arm64_installed_leaves_or_found_no_table() -> None:
    totals = audited("arm64/scn6.1_a57.trace.xz").totals
    effects = sum((each.change_pte for each in totals.causes.values()), Counter[Effect]())
    assert effects == {Effect.READ_ONLY: 1216, Effect.NO_TABLE: 19, Effect.OUTSIDE: 4}


@pytest.mark.parametrize("row", [row for row in ROWS if row[2] != "0"], ids=lambda row: row[0])
def test_change_pte_on_x86_never_found_an_spte(row: list[str]) -> None:
    audit = audited(f"x86/{row[0]}.txt.xz")
    rows = audit.totals.causes.values()
    effects = sum((each.change_pte for each in rows), Counter[Effect]())
    calls, handlers = (int(row[HEAD.index(name)]) for name in ("k_change_pte", "k_set_spte_gfn"))
    # Each call that reached a memslot called kvm_set_spte_gfn(), and none of those found an SPTE.
    assert effects == Counter({Effect.NOTHING: handlers, Effect.OUTSIDE: calls - handlers})
