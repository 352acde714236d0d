"""Every claim holds of the model, and breaks when the model is mutated where it matters.

A claim that no mutant breaks would be worth nothing; a mutant that breaks nothing would be a step
of the protocol that nobody needs.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from mmuwitness.explore.explorer import explore
from mmuwitness.explore.programs import fold_scenario
from mmuwitness.explore.replay import Replay
from mmuwitness.model.bugs.bug import find_bug
from mmuwitness.model.claims import CLAIMS, always_claims, find_claims
from mmuwitness.model.era import UnknownName
from mmuwitness.model.host import find_arch
from mmuwitness.model.kvm.kvm_main import CHANGES
from mmuwitness.model.mm import ksm, memory
from mmuwitness.model.mm.memory import handle_mm_fault, host_access
from mmuwitness.model.primitives import choose, read_lock
from mmuwitness.model.scenarios import SCENARIOS, find_scenario
from mmuwitness.model.scenarios.scenario import (
    Actor,
    Scenario,
    private_beside_ksm_page,
    two_private_pages,
)
from tests.model.dirty_log_mutants import DIRTY_LOG_BREAKS, DIRTY_LOG_HARMLESS
from tests.model.mutants import MUTANTS, kernel, outcome, outcome_for, outcome_of
from tests.model.mutants_hpt import BREAKS_HPT, HARMLESS_HPT
from tests.model.mutants_kvm import BREAKS_KVM
from tests.model.mutants_mm import BREAKS_MM, HARMLESS_MM
from tests.model.subscriber_mutants import SUBSCRIBER_BREAKS, SUBSCRIBER_HARMLESS
from tests.model.vm_mutants import VM_BREAKS, VM_HARMLESS

I1, I2, I3 = "coherent", "absent_in_window", "no_stale_tlb_entry"
I4, I5, I6 = "freed_page_unmapped", "shared_page_read_only", "no_lost_write"
I8, I9, I13 = "windows_balanced", "seq_before_count", "change_pte_alone"
I11, OBSOLETE = "deleted_slot_unmapped", "obsolete_root_unmapped"
STALE = {I1, I3, I4, I6}
"""What a stale SPTE breaks: the guest goes on with a page that is not its own any more."""

GUARD = "change_pte wants its window to be the only one"


# Scenarios that the tests add


def ksmd_once(mm):
    ksm.ksm_do_scan(mm, 0)


def writer(mm):
    """A thread of the VMM that touches the first page only."""
    while True:
        write = choose(2) == 1
        if not host_access(mm, 0, write):
            with read_lock(mm.mmap_lock):
                handle_mm_fault(mm, 0, write)


ADDED = {
    each.name: each
    for each in (
        Scenario(
            "balloon_beside",
            "The VMM drops a guest page, and a page that is in no memslot.",
            "1 vCPU, 1 gfn, 3 pages, any number of calls",
            two_private_pages,
            lambda host: [Actor("madvise", memory.madvise_dontneed, (host.mm,))],
            {"slot_pages": 1, "pages": 3},
        ),
        Scenario(
            "ksm_writer",
            "ksmd merges a page while a thread of the VMM writes it through the host's TLB.",
            "1 vCPU that reads, 1 host thread, 1 gfn, 3 pages, one KSM merge",
            private_beside_ksm_page,
            lambda host: [
                Actor("ksmd", ksmd_once, (host.mm,)),
                Actor("vmm", writer, (host.mm,)),
            ],
            {"pages": 3, "slot_pages": 1, "host_thread": True, "read_gfns": 1, "written_gfns": 0},
        ),
        find_bug("H3").scenario,  # two_balloons
        find_bug("H6").scenario,  # memslot_once
        find_bug("H43").scenario,  # dirty_log_shadow
    )
}


def run(scenario: str, era: str, arch: str, *mutants: str):
    return outcome_of(ADDED.get(scenario) or find_scenario(scenario), era, arch, *mutants)


# Claims of the kind `always`

BREAKS = [
    # what is wrong: a mutant or a changed feature; scenario, kernel, arch; the claims that break
    ("faults never retry", "dontneed_one", "v6.12", "arm64", {*STALE, I2}),
    ("faults never retry", "cow_smp", "v6.1", "x86-tdp", STALE),
    ("faults look at the count alone", "dontneed_one", "v6.1", "x86-tdp", STALE),
    ("faults look at the sequence alone", "dontneed_one", "v6.12", "x86-shadow", {*STALE, I2}),
    ("faults map all writable", "ksm_first", "v6.1", "x86-tdp", {I1, I3, I5}),
    ("start() does not flush", "dontneed_one", "v6.1", "x86-tdp", {I3, I4, I6}),
    ("start() does not zap", "dontneed_one", "v6.1", "x86-tdp", {*STALE, I2}),
    ("start() does not zap", "cow_smp", "v6.12", "arm64", {*STALE, I2, I5}),
    ("start() does not count", "cow_smp", "v6.1", "x86-tdp", {*STALE, I8}),
    ("end() keeps the count up", "dontneed_one", "v6.1", "x86-tdp", {I8}),
    ("end() keeps the count up", "cow_smp", "v6.1", "arm64", {I8}),
    ("end() does not bump", "cow_smp", "v6.1", "x86-tdp", {*STALE, I9}),
    ("end() bumps in a critical section of its own", "dontneed_one", "v6.1", "x86-tdp",
     {*STALE, I9}),
    ("end() counts where start() did not", "balloon_beside", "v6.1", "x86-tdp", {*STALE, I8}),
    ("the range is that of the last window", "cow", "v6.1", "x86-tdp", STALE),
    ("the range is that of the last window", "cow", "v6.9", "x86-shadow", STALE),
    ("a zap leaves TLBs alone", "dontneed_one", "v6.1", "arm64", {I3, I4, I6}),
    ("a zap leaves TLBs alone", "dontneed_one", "v6.1", "powerpc-hv", {I3, I4, I6}),
    ("rmap walks open no window", "reclaim_one", "v6.1", "x86-tdp", STALE),
    ("migration copies a page before it is unmapped", "migrate_one", "v6.1", "x86-tdp", {I6}),
    ("the page is freed before start()", "dontneed_one", "v6.1", "x86-tdp", STALE),
    ("COW puts the old page before it tells KVM", "cow_smp", "v2.6.32 +change_pte_before_set_pte",
     "x86-shadow", {I4}),
    ("KSM write-protects without a window", "ksm", "v6.1", "x86-tdp", {I1, I3, I5, I6}),
    ("KSM write-protects without a flush", "ksm_writer", "v6.1", "x86-tdp", {I6}),
    ("KSM does not compare the PTE again", "ksm", "v6.1", "x86-tdp", {I6}),
    ("change_pte keeps an SPTE writable", "ksm_first", "v2.6.32", "x86-shadow", {I1, I3, I5}),
    # R2: what was proposed for x86 breaks the rule even without the race, and breaks all with it
    ("change_pte installs where nothing was", "ksm_alone", "v6.1", "x86-tdp", {I13}),
    ("change_pte installs where nothing was", "cow_migrate", "v6.1", "x86-tdp",
     {I1, I2, I3, I4, I13}),
    # H7: the range check of v5.12 needs the guard that came with it
    ("-prefetch_guard", "dontneed", "v6.1", "x86-shadow", STALE),
    ("-prefetch_guard", "reclaim", "v6.1", "x86-shadow", {*STALE, I2}),
    # H3: whoever finds the SPTE gone need not flush, if those who zapped it have
    ("-flush_before_unlock", "two_balloons", "v6.1", "x86-tdp", {I3, I4, I6}),
    ("-flush_before_unlock", "two_balloons", "v3.4", "x86-shadow", {I3, I4, I6}),
    # H6: what start() counted stays, or goes below 0
    ("a memslot update does not wait for windows", "memslot_once", "v6.9", "x86-tdp",
     {*STALE, I8}),
    ("a memslot update does not wait for windows", "memslot_once", "v6.12", "arm64",
     {*STALE, I2, I8}),
    ("a memslot update does not wait for readers", "memslot_delete", "v6.9", "x86-tdp",
     {I1, I3, I4, I11}),
    ("a memslot update does not wait for readers", "memslot_dontneed", "v6.12", "arm64",
     {*STALE, I2, I11}),
    ("a deleted memslot is not flushed", "memslot_delete", "v6.9", "x86-tdp", {I1, I3, I4, I11}),
    ("a deleted memslot is not flushed", "memslot_dontneed", "v6.12", "arm64", {*STALE, I2, I11}),
    ("a deleted memslot is zapped and TLBs are left alone", "memslot_delete", "v6.9", "x86-tdp",
     {I3, I4, I11}),
    ("windows pass over a memslot that is being deleted", "memslot_dontneed", "v6.12", "x86-tdp",
     {*STALE, I2}),
    ("a memslot is deleted in one step", "memslot_dontneed", "v6.12", "x86-tdp",
     {*STALE, I2, I11}),
    # H8, H9, H11: the root that a memslot update leaves
    ("-x86_tdp_unmaps_invalid_roots", "memslot_roots", "v6.1", "x86-tdp", {I4}),
    ("-x86_tdp_iter_restarts_in_place", "memslot_roots", "v6.1", "x86-tdp", {OBSOLETE}),
    ("-x86_fault_checks_root", "memslot_roots", "v6.1", "x86-tdp", {OBSOLETE}),
    *BREAKS_HPT,
    *BREAKS_KVM,
    # H2, on an architecture whose change_pte installs
    ("-change_pte_skips_invalid_slot", "memslot_delete", "v6.9", "arm64", {I1, I3, I4, I11}),
    *DIRTY_LOG_BREAKS,
    # without windows change_pte finds that none is open, and returns
    ("-change_pte_bracketed", "ksm", "v6.1", "x86-tdp", {I1, I3, I4, I5, I6, "warns"}),
    ("-change_pte_bracketed -set_pte_at_notify", "ksm", "v6.1", "x86-tdp", {I1, I3, I4, I5, I6}),
    ("-change_pte_bracketed -set_pte_at_notify", "ksm_alone", "v6.1", "arm64",
     {I1, I3, I4, I5, I6}),
    *SUBSCRIBER_BREAKS,
    *VM_BREAKS,
    *((*row, {c.name for c in find_claims(broken.split())}) for *row, broken in BREAKS_MM),
]  # fmt: skip

HARMLESS = [
    # what is wrong and does no harm there, and why
    ("the page is freed inside the window", "dontneed_one", "v6.1", "x86-tdp"),  # start() zapped
    ("COW puts the old page before it tells KVM", "cow_smp", "v6.1", "x86-tdp"),  # as well
    ("end() lowers the count first", "dontneed_one", "v6.1", "x86-tdp"),  # under mmu_lock
    *HARMLESS_HPT,
    ("KSM write-protects without a flush", "ksm", "v6.1", "x86-tdp"),  # no thread of the VMM
    ("end() counts where start() did not", "dontneed_one", "v6.1", "x86-tdp"),  # all in a memslot
    ("the range is that of the last window", "dontneed", "v6.1", "x86-tdp"),  # one window
    ("-prefetch_guard", "dontneed_one", "v6.1", "x86-shadow"),  # no neighbour
    *HARMLESS_MM,
    ("-flush_before_unlock", "dontneed_one", "v6.1", "x86-tdp"),  # one zapper
    ("-set_pte_at_notify", "ksm", "v6.1", "x86-tdp"),  # what v6.10 did
    ("-set_pte_at_notify", "cow_smp", "v6.1", "arm64"),
    ("change_pte looks for a leaf first", "cow_smp", "v6.1", "arm64"),
    # start() and end() take mmu_lock in any case
    ("a memslot update does not wait for windows", "memslot_once", "v6.1 -invalidate_elides_lock",
     "x86-tdp"),
    ("-change_pte_skips_invalid_slot", "memslot_delete", "v6.9", "x86-shadow"),  # nothing there
    *DIRTY_LOG_HARMLESS,
    # both sets say the same of what is mapped
    ("a memslot update does not wait for windows", "memslot_flags", "v6.12", "x86-tdp"),
    ("a memslot update does not wait for readers", "memslot_flags", "v6.12", "x86-tdp"),
    ("-gpc_invalidate_seq", "pfncache", "v7.3", "x86-tdp"),  # its window hits a memslot
    *SUBSCRIBER_HARMLESS,
    *VM_HARMLESS,
]  # fmt: skip


def mutated(what: str, scenario: str, era: str, arch: str):
    """The outcome with a mutant, or with features that are changed."""
    if what in MUTANTS:
        return run(scenario, era, arch, what)
    return run(scenario, f"{era} {what}", arch)


def assert_all_hold(scenario: str, era: str, arch: str, *mutants: str) -> None:
    found = run(scenario, era, arch, *mutants)
    assert found.complete and not found.deadlock
    assert found.violated == set()


def row_id(value: object) -> str | None:
    return value if isinstance(value, str) else ""


@pytest.mark.slow
@pytest.mark.parametrize(("what", "scenario", "era", "arch", "broken"), BREAKS, ids=row_id)
def test_a_mutant_breaks_what_it_should(
    what: str, scenario: str, era: str, arch: str, broken: set[str]
) -> None:
    assert_all_hold(scenario, era, arch)
    found = mutated(what, scenario, era, arch)
    assert found.complete
    assert found.violated == broken


@pytest.mark.slow
@pytest.mark.parametrize(("what", "scenario", "era", "arch"), HARMLESS, ids=row_id)
def test_a_mutant_does_no_harm_there(what: str, scenario: str, era: str, arch: str) -> None:
    assert_all_hold(scenario, era, arch)
    found = mutated(what, scenario, era, arch)
    assert found.complete
    assert found.violated == set()


def test_every_claim_is_broken_by_something() -> None:
    broken = {claim for *_, claims in BREAKS for claim in claims}
    assert broken == {c.name for c in CLAIMS.values() if c.kind != "sometimes"}


def test_every_mutant_is_used() -> None:
    used = {row[0] for row in (*BREAKS, *HARMLESS)}
    used |= {row[0] for row in (*REACHED, *NEVER_REACHED)}
    assert set(MUTANTS) - used == {GUARD}  # which mends


def test_start_without_a_zap_is_what_change_pte_was_for() -> None:
    # On x86 the callback changes what start() left, so the SPTE is never stale, but two windows
    # may be open then.
    found = run("ksm", "v6.1", "x86-tdp", "start() does not zap")
    assert found.violated == {I13}
    assert found.reached == {"changes", "zaps", "flushes"}


def test_seq_before_count_sees_the_order_where_it_is_read_under_the_lock() -> None:
    # Nobody but a reader without mmu_lock can tell: the claim waits for the lock, this one not.
    claims = [replace(CLAIMS[I9], locks=())]
    what = ("dontneed_one", "v6.1", "x86-tdp")
    assert outcome_for(claims, *what).violated == set()
    assert outcome_for(claims, *what, "end() lowers the count first").violated == {I9}


# Claims of the kind `sometimes`: by a mutant, or "" for the model as it is

REACHED = [
    ("", "ksm", "v2.6.32", "x86-shadow", {"changes", "zaps", "flushes"}),
    ("", "unmerge", "v2.6.32", "x86-shadow", {"zaps", "flushes"}),
    ("", "uprobe_one", "v3.6", "x86-shadow", {"changes", "flushes"}),
    ("", "unmerge", "v3.6", "powerpc-hpt", {"zaps"}),
    ("", "ksm", "v6.1", "arm64", {"installs_read_only"}),
    ("", "uprobe", "v6.1", "riscv", {"installs_read_only", "flushes"}),
    ("", "cow", "v6.1", "mips", {"installs_writable"}),
    ("", "ksm_alone", "v6.1", "mips", {"installs_writable", "installs_read_only"}),
    ("", "unmerge", "v6.1", "powerpc-e500", {"flushes"}),
    ("change_pte installs where nothing was", "ksm_alone", "v6.1", "x86-tdp",
     {"installs_read_only", "flushes"}),
    ("change_pte installs read-only", "cow", "v6.1", "mips", {"installs_read_only"}),
    ("", "memslot_delete", "v6.3", "arm64", {"installs_read_only", "in_invalid_slot"}),
    ("", "memslot_delete", "v6.4", "arm64", {"installs_read_only"}),
    ("", "memslot_delete", "v6.1.35", "x86-tdp", {"in_invalid_slot"}),
]  # fmt: skip

NEVER_REACHED = [
    ("", "ksm", "v3.7", "x86-shadow"),
    ("", "ksm", "v6.9", "x86-tdp"),
    ("", "ksm_alone", "v6.1", "arm64"),
    ("", "ksm", "v6.12", "arm64"),
    ("", "unmerge", "v3.7", "powerpc-hpt"),
    ("", "unmerge", "v6.9", "loongarch"),
    ("", "memslot_delete", "v6.1.36", "x86-tdp"),
    ("change_pte looks for a leaf first", "ksm", "v6.1", "arm64"),
    ("change_pte looks for a leaf first", "uprobe", "v6.1", "riscv"),
]


@pytest.mark.parametrize(("what", "scenario", "era", "arch", "reached"), REACHED, ids=row_id)
def test_change_pte_does_this(
    what: str, scenario: str, era: str, arch: str, reached: set[str]
) -> None:
    found = run(scenario, era, arch, *filter(None, [what]))
    assert found.complete
    assert found.reached == reached


@pytest.mark.parametrize(("what", "scenario", "era", "arch"), NEVER_REACHED, ids=row_id)
def test_change_pte_does_nothing(what: str, scenario: str, era: str, arch: str) -> None:
    found = run(scenario, era, arch, *filter(None, [what]))
    assert found.complete
    assert found.reached == set()


def test_every_sometimes_claim_is_reached_somewhere() -> None:
    reached = {claim for *_, claims in REACHED for claim in claims}
    assert reached == {c.name for c in CLAIMS.values() if c.kind == "sometimes"}


# The WARN_ON


@pytest.mark.parametrize("arch", ["x86-shadow", "arm64", "powerpc-hv"])
@pytest.mark.parametrize(
    "era", ["v6.1", *(pytest.param(e, marks=pytest.mark.slow) for e in ("v5.13", "v5.15", "v6.9"))]
)
def test_the_warning_is_unreachable_while_calls_are_bracketed(era: str, arch: str) -> None:
    for scenario in ("unmerge", "uprobe_one"):
        bracketed = outcome(scenario, era, arch)
        assert bracketed.complete and "warns" not in bracketed.violated
        assert "warns" in outcome(scenario, f"{era} -change_pte_bracketed", arch).violated


def test_kernels_before_the_warning_have_none() -> None:
    assert "warns" not in outcome("unmerge", "v5.12 -change_pte_bracketed", "x86-tdp").violated
    assert "warns" not in outcome("unmerge", "v6.10 -change_pte_bracketed", "x86-tdp").violated


# What kernels were, and are


@pytest.mark.parametrize("era", ["v2.6.32", "v3.6"])
def test_h1_a_host_write_is_not_seen_by_the_guest(era: str) -> None:
    """48af0d7cb3c8: the new PTE was there, writable, before the secondary MMU knew of it."""
    assert outcome("cow_smp", era, "x86-shadow").violated == {I6}


def test_h1_either_of_two_changes_in_v3_7_mends_it() -> None:
    both = ("-change_pte_before_set_pte", "-change_pte_bracketed")
    for kept in both:
        (undone,) = set(both) - {kept}
        assert_all_hold("cow_smp", f"v3.7 {undone}", "x86-shadow")
    assert_all_hold("cow_smp", "v3.7", "x86-shadow")
    assert outcome("cow_smp", f"v3.7 {' '.join(both)}", "x86-shadow").violated == {I6}


def test_in_v2_6_32_the_guest_reads_on_without_an_exit() -> None:
    """What change_pte was made for: after the merge the guest reads the KSM page at once."""
    scenario, era, arch = find_scenario("ksm"), kernel("v2.6.32"), "x86-shadow"
    found = explore(scenario, era, arch)
    schedule = found.schedule_to_mark(CHANGES)
    replay = Replay(fold_scenario(scenario, era, arch), lambda: scenario.host(era, find_arch(arch)))
    exits = []
    for pid, choice in schedule.steps:
        assert replay.step(pid, choice)
        exits += [name for _, name, _ in replay.traced if name == "kvm_page_fault"]
    assert replay.covered >= {CHANGES}
    assert exits == ["kvm_page_fault"]  # of the guest's first access, before the merge
    host = replay.host
    vcpu, spte = host.vcpus[0], host.kvm.spte[0]
    assert spte.present and not vcpu.tlb[0].present
    assert replay.processes[0].choices == 2  # the guest is about to choose what to access
    assert replay.step(0, 0)  # it reads gfn 0
    assert vcpu.tlb[0] == spte and replay.traced == []
    assert replay.processes[0].choices == 2  # it did: no page fault is being handled


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["cow_migrate", "cow_reclaim"])
@pytest.mark.parametrize(("era", "arch"), [("v6.1", "arm64"), ("v6.9", "arm64"), ("v6.1", "mips"),
                                           ("v6.1", "riscv")])  # fmt: skip
def test_r1_a_window_of_someone_else_is_open(scenario: str, era: str, arch: str) -> None:
    """A leaf that change_pte installs survives the window of a second unmapper, whose start() came
    before: the guest goes on to use a page that was moved away or reclaimed."""
    found = outcome(scenario, era, arch)
    assert found.complete and found.violated >= {I1, I2, I3, I4, I13}
    assert_all_hold(scenario, era, arch, GUARD)
    assert outcome(scenario, era, arch, GUARD).reached == found.reached


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["cow_migrate", "cow_reclaim"])
@pytest.mark.parametrize(
    ("era", "arch"),
    [
        ("v6.1", "x86-tdp"),  # nothing is installed
        ("v6.1", "x86-shadow"),
        ("v6.1", "powerpc-hv"),
        ("v6.9", "loongarch"),
        ("v6.10", "arm64"),  # the callback is gone
        ("v6.10", "riscv"),
    ],
)
def test_r1_is_absent_where_change_pte_installs_nothing(scenario: str, era: str, arch: str) -> None:
    assert_all_hold(scenario, era, arch)


@pytest.mark.slow
def test_r2_wants_the_same_guard() -> None:
    proposal = "change_pte installs where nothing was"
    for scenario in ("ksm_alone", "cow_migrate", "cow_reclaim"):
        assert I13 in outcome(scenario, "v6.1", "x86-tdp", proposal).violated
        assert_all_hold(scenario, "v6.1", "x86-tdp", proposal, GUARD)
        assert "installs_read_only" in outcome(scenario, "v6.1", "x86-tdp", proposal, GUARD).reached


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["reclaim_one", "migrate_one", "cow_reclaim"])
@pytest.mark.parametrize(("era", "arch"), [("v3.7", "x86-shadow"), ("v4.10", "arm64")])
def test_rmap_walks_once_told_kvm_late(scenario: str, era: str, arch: str) -> None:
    """2ec74c3ef2d8 in v3.7 to c7ab0d2fdc84 in v4.11: invalidate_page comes when ptl is free
    already.  For a while the SPTE maps what the PTE does not, but the page is locked and referenced
    until then: nothing is lost, no free page is mapped."""
    assert outcome(scenario, era, arch).violated == {I1, I3}
    assert_all_hold(scenario, f"{era} -invalidate_page_after_ptl", arch)
    assert_all_hold(scenario, "v3.6" if era == "v3.7" else "v4.11", arch)


@pytest.mark.parametrize("arch", ["arm64", "riscv", "mips"])
def test_h2_change_pte_maps_into_a_memslot_that_is_being_deleted(arch: str) -> None:
    """2230f9e1171a: the leaf is there when the memslot is gone, and no window finds it any more."""
    found = outcome("memslot_delete", "v6.3", arch)
    assert found.violated == {I1, I3, I4, I11}
    assert "in_invalid_slot" in found.reached
    assert_all_hold("memslot_delete", "v6.4", arch)
    assert_all_hold("memslot_delete", "v6.3.10", arch)
    assert_all_hold("memslot_delete", "v6.10", arch)


@pytest.mark.parametrize("arch", ["x86-tdp", "x86-shadow", "powerpc-hv"])
def test_h2_is_absent_where_change_pte_installs_nothing(arch: str) -> None:
    assert_all_hold("memslot_delete", "v6.3", arch)
    assert outcome("memslot_delete", "v6.3", arch).reached == {"in_invalid_slot"}


@pytest.mark.parametrize("arch", ["powerpc-pr", "powerpc-e500"])
def test_some_flush_nothing_when_a_memslot_is_deleted(arch: str) -> None:
    """Their kvmppc_core_flush_memslot is empty, to this day."""
    assert outcome("memslot_delete", "v7.3", arch).violated == {I1, I2, I3, I4, I11}


@pytest.mark.parametrize("scenario", ["memslot_delete", "memslot_dontneed"])
def test_memslots_were_right_before_srcu(scenario: str) -> None:
    """Until v2.6.34 slots_lock kept faults away, and there was no INVALID memslot."""
    assert_all_hold(scenario, "v2.6.33", "x86-shadow")
    assert "in_invalid_slot" not in outcome(scenario, "v2.6.33", "x86-shadow").reached


# Finding claims


def test_claims_are_found_by_name_and_number() -> None:
    assert [c.name for c in find_claims(["I4", "warns", "coherent"])] == [I4, "warns", I1]
    with pytest.raises(UnknownName, match="did you mean coherent"):
        find_claims(["coherence"])


def test_claims_say_what_they_claim() -> None:
    host = SCENARIOS["hmm_guest"].host(kernel("v6.1"), find_arch("arm64"))
    numbers = [c.number for c in always_claims(host) if c.number]
    assert " ".join(numbers) == "I1 I2 I3 I4 I5 I6 I8 I9 I11 I13 D1 D2 D4 D5 D8"
    for claim in CLAIMS.values():
        assert claim.text.endswith(".") and "\n" not in claim.text
        assert bool(claim.mark) == (claim.kind != "always") == (claim.function is None)
        assert len(claim.needs(host)) >= len(claim.locks)
