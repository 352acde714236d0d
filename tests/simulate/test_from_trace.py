"""A real trace, done again: its windows and its faults, counted against the audit of the same."""

from pathlib import Path

import pytest

from mmuwitness.simulate.simulator import resolved
from tests.simulate.small_runs import EXITS, WINDOWS, run

TRACE = Path(__file__).parents[1] / "data/x86/6.1-tdp-ksm-merge.txt.xz"
"""32 pages merged: 36 windows of write protection and 35 of replacement are in memslots, and the
guest reads the 32 pages again.  (What `audit` says of it.)"""


def replay(design: str = "as-is", era: str = "v6.1") -> dict[str, int]:
    return dict(run("from-trace", design, era=era, small={}, file=str(TRACE)).counters)


def test_the_windows_of_the_trace_are_made_again() -> None:
    made = replay()
    assert made["trace windows"] == 71
    assert made["mm.ksm.write_protect_page"] == 36
    assert made["mm.ksm.replace_page"] == made["window empty"] == 35
    assert made["mmuwitness.simulate.kernel.replayed.replay_touch"] == made["trace touches"] == 78
    assert made[EXITS] == 78, "one for each fault of the trace, and no retry"


def test_without_windows_only_first_touches_fault() -> None:
    """Of 78 faults those that the 36 windows of write protection led to do not happen."""
    made = replay("nothing")
    assert made.get(WINDOWS, 0) == 0
    assert made[EXITS] == 78 - 36


def test_change_pte_in_a_window_found_no_spte_there_and_finds_none_here() -> None:
    """The audit: 71 calls; 71 found no SPTE."""
    made = replay()
    assert made["kvm.kvm_main.kvm_mmu_notifier_change_pte"] > 60
    assert not [name for name in made if name.startswith("mark change_pte") and made[name]]


def test_a_trace_has_no_guests_to_choose() -> None:
    with pytest.raises(ValueError, match="no parameter 'guests'"):
        resolved("from-trace", {"guests": 2})
