"""H51: a VM is unregistered while the mm exits, and both take it off the list."""

from __future__ import annotations

from mmuwitness.model.bugs.bug import Bug
from mmuwitness.model.features.feature import PATCH
from mmuwitness.model.kvm.vm import kvm_destroy_vm
from mmuwitness.model.mm.mmap import exit_mmap
from mmuwitness.model.scenarios.exit import mapped_private_page
from mmuwitness.model.scenarios.scenario import ONE_GFN, Actor, Scenario

SCENARIO = Scenario(
    "exit_beside_close",
    "The VMM has exited, and another process closes the last file that leads to the VM.",
    "1 vCPU that ran before, 1 gfn, 2 pages",
    mapped_private_page,
    lambda host: [
        Actor("exit", exit_mmap, (host.mm,)),
        Actor("close", kvm_destroy_vm, (host.kvm,)),
    ],
    {**ONE_GFN, "exits": True, "unregisters": True},
)

BUG = Bug(
    id="H51",
    text="Who unregisters finds the subscriber on the list, and calls ->release() of it. Meanwhile"
    " the mm exits and empties the list. Then the entry is unlinked again, through a NULL pointer.",
    commit="751efd8610d3",
    subject="mmu_notifier_unregister NULL Pointer deref and multiple ->release() callouts",
    release="v3.9",
    source=PATCH,
    reference="Robin Holt, 2013. The fix brought H4 back; commit d34883d4e35c in v3.10 has both.",
    claim="unlinked_twice",
    scenario=SCENARIO,
    arch="x86-shadow",
    era="v3.10",
    without=("unlinked_once",),
)
