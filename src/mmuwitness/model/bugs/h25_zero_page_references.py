"""H25: KVM takes a reference to the zero page with every fault, and keeps it."""

from __future__ import annotations

from mmuwitness.model.bugs.bug import Bug
from mmuwitness.model.features.feature import PATCH
from mmuwitness.model.scenarios import find_scenario

BUG = Bug(
    id="H25",
    text="The zero page is reserved, so KVM does not put what get_user_pages gave it. The count of"
    " references grows with every read fault, until the next one is refused.",
    commit="7df003c85218",
    subject="KVM: fix overflow of zero page refcount with ksm running",
    release="v5.6",
    source=PATCH,
    reference="Seen where KSM used the zero page, and guests came and went. Here the count has"
    " three bits.",
    claim="references_dropped",
    scenario=find_scenario("zero_page"),
    arch="x86-shadow",
    era="v5.6",
    without=("zero_page_is_put",),
)
