"""The lines of the protocol changed, one change at a time: which changes do the shipped claims
and scenarios notice?  `make survey` prints each change and who noticed it, and the share; of those
that nobody noticed, `survivors.toml` says why.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from types import FunctionType

from mmuwitness.explore.coverage import cover_lines
from mmuwitness.explore.mutants import BOUNDED, Found, Judged, Place, judge_all, place
from mmuwitness.explore.programs import sources_digest
from mmuwitness.model.bugs.bug import corpus
from mmuwitness.model.era import Era
from mmuwitness.model.functions import functions
from mmuwitness.model.host import find_arch
from mmuwitness.model.scenarios import SCENARIOS
from mmuwitness.model.scenarios.scenario import Scenario
from mmuwitness.process.disk_cache import cached
from mmuwitness.process.mutate import OBSERVER, Mutation, mutations, not_of_a_kernel
from tests.model.survivors import reasons

STATES_MAX = 300_000
EACH = 4

SURVEYED = (
    *("kvm.kvm_main", "kvm.memslots"),
    *("mm.mmu_notifier", "mm.ksm", "mm.gup", "mm.memory", "mm.rmap", "mm.migrate"),
    *("arch.x86_tdp", "arch.x86", "arch.arm64", "lib.srcutree"),
)
"""The modules whose functions are changed: the protocol, and what every scenario goes through."""

KERNELS = (
    ("x86-tdp", "v7.3"),
    ("arm64", "v6.9"),
    ("x86-shadow", "v5.10"),
    ("x86-shadow", "v3.6"),
    ("riscv", "v6.9"),
    ("powerpc-hpt", "v6.9"),
    ("x86-shadow", "v4.12"),
)
"""A change is asked in so many (EACH) scenarios that run it, each on the first of these that does;
in half as many on others, and of those that ask what happens in the end; and as is said below."""


MADE_FOR = {
    "write_protect_page": "ksm_dma",
    "set_pte_at_notify": "H1-fixed uprobe_one",
    "mn_hlist_invalidate_range_start": "H5-fixed",
    "unmap_and_move": "migrate_dma",
    "mmu_invalidate_retry_gfn": "fault_beside_window",
    "kvm_mmu_notifier_change_pte": "uprobe_one",
    "kvm_mmu_notifier_invalidate_page": "reclaim_once",
    "handle_mm_fault": "cow_migrate",
    "kvm_change_spte_gfn": "memslot_delete",
    "kvm_lock_and_handle": "dontneed_one memslot_fault",
    "__kvm_handle_hva_range": "dontneed_one",
    "kvm_mmu_invalidate_begin": "cow",
    "kvm_handle_memslot": "memslot_delete",
    "try_to_unmap_one": "reclaim_once",
    "kvm_mmu_invalidate_range_add": "cow",
    "install_logged": "dirty_log",
    "tdp_mmu_zap_leafs": "madv_free",
    "page_vma_mkclean_one": "writeback",
    "spte_write_protect": "dirty_log_shadow",
}
"""Functions that are asked in these scenarios on all kernels, too."""

ENDS_IN = {
    "cmp_and_merge_page": "merge_first_once",
    "stable_tree_append": "merge_first_once",
    "wp_page_copy": "cow_once",
    "isolate_lru_page": "lru_once",
    "shrink_active_list": "lru_once",
    "shrink_inactive_list": "lru_once",
    "migrate_pages_batch": "lru_once",
    "zap_page_range": "drop_once",
    "zap_pte_range": "zero_page_once",
    "unmap_mapping_pages": "drop_once",
    "handle_mm_fault": "mprotect_once",
    "map_zero_page": "zero_page_once",
    "try_to_unmap_one": "migrate_thread reclaim_mprotect",
    "shrink_folio": "reclaim_thread",
    "do_wp_page": "cow_once",
    "follow_page": "merge_first_once",
    "replace_page": "ksm_thread",
    "__get_user_pages_locked": "mmap_hugetlb",
    "unmerge_ksm_pages": "unmerge_uprobe",
    "mn_hlist_invalidate_range_start": "vm_lifetime",
    "mn_hlist_invalidate_end": "vm_lifetime",
    "mmu_notifier_change_pte": "vm_lifetime",
    "unmap_and_move": "cow_migrate",
    "copy_present_page": "fork_dma",
    "free_empty_table": "cow_once",
    "install": "permission_once",
    "install_logged": "log_once",
    "fast_page_fault": "log_once",
    "fast_pf_fix_direct_spte": "log_once",
    "spte_can_locklessly_be_made_writable": "log_once",
    "tdp_mmu_map_handle_target_level": "permission_once",
    "kvm_vm_ioctl": "memslot_delete",
}
"""Functions that are asked in these scenarios on the first of the kernels, too: what they do wrong
is seen in few others, or in the end only."""

BASIC = {
    ("fault_once", "x86-tdp"),
    ("reclaim_once", "x86-tdp"),
    ("lru_once", "x86-tdp"),
    ("dontneed_one", "powerpc-hpt"),
}
"""Small places that every change is asked in which runs there."""

FURTHER = (
    ("dontneed_one", "x86-shadow", "v3.3"),
    ("reclaim_once", "x86-shadow", "v3.7"),
    ("writeback", "x86-shadow", "v3.7"),
    ("cow", "x86-tdp", "v6.1"),
    ("dirty_log", "arm64", "v5.10"),
    ("madv_free", "x86-tdp", "v6.1"),
    ("dirty_log_shadow", "x86-tdp", "v7.3"),
)
"""Kernels that are asked in one scenario alone, be it one of the corpus."""


@dataclass(frozen=True)
class Asked:
    """A place, and the lines that run there."""

    place: Place
    lines: frozenset[tuple[str, int]]


def kernels_of_scenarios() -> list[tuple[Scenario, Era, str]]:
    """Every scenario on every kernel, and those of the corpus with their fixes in place."""
    made = [
        (scenario, Era(era), arch)
        for arch, era in KERNELS
        for scenario in SCENARIOS.values()
        if not scenario.absent(Era(era), find_arch(arch))
    ]
    of_bugs = {bug.scenario.name: bug.scenario for bug in corpus().values()}
    known = {**of_bugs, **SCENARIOS}
    made += [(known[name], Era(era), arch) for name, arch, era in FURTHER]
    return made + [(bug.fixed_scenario, bug.fixed_era, bug.arch) for bug in corpus().values()]


def explored(number: int) -> bytes:
    """What exploring the place of that number found: from disk while the model is the same."""
    scenario, era, arch = kernels_of_scenarios()[number]

    def explore() -> bytes:
        found = place(scenario, era, arch)
        lines = cover_lines(scenario, era, arch).ran
        said = {
            "digest": found.digest,
            "functions": sorted(found.functions),
            "found": {k: sorted(v) if k in SETS else v for k, v in asdict(found.found).items()},
            "lines": sorted({(file, line) for file, _, line in lines}),
        }
        return json.dumps(said).encode()

    return cached("place", (sources_digest(), scenario.name, str(era), arch), explore)


SETS = ("happened", "reached")


@cache
def places() -> list[Asked]:
    """Those that are small enough, each program once."""
    asked: dict[str, Asked] = {}
    kernels = kernels_of_scenarios()
    with multiprocessing.get_context("fork").Pool(os.cpu_count()) as pool:
        results = pool.map(explored, range(len(kernels)), chunksize=1)
    for (scenario, era, arch), result in zip(kernels, results, strict=True):
        said = json.loads(result)
        sets = {name: frozenset(said["found"][name]) for name in SETS}
        found = Found(**{**said["found"], "wrong": tuple(said["found"]["wrong"]), **sets})
        if found.complete and found.states <= STATES_MAX:
            made = Place(scenario, era, arch, said["digest"], frozenset(said["functions"]), found)
            lines = frozenset((file, line) for file, line in said["lines"])
            asked.setdefault(made.digest, Asked(made, lines))
    return list(asked.values())


def file_of(function: FunctionType) -> str:
    """As in the lines of a program: inside the package."""
    return function.__code__.co_filename.rpartition("/mmuwitness/")[2]


def asked(change: Mutation) -> list[Place]:
    """Where a change is put to the test: mostly where a line of it runs, but also where its
    function does, since a check may be decided there when the host is wired."""
    running = [each for each in places() if each.place.runs(change.function)]
    file, name = file_of(change.function), change.function.__name__
    lines = {(file, n) for edit in change.edits for n in range(edit.first[0], edit.last[0] + 1)}
    changed = [each for each in running if each.lines & lines] or running
    first = first_of_each(changed)
    rest = [e.place for e in changed if e.place is not first[e.place.scenario.name]]
    others = [each.place for each in running if each not in changed]
    bounded = [each for each in first.values() if each.scenario.name in BOUNDED]
    special = MADE_FOR.get(name, "").split()
    made_for = [each.place for each in running if each.place.scenario.name in special]
    basic = [e.place for e in running if (e.place.scenario.name, e.place.arch) in BASIC]
    wanted = ENDS_IN.get(name, "").split()
    ends_in = [each for each in first_of_each(running).values() if each.scenario.name in wanted]
    chosen = [*made_for, *basic, *ends_in, *spread(others, EACH // 2)]
    chosen += [*spread(first.values(), EACH), *spread(rest, EACH // 2)]
    chosen += spread(bounded, EACH // 2)
    return list({each.digest: each for each in chosen}.values())


def first_of_each(found: Iterable[Asked]) -> dict[str, Place]:
    """Each scenario on the first kernel that has it."""
    first: dict[str, Place] = {}
    for each in found:
        first.setdefault(each.place.scenario.name, each.place)
    return first


def spread(found: Iterable[Place], most: int) -> list[Place]:
    """Of many places so many, from the largest to the smallest."""
    by_size = sorted(found, key=lambda each: -each.states)
    if len(by_size) <= most:
        return by_size
    return [by_size[number * len(by_size) // most] for number in range(most)]


def module_of(function: FunctionType) -> str:
    return function.__module__.removeprefix("mmuwitness.model.")


@cache
def list_of_changes() -> list[Mutation]:
    ghosts = not_of_a_kernel()
    return [
        change
        for function in functions().values()
        if module_of(function) in SURVEYED and not function.__name__.startswith(OBSERVER)
        for change in mutations(function, ghosts)
    ]


def judged(change: Mutation) -> Judged:
    return judge_all(change, asked(change))


@dataclass(frozen=True)
class Outcome:
    """Of the change with that number: "caught", "survived", "same" (it changes no program) or
    "not run", and by what, where."""

    number: int
    what: str
    by: str = ""

    @property
    def change(self) -> Mutation:
        return list_of_changes()[self.number]


def outcome(number: int) -> Outcome:
    found = judged(list_of_changes()[number])
    if not found.judgements:
        return Outcome(number, "not run")
    if found.caught:
        last = found.judgements[-1]
        where = f"{last.place.scenario.name}, {last.place.arch} {last.place.era}"
        return Outcome(number, "caught", f"{last.by} ({where})")
    if found.alike:
        return Outcome(number, "same")
    many = sum(not each.same for each in found.judgements)
    return Outcome(number, "survived", f"in {many} places{'' if found.complete else ', cut'}")


def outcomes(numbers: Sequence[int]) -> Iterator[Outcome]:
    places()
    # what is there by now stays: no collection need look at it
    with multiprocessing.get_context("fork").Pool(os.cpu_count(), gc.freeze) as pool:
        yield from pool.imap(outcome, numbers, chunksize=1)


def unexplained(found: Sequence[Outcome]) -> list[str]:
    """Survivors without a reason, and reasons whose change does not survive."""
    said = reasons()
    problems = []
    for each in found:
        if each.what == "survived" and each.change.name not in said:
            problems.append(f"survives, and no reason is given: {each.change.name}")
        if each.what != "survived" and each.change.name in said:
            problems.append(f"{each.what}, but a reason is given: {each.change.name}")
    return problems


def summary(found: Sequence[Outcome]) -> str:
    """The share of those that change a program."""
    count = Counter(each.what for each in found)
    changed = count["caught"] + count["survived"]
    said = reasons()
    why = Counter(
        said.get(each.change.name, "no reason given") for each in found if each.what == "survived"
    )
    lines = [
        f"{len(found)} changes, {changed} of which change what is run;"
        f" caught: {count['caught']}, {count['caught'] / max(changed, 1):.1%}",
        *(f"survived, {reason}: {many}" for reason, many in why.most_common()),
        f"the same program everywhere: {count['same']}; not run: {count['not run']}",
    ]
    return "\n".join(lines)


def named(change: Mutation) -> set[str]:
    """What it can be asked for by."""
    known = {"survivors"} if change.name in reasons() else set()
    return {change.function.__qualname__, module_of(change.function)} | known


def main(names: Sequence[str]) -> int:
    """names: only these modules (kvm.kvm_main) or functions, or "survivors": those that have a
    reason."""
    began = time.monotonic()
    numbers = [
        number
        for number, each in enumerate(list_of_changes())
        if not names or named(each) & set(names)
    ]
    print(f"{len(places())} places, {time.monotonic() - began:.0f} s", flush=True)
    found = []
    for each in outcomes(numbers):
        found.append(each)
        print(f"{each.what:9} {each.change.line:4} {each.change.name}  {each.by}", flush=True)
    problems = unexplained(found)
    print("", *problems, summary(found), f"{time.monotonic() - began:.0f} s", sep="\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
