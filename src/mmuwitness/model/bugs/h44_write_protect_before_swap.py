"""H44: a page is writable and in no dirty log."""

from __future__ import annotations

from mmuwitness.model.bugs.bug import Bug
from mmuwitness.model.features.feature import PATCH
from mmuwitness.model.scenarios import find_scenario

BUG = Bug(
    id="H44",
    text="KVM_GET_DIRTY_LOG makes SPTEs read-only, then swaps the bitmap. A fault between the two"
    " is logged in the old one, and its SPTE stays writable: what is written later is lost.",
    commit="edde99ce0529",
    subject="KVM: Write protect memory after slot swap",
    release="v2.6.37",
    source=PATCH,
    reference="Michael S. Tsirkin, 2010. The rule as the commit has it: a page is dirty in the"
    " current bitmap, or write-protected. Its release is from memory.",
    claim="written_page_logged",
    scenario=find_scenario("dirty_log"),
    arch="x86-shadow",
    era="v2.6.37",
    without=("dirty_log_protects_after_swap",),
)
