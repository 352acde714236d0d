"""What exploring every shipped scenario finds, pinned in pinned.toml: states, steps, depth, claims
that are violated, marks that are reached.  `make golden` writes the file anew.

A violation has to be explained: by a bug that real kernels of that time had, or by a rule of the
protocol that the kernel breaks knowingly.  That an explanation is the right one is tested, too:
with the bug mended, every claim holds.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from mmuwitness.explore.explorer import explore
from mmuwitness.explore.programs import MERGED, compiled_program
from mmuwitness.model.claims import CLAIMS, find_claims
from mmuwitness.model.era import Era, release_key
from mmuwitness.model.host import find_arch
from mmuwitness.model.scenarios import SCENARIOS
from tests.conftest import accepting
from tests.explore.test_agreement import SMALL, STATES_MAX
from tests.model.mutants import MUTANTS, kernel, outcome_of

PINNED = Path(__file__).with_name("pinned.toml")
KERNELS = ("v2.6.32", "v3.7", "v3.11", "v5.10", "v5.13", "v6.1", "v6.9", "v6.12", "v7.3")
"""Some of every time: v3.11 is the first of arm64, v5.10 of the TDP MMU."""
ARCHES = ("x86-tdp", "x86-shadow", "arm64")
QUICK = ("ksm_first", "unmerge", "uprobe_one", "dontneed_one", "reclaim_one", "migrate_one",
         "memslot_delete", "hmm_dontneed", "oom_hmm")  # fmt: skip
HEAD = """\
# What exploring finds: for each scenario and architecture one line for each distinct program, under
# the kernels that have it.  Made by `make golden`; why a claim is violated is in test_pinned.py.
"""


@dataclass(frozen=True)
class Bug:
    """Why claims are violated.  since and until: the first kernels with it, and without it again.

    mended: a mutant, or changed features; with it every claim holds."""

    text: str
    claims: str
    arches: tuple[str, ...]
    scenarios: tuple[str, ...]
    since: str
    until: str
    mended: str


STALE = "I1 I3 I4 I6"
RMAP_WALKS = (
    "cow_migrate",
    "cow_reclaim",
    "reclaim",
    "reclaim_one",
    "migrate",
    "migrate_one",
    "collapse_shmem",
    "reclaim_aging",
    "exit_reclaim",
    "reclaim_thread",
    "reclaim_mprotect",
    "swapin",
    "exit_destroy",
    "exit_aging",
)
EVERYWHERE = ("x86-tdp", "x86-shadow", "arm64")
ALONE = "change_pte wants its window to be the only one"

BUGS = {
    "H1": Bug(
        "The new PTE is there before change_pte: commit 48af0d7cb3c8 in v3.7.",
        claims="I6",
        arches=("x86-shadow",),
        scenarios=("cow_smp", "two_vms_cow"),
        since="v2.6.32",
        until="v3.7",
        mended="+change_pte_before_set_pte",
    ),
    "I13": Bug(
        "Two windows over one page are open while change_pte installs a leaf: the rule of the"
        " commit that made it so, 6bdb913f0a70 in v3.7.  No harm by itself.",
        claims="I13",
        arches=("arm64",),
        scenarios=("ksm", "ksm_both", "cow"),
        since="v3.11",
        until="v6.10",
        mended=ALONE,
    ),
    "R1": Bug(
        "The second window is that of a rmap walk, whose start() came before change_pte: what it"
        " unmaps stays in the SPTE.",
        claims="I1 I2 I3 I4 I5 I6 I13",
        arches=("arm64",),
        scenarios=("cow_migrate", "cow_reclaim"),
        since="v4.13",
        until="v6.10",
        mended=ALONE,
    ),
    "H2": Bug(
        "change_pte maps into a memslot that was flushed and is about to go: commit 2230f9e1171a in"
        " v6.4.  Later windows do not hit the memslot, so the leaf outlives what it maps.",
        claims="I1 I3 I4 I11",
        arches=("arm64",),
        scenarios=("memslot_delete",),
        since="v3.11",
        until="v6.4",
        mended="+change_pte_skips_invalid_slot",
    ),
    "H14": Bug(
        "The VMA says that a leaf is to be huge, and is gone by the time of the snapshot: commit"
        " 13ec9308a857 in v6.3.",
        claims=STALE,
        arches=("arm64",),
        scenarios=("mmap_hugetlb", "mmap_aging"),
        since="v3.13",
        until="v6.3",
        mended="+arm64_snapshot_before_mmap_unlock",
    ),
    "H18": Bug(
        "khugepaged drops a table of PTEs without a window: commit f268f6cf875f in v6.1.",
        claims=STALE,
        arches=ARCHES,
        scenarios=("collapse_shmem",),
        since="v5.4",
        until="v6.1",
        mended="+collapse_file_bracketed",
    ),
    "H19": Bug(
        "One of two mappings that share a PMD table is forgotten: commit 017b1660df89 in v4.19.",
        claims=STALE,
        arches=("x86-shadow", "arm64"),
        scenarios=("hugetlb_shared",),
        since="v2.6.32",
        until="v4.19",
        mended="+hugetlb_shared_pmd_range",
    ),
    "H35": Bug(
        "H14 on x86: commit 83f06fa7a6fd in v5.6 asks the page tables instead.",
        claims=STALE,
        arches=("x86-shadow",),
        scenarios=("mmap_hugetlb", "mmap_aging"),
        since="v2.6.32",
        until="v5.6",
        mended="+x86_hugetlb_from_page_tables",
    ),
    "H8": Bug(
        "A root that is invalid and not zapped yet is passed over by start(): commit d62007edf01f"
        " in v5.18.  Until v5.16 faults mapped into it (H11), and a yield left some of it (H9).",
        claims="I4 obsolete_root_unmapped",
        arches=("x86-tdp",),
        scenarios=("memslot_roots",),
        since="v5.13",
        until="v5.18",
        mended="+x86_tdp_unmaps_invalid_roots +x86_fault_checks_root"
        " +x86_tdp_iter_restarts_in_place",
    ),
    "H36": Bug(
        "A memslot that moves is not zapped, or (since v3.1) only once it is there: commit"
        " 12d6e7538e2d in v3.7.",
        claims="I1 I2 I3 I4 I6 I11",
        arches=("x86-shadow",),
        scenarios=("memslot_move",),
        since="v2.6.32",
        until="v3.7",
        mended="+memslot_move_invalidates +memslots_srcu",
    ),
    "H17": Bug(
        "A window outside every memslot does not bump the sequence that a cache's refresh looks at:"
        " commit da260bcb56fe, in v7.3.4.",
        claims="I4 I6 cache_names_mapped_page",
        arches=("x86-tdp", "x86-shadow"),
        scenarios=("pfncache_hva",),
        since="v6.9",
        until="v7.3",
        mended="+gpc_invalidate_seq",
    ),
    "H32": Bug(
        "MMIO faults are retried like any: commit 5f8a7cf25a7d in v5.12.",
        claims="mmio_not_retried",
        arches=("x86-tdp", "x86-shadow"),
        scenarios=("memslot_mmio",),
        since="v2.6.32",
        until="v5.12",
        mended="+mmio_fault_skips_retry",
    ),
    "H4": Bug(
        "When an mm exits, KVM leaves the list of subscribers before it drops its SPTEs: commit"
        " 3ad3d901bbcf in v3.6.  So it does when a VM is destroyed.",
        claims="I1 I2 I3 I4",
        arches=("x86-shadow",),
        scenarios=(
            "exit_reclaim",
            "exit_aging",
            "exit_destroy",
            "vm_lifetime",
            "vm_tables",
            "vm_beside",
        ),
        since="v2.6.32",
        until="v3.6",
        mended="+release_before_unlink +unlinked_once",
    ),
    "H29": Bug(
        "A VM's tables are freed under who walks them, three ways: commits 6c0d706b563a and"
        " 0c428a6a9256 in v4.12, 7e5a672289c9 in v4.13.",
        claims="walks_freed",
        arches=("arm64",),
        scenarios=("exit_aging", "vm_tables"),
        since="v3.11",
        until="v4.13",
        mended="+arm64_pgd_reset_under_lock +arm64_walk_rechecks_pgd +arm64_aging_checks_pgd",
    ),
    "H51": Bug(
        "Who unregisters takes KVM off the list after an exiting mm has: commit 751efd8610d3 in"
        " v3.9.",
        claims="unlinked_twice",
        arches=("x86-shadow",),
        scenarios=("exit_destroy",),
        since="v3.6",
        until="v3.9",
        mended="+unlinked_once",
    ),
    "H37": Bug(
        "remove() returns while the last window still works off the list that the subscription is"
        " on: commit 319561669a59 in v5.18.",
        claims="D11",
        arches=ARCHES,
        scenarios=("hmm_open",),
        since="v5.5",
        until="v5.18",
        mended="+interval_remove_takes_lock",
    ),
    "H3": Bug(
        "Of two who zap, the second finds the SPTE gone and does not wait for the flush of the"
        " first: commit 565f3be21746 in v3.4.  change_pte is one of them, too.",
        claims="I3 I4 I6",
        arches=("x86-shadow",),
        scenarios=("numa_dontneed", "mremap_truncate", "zero_page", "reclaim_mprotect"),
        since="v2.6.32",
        until="v3.4",
        mended="+flush_before_unlock",
    ),
    "H25": Bug(
        "Faults keep their references to the zero page: commit 7df003c85218 in v5.6.",
        claims="I4r",
        arches=("x86-shadow", "arm64"),
        scenarios=("zero_page",),
        since="v2.6.32",
        until="v5.6",
        mended="+zero_page_is_put",
    ),
    "H26": Bug(
        "KVM frees a page of a driver that nobody counts: v4.8 to commit f8be156be163 in v5.13.",
        claims="I4",
        arches=EVERYWHERE,
        scenarios=("pfnmap",),
        since="v4.8",
        until="v5.13",
        mended="+uncounted_pfn_refused",
    ),
    "H38": Bug(
        "A page is pinned while fork write-protects it: commit 57efa1fe5957 in v5.11.",
        claims="I6 I6c",
        arches=EVERYWHERE,
        scenarios=("fork_dma",),
        since="v5.9",
        until="v5.11",
        mended="+fork_write_protect_seq",
    ),
    "H39": Bug(
        "Fork shares a pinned page: commit 70e806e4e645 in v5.9, which leaves H38.",
        claims="I6 I6c",
        arches=("x86-shadow", "arm64"),
        scenarios=("fork_dma",),
        since="v2.6.32",
        until="v5.9",
        mended="+fork_copies_pinned +fork_write_protect_seq",
    ),
    "H40": Bug(
        "mremap() flushes after it has dropped ptl: v3.2 to commit eb66ae030829 in v4.19.",
        claims="I4h",
        arches=("x86-shadow", "arm64"),
        scenarios=("mremap_truncate",),
        since="v3.2",
        until="v4.19",
        mended="+mremap_flushes_under_ptl",
    ),
    "H42": Bug(
        "Two swap in from zram, and one maps what is old: v4.15 to commit 13ddaf26be32 in v6.8.",
        claims="I6",
        arches=EVERYWHERE,
        scenarios=("swapin", "reclaim_thread"),
        since="v4.15",
        until="v6.8",
        mended="+swapin_exclusive",
    ),
    "2ec74c3ef2d8": Bug(
        "Rmap walks drop ptl before invalidate_page, v3.7 to v4.10: for a while the PTE is gone"
        " and the SPTE is not.  No harm by itself: till then the page is locked and referenced.",
        claims="I1 I3",
        arches=("x86-shadow", "arm64"),
        scenarios=RMAP_WALKS,
        since="v3.7",
        until="v4.11",
        mended="-invalidate_page_after_ptl",
    ),
}


def explanations(scenario: str, arch: str, era: str) -> list[str]:
    """The bugs that a program of this kernel may show."""
    key = release_key(era)
    return [
        name
        for name, bug in BUGS.items()
        if arch in bug.arches and scenario in bug.scenarios
        if release_key(bug.since) <= key < release_key(bug.until)
    ]


def numbers(names: list[str]) -> str:
    """Claims as `I1 I4`; those that have no number by name."""
    order = list(CLAIMS)
    return " ".join(CLAIMS[n].number or n for n in sorted(names, key=order.index))


def explored(scenario: str, arch: str, era: str) -> dict[str, Any]:
    """One entry of the file."""
    found = explore(SCENARIOS[scenario], Era(era), arch)
    assert found.complete, f"{scenario} on {arch}, {era}: {found.result.stopped}"
    result, violated = found.result, numbers(list(found.violated()))
    reached = [c.name for c in CLAIMS.values() if c.kind == "sometimes" and found.reached(c.mark)]
    assert result.deadlock is None, f"{scenario} on {arch}, {era}: a deadlock"
    entry: dict[str, Any] = {
        "verdict": "violated" if violated else "holds",
        "states": result.states,
        "edges": result.edges,
        "depth": result.depth,
    }
    if violated:
        entry["violated"] = violated
        entry["bugs"] = " ".join(explanations(scenario, arch, era))
    if reached:
        entry["reached"] = " ".join(reached)
    return entry


def distinct_programs(scenario: str, arch: str) -> dict[str, list[str]]:
    """The kernels that share a program, by its digest."""
    programs: dict[str, list[str]] = {}
    for era in KERNELS:
        if not SCENARIOS[scenario].absent(Era(era), find_arch(arch)):
            compiled, _ = compiled_program(SCENARIOS[scenario], Era(era), arch, MERGED)
            programs.setdefault(compiled.digest, []).append(era)
    return programs


def explored_all(scenario: str, arch: str) -> dict[str, dict[str, Any]]:
    """The entries of a scenario on an architecture, by the kernels that share one."""
    programs = distinct_programs(scenario, arch).values()
    return {" ".join(eras): explored(scenario, arch, eras[0]) for eras in programs}


@cache
def pinned() -> dict[str, Any]:
    return tomllib.loads(PINNED.read_text(encoding="utf-8")) if PINNED.exists() else {}


def entries() -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """(scenario, arch, kernels, entry) of every line of the file."""
    for arch, scenarios in pinned().items():
        for scenario, programs in scenarios.items():
            for eras, entry in programs.items():
                yield scenario, arch, eras, entry


def to_toml(tables: dict[str, Any]) -> str:
    lines = [HEAD]
    for arch in ARCHES:
        for scenario in (s for s in SCENARIOS if s in tables.get(arch, {})):
            lines.append(f"[{arch}.{scenario}]")
            for eras, entry in tables[arch][scenario].items():
                fields = ", ".join(
                    f"{k} = {v}" if isinstance(v, int) else f'{k} = "{v}"' for k, v in entry.items()
                )
                lines.append(f'"{eras}" = {{ {fields} }}')
            lines.append("")
    return "\n".join(lines)


def accept(scenario: str, arch: str, found: dict[str, Any]) -> None:
    """`make golden` runs these tests one after another: each writes its own table."""
    pinned.cache_clear()
    tables = {name: dict(table) for name, table in pinned().items()}
    tables.setdefault(arch, {})[scenario] = found
    PINNED.write_text(to_toml(tables), encoding="utf-8")
    pinned.cache_clear()


def each_program() -> list[Any]:
    return [
        pytest.param(s, a, marks=() if s in QUICK else pytest.mark.slow, id=f"{s}-{a}")
        for s in SCENARIOS
        for a in ARCHES
    ]


@pytest.mark.golden
@pytest.mark.parametrize(("scenario", "arch"), each_program())
def test_exploring_finds_what_is_pinned(scenario: str, arch: str) -> None:
    found = explored_all(scenario, arch)
    if accepting():
        accept(scenario, arch, found)
    assert pinned().get(arch, {}).get(scenario) == found, "if this is right: make golden"


def test_the_file_is_as_it_is_written() -> None:
    assert PINNED.read_text(encoding="utf-8") == to_toml(pinned())
    assert {(s, a) for s, a, _, _ in entries()} == {(s, a) for s in SCENARIOS for a in ARCHES}


def test_every_violation_is_explained() -> None:
    for scenario, arch, eras, entry in entries():
        where = f"{scenario} on {arch}, {eras}"
        assert entry["verdict"] == ("violated" if "violated" in entry else "holds"), where
        violated = set(entry.get("violated", "").split())
        bugs = entry.get("bugs", "").split()
        for era in eras.split():
            assert bugs == explanations(scenario, arch, era) or not violated, where
        explained = {claim for bug in bugs for claim in BUGS[bug].claims.split()}
        assert violated <= explained, f"{where}: {violated - explained} without a reason"


def test_every_explanation_explains_something() -> None:
    for name, bug in BUGS.items():
        shown = [e for s, a, eras, e in entries() if name in e.get("bugs", "").split()]
        violated = {claim for entry in shown for claim in entry["violated"].split()}
        assert violated >= set(bug.claims.split()), name  # more, where a second bug is with it
        assert {s for s, _, _, e in entries() if e in shown} == set(bug.scenarios), name
        assert find_claims(bug.claims.split())


def violations() -> list[Any]:
    return [
        pytest.param(s, a, eras.split()[0], e["bugs"].split(), id=f"{s}-{a}-{eras.split()[0]}")
        for s, a, eras, e in entries()
        if "violated" in e
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("scenario", "arch", "era", "bugs"), violations())
def test_claims_hold_once_the_bug_is_mended(
    scenario: str, arch: str, era: str, bugs: list[str]
) -> None:
    mends = [BUGS[bug].mended for bug in bugs]
    changes = [mend for mend in mends if mend not in MUTANTS]
    mended = " ".join([str(kernel(era)), *changes])
    mutants = [mend for mend in mends if mend in MUTANTS]
    found = outcome_of(SCENARIOS[scenario], mended, arch, *mutants)
    assert found.complete and found.violated == set()


def test_the_newest_kernel_breaks_nothing() -> None:
    newest = [entry for *_, eras, entry in entries() if KERNELS[-1] in eras.split()]
    assert len(newest) == len(SCENARIOS) * len(ARCHES)
    assert {entry["verdict"] for entry in newest} == {"holds"}


def test_pinned_scenarios_are_small_enough_to_explore_often() -> None:
    assert max(entry["states"] for *_, entry in entries()) < 4_000_000


def test_small_programs_are_those_that_two_executors_are_compared_on() -> None:
    small = {scenario for scenario, _, _, entry in entries() if entry["states"] <= STATES_MAX}
    assert small <= set(SMALL)
