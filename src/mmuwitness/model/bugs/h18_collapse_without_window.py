"""H18: khugepaged takes PTEs away and tells nobody."""

from __future__ import annotations

from mmuwitness.model.bugs.bug import Bug
from mmuwitness.model.features.feature import SOURCE
from mmuwitness.model.scenarios import find_scenario

BUG = Bug(
    id="H18",
    text="khugepaged drops the table that maps a huge page of shmem, outside any window. SPTEs go"
    " on to map the page, which counts as mapped nowhere, so that reclaim frees it without asking"
    " anybody.",
    commit="f268f6cf875f",
    subject="mm/khugepaged: invoke MMU notifiers in shmem/file collapse paths",
    release="v6.1",
    source=SOURCE,
    reference="CVE-2022-48991. It matters since commit 27e1f8273113 in v5.4: what was dropped"
    " before was empty.",
    claim="freed_page_unmapped",
    scenario=find_scenario("collapse_shmem"),
    arch="x86-tdp",
    era="v6.1",
    without=("collapse_file_bracketed",),
)
