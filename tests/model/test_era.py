"""The rows say what their commits did, and an era answers by them alone."""

import re
from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmuwitness.model.era import (
    ARCHES,
    FEATURES,
    RELEASES,
    Era,
    EraGroup,
    Feature,
    UnknownName,
    era_groups,
    parse_kernel,
    release_key,
)

NAMES = sorted({row.name for row in FEATURES})
single_rows = st.sampled_from(
    [row for row in FEATURES if sum(each.name == row.name for each in FEATURES) == 1]
)
names = st.sampled_from(NAMES)
arches = st.sampled_from(ARCHES)
releases = st.sampled_from(RELEASES)
levels = st.integers(1, 400)
each_row = pytest.mark.parametrize("row", FEATURES, ids=lambda row: f"{row.name}-{row.commit}")


def arch_of(row: Feature) -> str:
    return row.arches[0] if row.arches else ARCHES[0]


# The table


@each_row
def test_row_names_its_commits(row: Feature) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9_]*", row.name)
    assert re.fullmatch(r"[0-9a-f]{12,40}", row.commit) or (not row.commit and row.note)
    assert row.subject and row.subject == row.subject.strip()
    assert bool(row.until) == bool(row.until_commit) == bool(row.until_subject)
    if row.until:
        assert re.fullmatch(r"[0-9a-f]{12,40}", row.until_commit)


@each_row
def test_row_is_dated_by_known_releases(row: Feature) -> None:
    assert {row.since, row.until} - {""} <= set(RELEASES)
    if row.since and row.until:
        assert release_key(row.since) < release_key(row.until)


@each_row
def test_row_says_where_and_how_it_is_known(row: Feature) -> None:
    assert row.source in {"source read", "patch read", "from memory", "derived"}
    assert set(row.arches) <= set(ARCHES)
    assert row.note and "\n" not in row.note


@each_row
def test_row_changes_in_stable_only_what_mainline_does_not(row: Feature) -> None:
    for changes, mainline in ((row.backports, False), (row.withdrawn, True)):
        series = [parse_kernel(change)[0] for change in changes]
        assert len(series) == len(set(series)) and all(parse_kernel(each)[1] for each in changes)
        for each in series:
            assert Era(each).has(row.name, arch_of(row)) is mainline


def test_rows_of_one_name_never_overlap() -> None:
    for one, two in combinations(FEATURES, 2):
        if one.name != two.name or (one.arches and not set(one.arches) & set(two.arches)):
            continue
        early, late = sorted((one, two), key=lambda row: release_key(row.since or "v0"))
        assert early.until and release_key(early.until) <= release_key(late.since), one.name


def test_one_commit_has_one_subject() -> None:
    cited = {(row.commit, row.subject) for row in FEATURES if row.commit}
    cited |= {(row.until_commit, row.until_subject) for row in FEATURES if row.until}
    assert len(cited) == len({commit for commit, _ in cited})


def test_every_arch_of_the_kernel_with_notifiers_is_there() -> None:
    assert ARCHES == ("arm64", "loongarch", "mips", "powerpc", "riscv", "s390", "x86")


# Releases


def test_releases_are_those_of_mainline() -> None:
    assert len(RELEASES) == 8 + 20 + 21 + 20 + 20 + 4
    assert RELEASES[0] == "v2.6.32" and RELEASES[-1] == "v7.3"
    assert all(release_key(one) < release_key(two) for one, two in pairwise(RELEASES))
    assert {"v2.6.39", "v3.0", "v3.19", "v4.0", "v4.20", "v5.19", "v6.19", "v7.0"} <= set(RELEASES)


@pytest.mark.parametrize("release", RELEASES)
def test_every_release_resolves(release: str) -> None:
    assert str(Era(release)) == release
    assert Era(release.removeprefix("v")) == Era(f"{release}.0") == Era(release)
    assert str(Era(f"{release}.5")) == f"{release}.5" and Era(f"{release}.5") != Era(release)
    assert Era(release).features("x86")


@pytest.mark.parametrize(
    "name", ["", "v", "v6", "v2.6", "v2.6.31", "v6.20", "v7.4", "v6.01", "v3.7-rc1", "v6.1.1.1"]
)
def test_what_is_no_kernel_is_an_error(name: str) -> None:
    with pytest.raises(UnknownName, match=r"v2\.6\.32 to v2\.6\.39, .* stable levels of them"):
        Era(name)


# What real kernels have


@pytest.mark.parametrize(
    ("kernel", "feature", "arch", "has"),
    [
        ("v2.6.32", "change_pte_op", "x86", True),
        ("v6.9", "change_pte_op", "x86", True),
        ("v6.10", "change_pte_op", "x86", False),
        ("v3.6", "change_pte_bracketed", "x86", False),
        ("v3.7", "change_pte_bracketed", "x86", True),
        ("v3.6", "change_pte_falls_back_to_invalidate_page", "x86", True),
        ("v3.7", "change_pte_falls_back_to_invalidate_page", "x86", False),
        ("v4.10", "invalidate_page_after_ptl", "x86", True),
        ("v4.11", "invalidate_page_after_ptl", "x86", False),
        ("v4.12", "invalidate_page_op", "x86", True),
        ("v4.13", "rmap_walk_bracketed", "x86", True),
        ("v6.1", "change_pte_skips_invalid_slot", "arm64", False),
        ("v6.1.35", "change_pte_skips_invalid_slot", "arm64", False),
        ("v6.1.36", "change_pte_skips_invalid_slot", "arm64", True),
        ("v6.1.192", "change_pte_skips_invalid_slot", "arm64", True),
        ("v6.2.192", "change_pte_skips_invalid_slot", "arm64", False),
        ("v6.1", "arm64_snapshot_before_mmap_unlock", "arm64", False),
        ("v6.1.192", "arm64_snapshot_before_mmap_unlock", "arm64", True),
        ("v6.1.192", "arm64_snapshot_before_mmap_unlock", "x86", False),
        ("v5.12", "change_pte_bumps_seq", "x86", True),
        ("v5.13", "change_pte_bumps_seq", "x86", False),
        ("v5.14", "mn_active_invalidate_count", "x86", False),
        ("v5.15", "mn_active_invalidate_count", "x86", True),
        ("v6.7", "range_retry_hva", "x86", True),
        ("v6.7", "range_retry_hva", "loongarch", True),
        ("v6.7", "range_retry_hva", "arm64", False),
        ("v6.6", "range_retry_hva", "loongarch", False),
        ("v6.8", "range_retry_hva", "x86", False),
        ("v6.8", "range_retry_gfn", "x86", True),
        ("v6.8", "range_retry_gfn", "s390", False),
        ("v7.0", "range_retry_gfn", "s390", True),
        ("v5.15.128", "x86_tdp_mmu_default", "x86", True),
        ("v5.15.129", "x86_tdp_mmu_default", "x86", False),
        ("v5.16", "x86_tdp_mmu_default", "x86", True),
        ("v5.12", "x86_tdp_unmaps_invalid_roots", "x86", True),
        ("v5.13", "x86_tdp_unmaps_invalid_roots", "x86", False),
        ("v5.18", "x86_tdp_unmaps_invalid_roots", "x86", True),
        ("v2.6.32.60", "x86_change_pte", "x86", True),
        ("v7.1", "riscv_unmap_aligned", "riscv", False),
        ("v7.2", "riscv_unmap_aligned", "riscv", True),
    ],
)
def test_real_kernels(kernel: str, feature: str, arch: str, has: bool) -> None:
    assert Era(kernel).has(feature, arch) is has


def test_cited_commits_are_those_of_the_backports() -> None:
    gained = Era("v6.1.192").features("arm64") - Era("v6.1").features("arm64")
    commits = {row.commit for row in FEATURES if row.name in gained}
    assert commits == {"2230f9e1171a", "13ec9308a857"}


# Properties


@given(single_rows, releases)
def test_a_feature_is_there_from_since_up_to_until(row: Feature, release: str) -> None:
    begun = not row.since or release_key(row.since) <= release_key(release)
    ended = bool(row.until) and release_key(row.until) <= release_key(release)
    assert Era(release).has(row.name, arch_of(row)) is (begun and not ended)


@given(single_rows, st.tuples(releases, releases, releases))
def test_a_row_is_one_run_of_releases(row: Feature, picked: tuple[str, str, str]) -> None:
    first, between, last = sorted(picked, key=release_key)
    if Era(first).has(row.name, arch_of(row)) and Era(last).has(row.name, arch_of(row)):
        assert Era(between).has(row.name, arch_of(row))


@given(names, arches, releases, levels, levels)
def test_stable_levels_only_go_forward(
    name: str, arch: str, release: str, one: int, two: int
) -> None:
    low, high = (Era(f"{release}.{level}").has(name, arch) for level in sorted((one, two)))
    if low != high:  # at one level, the same way as from the release itself
        assert low == Era(release).has(name, arch)


@given(releases, arches)
def test_features_are_those_that_it_has(release: str, arch: str) -> None:
    era = Era(release)
    assert era.features(arch) == {name for name in NAMES if era.has(name, arch)}


# Changes


@given(names, arches, releases, st.booleans())
def test_a_change_wins(name: str, arch: str, release: str, wanted: bool) -> None:
    before = Era(release)
    after = before.with_change(f"{'+' if wanted else '-'}{name}")
    assert after.has(name, arch) is wanted
    assert after.features(arch) - {name} == before.features(arch) - {name}


def test_changes_are_shown_and_the_last_counts() -> None:
    era = Era("3.7").with_change("-uprobes", "-ksm").with_change("+uprobes")
    assert str(era) == "v3.7 -ksm +uprobes"
    assert era.has("uprobes", "x86") and not era.has("ksm", "x86")
    assert era == Era("v3.7", ("-ksm", "+uprobes")) == Era("v3.7", ("+uprobes", "-ksm"))
    assert hash(era) == hash(Era("v3.7", ("-ksm", "+uprobes")))


def test_a_change_needs_a_sign_and_a_name() -> None:
    with pytest.raises(ValueError, match=r"write \+ksm or -ksm"):
        Era("v6.1").with_change("ksm")
    with pytest.raises(UnknownName, match="did you mean ksm"):
        Era("v6.1").with_change("-ksn")


# Errors


@pytest.mark.parametrize(
    ("ask", "nearest", "known"),
    [
        (lambda: Era("v6.1").has("change_pte_opp", "x86"), "change_pte_op", "break_ksm_unshare"),
        (lambda: Era("v6.1").has("ksm", "amd64"), "arm64", "loongarch"),
        (lambda: Era("v6.1").features("risc-v"), "riscv", "s390"),
        (lambda: Era("v6.1").unverified(["gpc_invalidate_sequence"]), "gpc_invalidate_seq", "ksm"),
        (lambda: Era("v6.1").unverified(["ksm"], "x68"), "x86", "mips"),
        (lambda: Era("v16.1"), "v6.1", "v7.0 to v7.3"),
        (lambda: era_groups(["kms"]), "ksm", "uprobes"),
        (lambda: era_groups(["ksm"], "x87"), "x86", "mips"),
    ],
)
def test_unknown_names_say_what_is_near_and_what_there_is(ask, nearest: str, known: str) -> None:
    with pytest.raises(UnknownName) as caught:
        ask()
    assert nearest in caught.value.nearest
    assert f"did you mean {caught.value.nearest[0]}" in str(caught.value)
    assert known in str(caught.value)


def test_a_name_that_is_near_nothing_is_only_listed() -> None:
    with pytest.raises(UnknownName) as caught:
        Era("v6.1").has("zzz", "x86")
    assert str(caught.value).startswith("unknown feature 'zzz': there are aging_elides_lock, ")


# What is not verified


def test_unverified_rows_are_named() -> None:
    era = Era("v7.3")
    asked = ["ksm", "gpc_invalidate_seq", "powerpc_pr_notifier"]
    assert [row.name for row in era.unverified(asked)] == asked[1:]
    assert [row.name for row in era.unverified(asked, "x86")] == ["gpc_invalidate_seq"]
    assert [row.source for row in era.unverified(asked, "x86")] == ["derived"]
    assert era.with_change("-gpc_invalidate_seq").unverified(asked, "x86") == ()


@given(st.sets(names))
def test_unverified_rows_are_those_with_such_a_source(asked: set[str]) -> None:
    expected = {
        row for row in FEATURES if row.name in asked and row.source in {"from memory", "derived"}
    }
    assert set(Era("v6.1").unverified(asked)) == expected


# Groups


def test_groups_of_the_first_question() -> None:
    assert era_groups(["change_pte_op", "change_pte_bracketed"], "x86") == (
        EraGroup("v2.6.32", "v3.6", frozenset({"change_pte_op"})),
        EraGroup("v3.7", "v6.9", frozenset({"change_pte_op", "change_pte_bracketed"})),
        EraGroup("v6.10", "v7.3", frozenset({"change_pte_bracketed"})),
    )


def test_groups_without_an_arch_end_where_any_arch_changes() -> None:
    firsts = [group.first for group in era_groups(["range_retry_gfn"])]
    assert firsts == ["v2.6.32", "v6.8", "v7.0"]
    assert [group.first for group in era_groups(["range_retry_gfn"], "s390")] == ["v2.6.32", "v7.0"]
    assert era_groups([]) == (EraGroup("v2.6.32", "v7.3", frozenset()),)


@given(st.sets(names, max_size=8), st.one_of(st.just(""), arches))
def test_groups_are_a_partition_into_longest_runs(asked: set[str], arch: str) -> None:
    groups = era_groups(asked, arch)
    covered: list[str] = []
    for group in groups:
        start, end = RELEASES.index(group.first), RELEASES.index(group.last)
        covered += RELEASES[start : end + 1]
        for release in RELEASES[start : end + 1]:
            present = [Era(release).features(each) & asked for each in ([arch] if arch else ARCHES)]
            assert frozenset().union(*present) == group.features
    assert tuple(covered) == RELEASES
    if arch:
        assert all(one.features != two.features for one, two in pairwise(groups))
