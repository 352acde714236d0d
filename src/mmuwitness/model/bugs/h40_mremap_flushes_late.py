"""H40: a page that mremap() has moved is freed before its old TLB entries go."""

from __future__ import annotations

from mmuwitness.model.bugs.bug import Bug
from mmuwitness.model.features.feature import PATCH
from mmuwitness.model.scenarios import find_scenario

BUG = Bug(
    id="H40",
    text="mremap() moves a PTE, drops ptl and flushes later. Somebody truncates the file meanwhile:"
    " the page is unmapped at its new address and freed, and a TLB still has it at the old one.",
    commit="eb66ae030829",
    subject="mremap: properly flush TLB before releasing the page",
    release="v4.19",
    source=PATCH,
    reference="CVE-2018-18281, Jann Horn. SPTEs are not concerned: they went with start().",
    claim="freed_page_flushed",
    scenario=find_scenario("mremap_truncate"),
    arch="arm64",
    era="v4.19",
    without=("mremap_flushes_under_ptl",),
)
