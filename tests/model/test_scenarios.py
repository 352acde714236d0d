"""Every scenario is wired as it says, and what it is about does happen in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from mmuwitness.model.claims import Claim
from mmuwitness.model.era import Era, UnknownName
from mmuwitness.model.host import ARCHES, Host, find_arch
from mmuwitness.model.mm.mm_types import NO_VMA, Pte
from mmuwitness.model.scenarios import SCENARIOS, find_scenario
from mmuwitness.model.scenarios.happens import (
    HAPPENS,
    never_a_window_beside,
    never_an_invalid_root,
    never_merged,
    never_migrating,
    never_read,
    never_swapped_out,
    never_two_windows,
    never_written,
    what_happens,
)
from tests.model.mutants import outcome, outcome_for

ENDING = ("fault_once", "fault_once_smp", "merge_once", "unmerge_once", "reclaim_once",
          "migrate_once", "numa_once", "merge_first_once", "cow_once", "lru_once", "drop_once",
          "zero_page_once", "mprotect_once", "permission_once", "log_once",
          "fault_beside_window", "memslot_fault", "cache_once",
          "cache_beside_window")  # fmt: skip
SMALL = (
    "fault_once",
    "fault_beside_window",
    "fault_in_storm",
    "unmerge",
    "uprobe_one",
    "dontneed_one",
    "reclaim_one",
    "migrate_one",
    "ksm_first",
)


def host_of(name: str, era: str = "v6.1", arch: str = "x86-tdp") -> Host:
    return SCENARIOS[name].host(Era(era), find_arch(arch))


each_scenario = pytest.mark.parametrize("name", SCENARIOS)


# Wiring


@each_scenario
def test_bounds_are_those_of_the_host(name: str) -> None:
    scenario, host = SCENARIOS[name], host_of(name)
    said = {
        what: int(count)
        for count, what in re.findall(
            r"(\d+) (vCPU|gfn|page|device|host thread)s?\b", scenario.bounds
        )
    }
    has = {"page": len(host.pages)}
    if host.vcpus:
        has |= {"vCPU": len(host.vcpus), "gfn": len(host.kvm.gfns)}
    if host.devices:
        has["device"] = len(host.devices)
    if host.mm.host_thread:
        has["host thread"] = 1
    assert said == has
    forever = "any number of" in scenario.bounds or name in ENDING
    assert forever or host.mm.host_thread, "an actor that ends, or a bound that is not said"
    assert ("table page" in scenario.bounds) == (len(host.kvm.gfns) > 1)
    assert host.kvm.written_gfns == 0 or "that reads" not in scenario.bounds
    assert ("no VM" in scenario.bounds) == (not host.vcpus)


@each_scenario
def test_pages_are_counted_at_the_start(name: str) -> None:
    host = host_of(name)
    mapped = [host.mm.pte[a] for a in host.mm.addresses]
    tables = mapped[:2] if host.mm.pmd_shared else mapped  # a shared one is counted once
    for page in host.pages:
        ptes = [pte for pte in tables if pte.page is page]
        cached = [a for a in host.mm.addresses if host.mm.cache[a] is page]
        if page is host.mm.zero_page:
            assert (page.refcount, page.mapcount) == (1, 0)
            continue
        assert page.mapcount == len(ptes)
        assert page.refcount == len(ptes) + len(cached) + page.pincount
        assert not (page.ksm and any(pte.write for pte in ptes))
        assert [page.rmap[a] for a in range(len(tables))] == [pte.page is page for pte in tables]
        assert page.refcount == 0 or page.lru
    for addr, pte in enumerate(mapped):
        if host.mm.vm_flags[addr] == NO_VMA:
            assert pte == Pte()
        elif pte.swap:
            assert pte.page is None and host.mm.written[addr] == host.mm.swap[addr]
        else:
            assert pte.present and host.mm.written[addr] == pte.page.content
            assert host.pages.index(pte.page) <= addr


@each_scenario
def test_processes_have_names_of_their_own(name: str) -> None:
    host = host_of(name)
    names = [process.name for process in host.processes]
    assert len(set(names)) == len(names)
    running = 0 if host.mm.exits else len(host.vcpus)
    assert names[:running] == [f"vcpu{n}" for n in range(running)]
    assert running < len(names) <= running + 3


@each_scenario
def test_hosts_share_nothing(name: str) -> None:
    one, two = host_of(name), host_of(name)
    before = two.mm.written[0]
    one.mm.written[0] = 1 if before == 0 else 0
    one.pages[0].content = 1 - one.pages[0].content
    assert two.mm.written[0] == before and two.pages[0].content == 0


def test_memslots_cover_the_gfns() -> None:
    holes = set()
    for name in SCENARIOS:
        kvm = host_of(name).kvm
        covered = [g for s in kvm.memslots for g in range(s.base_gfn, s.base_gfn + s.npages)]
        assert len(covered) == len(set(covered)) and set(covered) <= set(kvm.gfns)
        assert [slot.id for slot in kvm.memslots] == [*range(len(kvm.memslots))]
        assert (kvm.last_memslot is kvm.memslots[-1]) == (set(covered) == set(kvm.gfns))
        if kvm.last_memslot is None:
            holes.add(name)
    assert holes == {"memslot_move", "memslot_mmio"}


def test_scenarios_are_found_by_name() -> None:
    assert find_scenario("ksm") is SCENARIOS["ksm"]
    assert all(name == scenario.name for name, scenario in SCENARIOS.items())
    assert all(s.text.endswith((".", ")")) for s in SCENARIOS.values())
    with pytest.raises(UnknownName, match="did you mean cow_migrate"):
        find_scenario("cow-migrate")


# What a scenario is about: each predicate says that it never happens, and has to be wrong


X86_ONLY = ("pfncache", "private", "cache_")
"""What x86 alone has, all of it since v6.9."""


def happened(name: str, era: str, arch: str, *predicates: Callable[[Any], Any]) -> set[str]:
    """The predicates that are wrong in some state."""
    claims = [Claim(p.__name__, "always", "", function=p) for p in predicates]
    return found_wrong(claims, name, era, arch)


def found_wrong(claims: Sequence[Claim], name: str, era: str, arch: str) -> set[str]:
    found = outcome_for(claims, name, era, arch)
    assert found.complete and not found.deadlock
    return {claim for claim in found.violated if claim != "warns"}


def test_every_scenario_is_about_something() -> None:
    assert set(HAPPENS) == set(SCENARIOS)


@pytest.mark.parametrize(
    ("name", "arch"),
    [
        pytest.param(name, arch, marks=() if name in SMALL else pytest.mark.slow)
        for name in SCENARIOS
        for arch in ("x86-tdp", "arm64")
        if arch == "x86-tdp" or not name.startswith(X86_ONLY)
    ],
)
def test_what_it_is_about_happens(name: str, arch: str) -> None:
    wanted = what_happens(SCENARIOS[name], host_of(name))
    era = "v6.12" if name.startswith(X86_ONLY) else "v6.1"
    assert found_wrong(wanted, name, era, arch) == {claim.name for claim in wanted}


@pytest.mark.parametrize(("name", "era"), [("pfncache", "v5.16"), ("pfncache_hva", "v6.8"),
                                           ("private_both", "v6.7")])  # fmt: skip
def test_a_kernel_without_it_refuses(name: str, era: str) -> None:
    found = outcome(name, era, "x86-tdp")
    assert found.complete and not found.deadlock and found.violated == set()
    assert found.states < outcome(name, "v6.12", "x86-tdp").states / 4


@pytest.mark.parametrize("arch", ARCHES)
def test_a_guest_reads_and_writes_on_every_architecture(arch: str) -> None:
    era = "v7.3" if arch == "s390" else "v6.9"
    wanted = {"never_read", "never_written", "never_swapped_out"}
    assert (
        happened("reclaim_one", era, arch, never_read, never_written, never_swapped_out) == wanted
    )


def test_in_ksm_one_a_window_opens_outside_the_memslot() -> None:
    assert happened("ksm_one", "v6.1", "x86-tdp", never_a_window_beside)


@pytest.mark.parametrize(("era", "arch"), [("v5.13", "x86-tdp"), ("v7.3", "x86-tdp")])
def test_in_memslot_roots_a_root_becomes_invalid(era: str, arch: str) -> None:
    assert happened("memslot_roots", era, arch, never_an_invalid_root)
    assert not happened("memslot_roots", "v5.12", arch, never_an_invalid_root)
    assert not happened("memslot_roots", era, "x86-shadow", never_an_invalid_root)


def test_what_does_not_happen() -> None:
    """Predicates that are right are not found to be wrong."""
    assert happened("uprobe_one", "v6.1", "arm64", never_written, never_merged) == set()
    assert happened("dontneed_one", "v6.1", "arm64", never_migrating, never_swapped_out) == set()
    assert happened("reclaim_one", "v6.1", "x86-tdp", never_two_windows) == set()


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("name", ["unmerge", "reclaim_one"])
def test_the_newest_kernel_is_right_on_every_architecture(name: str, arch: str) -> None:
    found = outcome(name, "v7.3", arch)
    assert found.complete and not found.deadlock
    assert found.violated == found.reached == set()
