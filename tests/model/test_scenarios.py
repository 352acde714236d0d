"""Every scenario is wired as it says, and what it is about does happen in it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from mmuwitness.model.claims import Claim
from mmuwitness.model.era import Era, UnknownName
from mmuwitness.model.host import ARCHES, Host, find_arch
from mmuwitness.model.kvm.kvm_host import GONE, INVALID
from mmuwitness.model.mm.mm_types import PMD_HUGE, PMD_TABLE
from mmuwitness.model.scenarios import SCENARIOS, find_scenario
from tests.model.mutants import outcome, outcome_for

ENDING = ("fault_once", "fault_once_smp", "fault_beside_window", "memslot_fault")
TWO_ACTORS = ("unmerge_uprobe", "memslot_delete", "memslot_dontneed", "thp", "collapse_shmem",
              "memslot_roots", "memslot_fault", "memslot_beside_storm")  # fmt: skip
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
        for count, what in re.findall(r"(\d+) (vCPU|gfn|page|host thread)s?\b", scenario.bounds)
    }
    has = {"vCPU": len(host.vcpus), "gfn": len(host.kvm.gfns), "page": len(host.pages)}
    if host.mm.host_thread:
        has["host thread"] = 1
    assert said == has
    forever = "any number of" in scenario.bounds or name in ENDING
    assert forever or host.mm.host_thread, "an actor that ends, or a bound that is not said"
    assert ("in one table page" in scenario.bounds) == (
        len(host.kvm.gfns) > 1 and len(host.kvm.table) == 1
    )
    readers = ("ksm_first", "unmerge_uprobe", "memslot_delete", "memslot_roots")
    assert ("that reads" in scenario.bounds) == (name in readers)


@each_scenario
def test_pages_are_counted_at_the_start(name: str) -> None:
    host = host_of(name)
    mapped = [host.mm.pte[a] for a in host.mm.addresses]
    tables = mapped[:2] if host.mm.pmd_shared else mapped  # a shared one is counted once
    for page in host.pages:
        ptes = [pte for pte in tables if pte.page is page]
        cached = [a for a in host.mm.addresses if host.mm.cache[a] is page]
        assert page.refcount - len(cached) == page.mapcount == len(ptes)
        assert not (page.ksm and any(pte.write for pte in ptes))
        assert [page.rmap[a] for a in range(len(tables))] == [pte.page is page for pte in tables]
        assert page.refcount == 0 or page.lru
    for addr, pte in enumerate(mapped):
        assert pte.present and host.mm.written[addr] == pte.page.content
        assert host.pages.index(pte.page) <= addr


@each_scenario
def test_processes_have_names_of_their_own(name: str) -> None:
    host = host_of(name)
    names = [process.name for process in host.processes]
    assert len(set(names)) == len(names)
    assert names[: len(host.vcpus)] == [f"vcpu{n}" for n in range(len(host.vcpus))]
    actors = 3 if name == "memslot_in_storm" else 2 if name in TWO_ACTORS else 1
    assert len(names) == len(host.vcpus) + actors


@each_scenario
def test_hosts_share_nothing(name: str) -> None:
    one, two = host_of(name), host_of(name)
    one.mm.written[0] = 1 - one.mm.written[0]
    one.pages[0].content = 1 - one.pages[0].content
    assert two.mm.written[0] == two.pages[0].content == 0


def test_memslots_cover_the_gfns() -> None:
    for name in SCENARIOS:
        kvm = host_of(name).kvm
        assert [gfn for s in kvm.memslots for gfn in range(s.base_gfn, s.base_gfn + s.npages)] == [
            *kvm.gfns
        ]
        assert all(slot.userspace_addr == slot.base_gfn for slot in kvm.memslots)
        assert kvm.updates_memslots == name.startswith("memslot_")


def test_scenarios_are_found_by_name() -> None:
    assert find_scenario("ksm") is SCENARIOS["ksm"]
    assert all(name == scenario.name for name, scenario in SCENARIOS.items())
    assert all(s.text.endswith((".", ")")) for s in SCENARIOS.values())
    with pytest.raises(UnknownName, match="did you mean cow_migrate"):
        find_scenario("cow-migrate")


# What a scenario is about: each predicate says that it never happens, and has to be wrong


def never_read(host):
    return not host.vcpus[0].tlb[0].present


def never_written(host):
    return not host.vcpus[0].tlb[0].write


def never_merged(host):
    pte = host.mm.pte[0]
    return not pte.present or not pte.page.ksm


def never_of_its_own(host):
    pte = host.mm.pte[0]
    return not pte.present or pte.page.ksm


def never_replaced(host):
    pte = host.mm.pte[0]
    return not pte.present or pte.page is host.pages[0]


def never_both_of_their_own(host):
    one = host.mm.pte[0]
    two = host.mm.pte[1]
    return not one.present or not two.present or one.page.ksm or two.page.ksm


def never_shared(host):
    pte = host.mm.pte[0]
    return not pte.present or not pte.page.ksm or pte.page.mapcount < 2


def never_none(host):
    pte = host.mm.pte[0]
    return pte.present or pte.migration or pte.swap


def never_migrating(host):
    return not host.mm.pte[0].migration


def never_a_new_page_migrating(host):
    pte = host.mm.pte[0]
    return not pte.migration or pte.page is host.pages[0]


def never_swapped_out(host):
    return not host.mm.pte[0].swap


def never_two_windows(host):
    return host.mm.open_windows[0] < 2


def never_breakpoint(host):
    pte = host.mm.pte[0]
    return not pte.present or pte.write or pte.page is host.pages[0]


def never_split(host):
    return host.mm.pmd[0] != PMD_TABLE or not host.mm.pte[0].present


def never_collapsed(host):
    return host.mm.pmd[0] != PMD_HUGE or host.mm.pte[0].page is host.pages[0]


def never_huge_leaf(host):
    return not host.kvm.huge[0]


def never_small_leaf(host):
    return host.kvm.huge[0] or not host.kvm.spte[0].present


def never_out_of_the_cache(host):
    return host.mm.cache[0] is not None


def never_dropped_with_the_table(host):
    pte = host.mm.pte[0]
    page = host.pages[0]
    return pte.present or page.refcount != 1 or page.mapcount != 0 or host.mm.cache[0] is not page


def never_unshared(host):
    return host.mm.pmd_shared


def never_shared_again(host):
    return not host.mm.pmd_shared or host.mm.pte[0].page is host.pages[0]


def never_being_deleted(host):
    return host.kvm.active_memslots != INVALID


def never_without_memslot(host):
    return host.kvm.active_memslots != GONE


def never_dropped_between(host):
    """Under a window mmu_lock is free, and one leaf is gone, the other not."""
    if host.mm.invalidating == 0 or host.mm.open_windows[0] != 0:
        return True
    return host.kvm.spte[0].present or not host.kvm.spte[1].present


def never_none_beside(host):
    return host.mm.pte[1].present


def never_an_invalid_root(host):
    return not host.kvm.invalid_spte[1].present


def never_a_window_outside(host):
    return host.mm.open_windows[1] == 0


def never_faulting(host):
    return not host.vcpus[0].faulting


MERGES = (never_merged, never_of_its_own, never_replaced)
HAPPENS: dict[str, tuple[Callable[[Any], Any], ...]] = {
    "ksm": MERGES,
    "ksm_alone": MERGES,
    "ksm_both": MERGES,
    "ksm_one": MERGES,
    "ksm_first": (never_merged, never_shared),
    "cow": (never_of_its_own, never_both_of_their_own, never_two_windows),
    "cow_smp": (never_of_its_own, never_replaced),
    "cow_migrate": (never_of_its_own, never_a_new_page_migrating, never_two_windows),
    "cow_reclaim": (never_of_its_own, never_swapped_out, never_two_windows),
    "unmerge": (never_of_its_own, never_both_of_their_own),
    "unmerge_uprobe": (never_of_its_own, never_both_of_their_own),
    "uprobe": (never_breakpoint, never_replaced),
    "uprobe_one": (never_breakpoint, never_replaced),
    "dontneed": (never_none, never_replaced),
    "dontneed_one": (never_none, never_replaced),
    "dontneed_smp": (never_none, never_replaced),
    "reclaim": (never_swapped_out, never_replaced),
    "reclaim_one": (never_swapped_out, never_replaced),
    "migrate": (never_migrating, never_replaced),
    "migrate_one": (never_migrating, never_replaced),
    "memslot_delete": (never_merged, never_replaced, never_being_deleted, never_without_memslot),
    "dontneed_both": (never_none, never_replaced, never_dropped_between),
    "memslot_roots": (never_none_beside, never_being_deleted, never_without_memslot),
    "memslot_dontneed": (never_none, never_replaced, never_being_deleted, never_without_memslot),
    "thp": (never_none, never_split, never_collapsed, never_huge_leaf, never_small_leaf),
    "mmap_hugetlb": (never_none, never_replaced, never_huge_leaf, never_small_leaf),
    "collapse_shmem": (never_none, never_out_of_the_cache, never_dropped_with_the_table),
    "fault_once": (never_none, never_replaced, never_faulting),
    "fault_once_smp": (never_none, never_replaced, never_faulting),
    "fault_beside_window": (never_a_window_outside, never_faulting),
    "fault_in_storm": (never_none_beside, never_faulting),
    "memslot_in_storm": (never_two_windows, never_being_deleted, never_without_memslot),
    "memslot_fault": (never_being_deleted, never_without_memslot, never_faulting),
    "memslot_beside_storm": (never_none_beside, never_being_deleted, never_faulting),
    "hugetlb_shared": (never_migrating, never_replaced, never_unshared, never_shared_again),
}


def happened(name: str, era: str, arch: str, *predicates: Callable[[Any], Any]) -> set[str]:
    """The predicates that are wrong in some state."""
    claims = [Claim(p.__name__, "always", "", function=p) for p in predicates]
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
    ],
)
def test_what_it_is_about_happens(name: str, arch: str) -> None:
    guest = (never_read, never_written)[: 1 + (host_of(name).kvm.written_gfns > 0)]
    if name == "memslot_in_storm":
        guest = ()  # it is halted
    wanted = (*HAPPENS[name], *guest)
    assert happened(name, "v6.1", arch, *wanted) == {p.__name__ for p in wanted}


@pytest.mark.parametrize("arch", ARCHES)
def test_a_guest_reads_and_writes_on_every_architecture(arch: str) -> None:
    era = "v7.3" if arch == "s390" else "v6.9"
    wanted = {"never_read", "never_written", "never_swapped_out"}
    assert (
        happened("reclaim_one", era, arch, never_read, never_written, never_swapped_out) == wanted
    )


def test_in_ksm_one_a_window_opens_outside_the_memslot() -> None:
    assert happened("ksm_one", "v6.1", "x86-tdp", never_a_window_outside)


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
