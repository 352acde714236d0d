"""H13: a zap drops mmu_lock for faults that can only be retried."""

from __future__ import annotations

from mmuwitness.model.bugs.bug import Bug
from mmuwitness.model.features.feature import SOURCE
from mmuwitness.model.kvm.vcpu import vcpu_access_once
from mmuwitness.model.mm.memory import zap_page_range
from mmuwitness.model.scenarios.scenario import Scenario, mm_actor, two_private_pages

BUG = Bug(
    id="H13",
    text="A zap drops mmu_lock, since vCPUs wait for it. Their faults are in its window: they take"
    " the lock to find that they are retried, again and again, and the zap waits for the lock.",
    commit="d02c357e5bfa",
    subject="KVM: x86/mmu: Retry fault before acquiring mmu_lock if mapping is changing",
    release="v6.8",
    source=SOURCE,
    reference="Seen on preemptible hosts, and called near livelock: where locks hand over to who"
    " waits it ends, but each round costs time.",
    claim="windows_close",
    scenario=Scenario(
        "yield_once",
        "The VMM drops two guest pages in one window while a guest reads the first; the zap may"
        " drop mmu_lock between them.  Locks overtake.",
        "1 vCPU, 1 read, 2 gfns in two table pages, 3 pages, 1 call",
        two_private_pages,
        mm_actor("madvise", zap_page_range, 0, 2),
        {
            "gfns_per_table": 1,
            "pages": 3,
            "yields": True,
            "read_gfns": 1,
            "written_gfns": 0,
        },
        guest=vcpu_access_once,
    ),
    arch="x86-tdp",
    era="v6.8",
    without=("retry_precheck",),
    fair_locks=False,
)
