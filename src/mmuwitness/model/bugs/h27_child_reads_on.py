"""H27: a child reads what its parent writes later."""

from __future__ import annotations

from mmuwitness.model.bugs.bug import Bug
from mmuwitness.model.features.feature import PATCH
from mmuwitness.model.mm.fork import vmsplice_and_exit
from mmuwitness.model.scenarios.fork import forks
from mmuwitness.model.scenarios.scenario import ONE_GFN, Scenario, two_private_pages

BUG = Bug(
    id="H27",
    text="A child puts a page that it shares with its parent into a pipe and unmaps it. The next"
    " write of the parent finds one PTE alone and reuses the page: what its guest writes, the"
    " reader of the pipe sees.",
    commit="17839856fd58",
    subject='gup: document and work around "COW can break either way" issue',
    release="v5.8",
    source=PATCH,
    reference="CVE-2020-29374, Jann Horn. Undone in v5.9, whose write faults count references, not"
    " PTEs: commit 09854ba94c6a.",
    claim="child_has_its_own",
    scenario=Scenario(
        "fork_splice",
        "The VMM forks; its child puts a page into a pipe and exits, and the pipe is read later.",
        "1 vCPU, 1 gfn, 3 pages, any number of children, one after another",
        two_private_pages,
        forks(vmsplice_and_exit),
        {**ONE_GFN, "pages": 3, "forks": True},
    ),
    arch="x86-shadow",
    era="v5.8",
    without=("gup_breaks_cow",),
)
