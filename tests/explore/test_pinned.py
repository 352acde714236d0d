"""What exploring every shipped scenario finds, pinned in pinned.toml: states, steps, depth, claims
that are violated, marks that are reached.  `make golden` writes the file anew.

A violation has to be explained: by a bug that real kernels of that time had, or by a rule of the
protocol that the kernel breaks knowingly.  That an explanation is the right one is tested, too:
with the bug mended, every claim holds.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
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
from tests.explore.pinned_bugs import ARCHES, BUGS, HPT
from tests.explore.test_agreement import SMALL, STATES_MAX
from tests.model.mutants import MUTANTS, kernel, outcome_of

PINNED = Path(__file__).with_name("pinned.toml")
KERNELS = ("v2.6.32", "v3.7", "v3.11", "v5.10", "v5.13", "v6.1", "v6.9", "v6.12", "v7.3")
"""Some of every time: v3.11 is the first of arm64, v5.10 of the TDP MMU."""
ON_HPT = (
    *("ksm", "ksm_first", "unmerge", "cow_smp", "uprobe_one", "dontneed", "dontneed_one"),
    *("zero_page", "reclaim_one", "migrate_one", "mprotect", "numa_dontneed", "memslot_delete"),
    *("memslot_dontneed", "fault_once", "memslot_fault", "exit_reclaim"),
    *("two_vms_cow", "vm_lifetime", "madv_free", "migrate_dma"),
)
"""What is pinned of an architecture whose faults take no mmu_lock: one or two of each kind."""
PINNED_ON = {**dict.fromkeys(ARCHES, tuple(SCENARIOS)), HPT: ON_HPT}
QUICK = ("ksm_first", "unmerge", "uprobe_one", "dontneed_one", "reclaim_one", "migrate_one",
         "memslot_delete", "hmm_dontneed", "oom_hmm")  # fmt: skip
HEAD = """\
# What exploring finds: for each scenario and architecture one line for each distinct program, under
# the kernels that have it.  Made by `make golden`; why a claim is violated is in pinned_bugs.py.
"""


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
    for arch in PINNED_ON:
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
        for a in PINNED_ON
        if s in PINNED_ON[a]
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
    assert {(s, a) for s, a, _, _ in entries()} == {
        (s, a) for a, scenarios in PINNED_ON.items() for s in scenarios
    }


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
    assert len(newest) == sum(map(len, PINNED_ON.values()))
    assert {entry["verdict"] for entry in newest} == {"holds"}


def test_pinned_scenarios_are_small_enough_to_explore_often() -> None:
    assert max(entry["states"] for *_, entry in entries()) < 4_000_000


def test_small_programs_are_those_that_two_executors_are_compared_on() -> None:
    small = {scenario for scenario, _, _, entry in entries() if entry["states"] <= STATES_MAX}
    assert small <= set(SMALL)
