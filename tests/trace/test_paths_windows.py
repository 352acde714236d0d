"""Edits of MADV_FREE, collapses, reclaim and write-back: followed, or rejected at their place."""

import pytest

from mmuwitness.trace.paths.match import Seen
from tests.trace.test_paths_edits import (
    END,
    START,
    called,
    change,
    drop,
    follow,
    pieces,
    read,
    returns_to,
    twice,
)

MADVISE = "6.1-tdp-madvise"
FREE_EDITS = {
    "its start is missing": ("enter", START, drop),
    "its end is missing": ("enter", END, drop),
    "it is told to be of no known kind": ("enter", START, change(event=4)),
    "it ends elsewhere": ("enter", END, change(end=0x7F0000000000)),
    "a leaf is zapped twice": ("trace", "kvm_tdp_mmu_spte_changed", twice),
    "it is of a function that has other windows": ("leave", START, returns_to("wp_page_copy")),
    "KVM is not told of its end": ("enter", "kvm_mmu_notifier_invalidate_range_end", drop),
}


def window_of_madv_free(events: list[Seen]) -> tuple[int, int]:
    """Its first event, and the one behind its last."""
    by_it = [i for i, s in enumerate(events) if s.caller == "madvise_free_single_vma"]
    task = events[by_it[0]].pid
    starts = [i for i, s in enumerate(events) if s.name == START and s.pid == task]
    return [i for i in starts if i < by_it[0]][-1], by_it[-1] + 1


@pytest.mark.parametrize("title", FREE_EDITS)
def test_an_edited_madv_free_is_rejected_at_its_place(title: str) -> None:
    what, name, edit = FREE_EDITS[title]
    events = list(read(MADVISE)[0])
    begin, end = window_of_madv_free(events)
    at = next(i for i in range(begin, end) if (events[i].what, events[i].name) == (what, name))
    where = edit(events, at)
    departure = follow(MADVISE, events[: end + 20]).departure
    assert departure is not None
    assert departure.seen == where


@pytest.mark.parametrize(("caller", "followed"), [("collapse_huge_page", True), ("vunmap", False)])
def test_a_collapse_of_guest_memory(caller: str, followed: bool) -> None:
    """Made of the window of MADV_FREE, which differs from its own in the caller."""
    events = list(read(MADVISE)[0])
    begin, end = window_of_madv_free(events)
    for i in range(begin, end):
        if events[i].caller == "madvise_free_single_vma":
            events[i] = events[i]._replace(caller=caller)
    result = follow(MADVISE, events)
    assert result.departure is None
    assert "MADV_FREE" not in result.accepted
    assert ("THP collapse" in result.accepted) is followed
    assert bool(result.not_modelled) is not followed


@pytest.mark.parametrize(
    ("function", "name", "event"),
    [("try_to_unmap_one", "reclaim", 1), ("page_vma_mkclean_one", "writeback", 3)],
)
def test_another_walk_of_the_reverse_mapping(function: str, name: str, event: int) -> None:
    """Made of a migration; neither is in a recorded trace.  Its function is not probed."""
    trace = "6.1-tdp-numa"
    part = next(
        part
        for part in pieces(trace, ("try_to_migrate_one",))
        if "page migration" in follow(trace, [*part, part[0]], known=True).accepted
    )
    made = []
    for seen in part:
        if seen.name == "try_to_migrate_one":
            continue
        fields = seen.fields | ({"event": event} if "event" in seen.fields else {})
        caller = function if seen.caller == "try_to_migrate_one" else seen.caller
        made.append(seen._replace(fields=fields, caller=caller))
    result = follow(trace, [*made, made[0]], known=True)
    assert result.departure is None
    assert name in result.accepted
    assert "page migration" not in result.accepted


COLLAPSE = "mm_collapse_huge_page"
COLLAPSE_EDITS = {
    "it ends twice": twice,
    "it comes to something else": change(isolated=2),
    "a COW break in it": called("do_wp_page"),
}


@pytest.mark.parametrize("title", COLLAPSE_EDITS)
def test_an_edited_collapse_is_rejected_at_its_place(title: str) -> None:
    events = list(read("6.1-recorded")[0])
    at = next(i for i, s in enumerate(events) if s.name == COLLAPSE)
    user = next(s for s in events if s.what == "user")._replace(pid=events[at].pid)
    events.insert(at - 1, user)
    where = COLLAPSE_EDITS[title](events, at + 1)
    departure = follow("6.1-recorded", events).departure
    assert departure is not None
    assert departure.seen == where
