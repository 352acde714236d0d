"""H9: a zap that dropped mmu_lock goes on behind the entry that it had not zapped yet."""

from __future__ import annotations

from mmuwitness.model.bugs.bug import Bug
from mmuwitness.model.features.feature import PATCH
from mmuwitness.model.scenarios import find_scenario

BUG = Bug(
    id="H9",
    text="The zap of a whole root drops mmu_lock, and starts again at the entry where it was; the"
    " loop then goes on to the next one, and all below that entry stays.",
    commit="3a0f64de479c",
    subject="KVM: x86/mmu: Don't advance iterator after restart due to yielding",
    release="v5.16",
    source=PATCH,
    reference="Ignat Korchagin found leaked shadow pages, or pages that were marked dirty after"
    " they were freed. In v5.15.12, too. The kernel here is one with the fix of H8.",
    claim="obsolete_root_unmapped",
    scenario=find_scenario("memslot_roots"),
    arch="x86-tdp",
    era="v5.16.19",
    without=("x86_tdp_iter_restarts_in_place",),
)
