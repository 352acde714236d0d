"""Edited copies of real traces are rejected where they were edited; the share is pinned."""

import random

import pytest

from tests.trace.edit_parts import Part, parts
from tests.trace.edits import EDITS, report, run

# Of the edits that are not harmless, the share rejected at their place is at least this.
LEAST = {
    "end_removed": 0.94,  # missed: the first and the last of a trace, where a probe may not be set
    "whole_end_removed": 0.97,
    "start_removed": 0.94,  # missed: likewise
    "whole_start_removed": 0.90,  # elsewhere: the page's next event, where its zap is missed
    "install_moved_into_window": 0.98,
    "pfn_changed": 0.98,
    "gfn_changed": 0.96,
    "zap_dropped": 0.92,  # missed: of a VM that is torn down, nothing looks at it again
    "install_dropped": 0.80,  # missed: stores on arm64, where a map need not store; tables' SPTEs
    "change_pte_moved": 0.98,
    "seq_altered": 0.93,  # missed: a trace's first and last reading; arm64 hides the end of end()
    "count_altered": 0.88,  # missed: before the first window that hits a memslot; arm64, likewise
    "invalidate_range_altered": 0.97,
    "window_range_altered": 0.97,
    "retry_invented": 0.97,
    "fix_invented": 0.97,
    "unmap_result_flipped": 0.86,  # missed: shadow paging zaps for the guest's reasons, untold
    "own_events_swapped": 0.80,  # missed: neighbours whose order no rule speaks of
    "event_given_away": 0.81,  # missed: events with which a rule has nothing to compare
}


@pytest.mark.slow
def test_thousands_of_edits_are_rejected_at_their_place() -> None:
    tallies = run(seed=11, times=150)
    assert sum(tally.edits for tally in tallies.values()) >= 2800
    low = {name: tallies[name].share for name in LEAST if tallies[name].share < LEAST[name]}
    assert not low, report(tallies)


@pytest.mark.slow
def test_each_kind_of_edit_is_rejected_at_its_place() -> None:
    """A few of each, fast enough for every day: at least half of each kind."""
    tallies = run(seed=5, times=4)
    assert set(LEAST) == set(EDITS) - {"tasks_swapped"}
    low = {name: tallies[name].share for name in LEAST if tallies[name].share < 0.5}
    assert not low, report(tallies)


@pytest.mark.slow
def test_the_order_of_tasks_is_free_only_where_nothing_orders_them() -> None:
    """What the rules reject is never called harmless; the few other orders are as possible as the
    recorded one, since a probe fires before what it tells."""
    edit, rng = EDITS["tasks_swapped"], random.Random(7)
    tried = rejected_and_harmless = bounded = 0
    for _ in range(300):
        part: Part = rng.choice(rng.choice(parts()))
        edited = edit(rng, part)
        if edited is None:
            continue
        tried += 1
        bounded += not edited.harmless
        if edited.harmless and part.departures(edited.facts):
            rejected_and_harmless += 1
    assert tried > 100 and rejected_and_harmless == 0
    assert 0 < bounded < tried
