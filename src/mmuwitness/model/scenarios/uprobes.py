"""Scenarios of breakpoints in guest memory."""

from __future__ import annotations

from mmuwitness.model.mm import ksm, uprobes
from mmuwitness.model.scenarios.scenario import (
    ONE_GFN,
    Actor,
    Scenario,
    mm_actor,
    one_ksm_page,
    two_read_only_pages,
)

UPROBES = (
    Scenario(
        "uprobe",
        "A page of guest memory is replaced by a copy with a breakpoint.  (uprobes want a"
        " mapping that is not writable, so the guest only reads.)",
        "1 vCPU, 2 gfns in one table page, 3 pages, any number of breakpoints",
        two_read_only_pages,
        mm_actor("perf", uprobes.uprobe_register),
        {"written_gfns": 0, "pages": 3},
    ),
    Scenario(
        "unmerge_uprobe",
        "Both, in one mm: mmap_lock keeps them apart, and the guest reads on.",
        "1 vCPU that reads, 2 gfns in one table page, 3 pages, any number of calls of both",
        one_ksm_page,
        lambda host: [
            Actor("madvise", ksm.unmerge_ksm_pages, (host.mm,)),
            Actor("perf", uprobes.uprobe_register, (host.mm,)),
        ],
        {"written_gfns": 0, "pages": 3},
    ),
    Scenario(
        "uprobe_one",
        "As uprobe, with one gfn.",
        "1 vCPU, 1 gfn, 2 pages, any number of breakpoints",
        two_read_only_pages,
        mm_actor("perf", uprobes.uprobe_register),
        {**ONE_GFN, "written_gfns": 0},
    ),
)
