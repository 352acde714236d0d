"""The lines of the protocol changed, one change at a time: which changes do the shipped claims
and scenarios notice?  `make survey` prints each change, who noticed it, and the share."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from types import FunctionType

from mmuwitness.explore.mutants import Judged, Place, judge_all, place
from mmuwitness.model.bugs.bug import corpus
from mmuwitness.model.era import Era
from mmuwitness.model.functions import functions
from mmuwitness.model.host import find_arch
from mmuwitness.model.scenarios import SCENARIOS
from mmuwitness.process.mutate import OBSERVER, Mutation, mutations, not_of_a_kernel

STATES_MAX = 60_000
PLACES_MAX = 14

SURVEYED = (
    *("kvm.kvm_main", "kvm.memslots", "lib.srcutree"),
    *("mm.mmu_notifier", "mm.ksm", "mm.gup", "mm.memory", "mm.rmap", "mm.migrate"),
    *("arch.x86", "arch.x86_tdp", "arch.arm64"),
)
"""The modules whose functions are changed: the protocol, and what every scenario goes through."""

KERNELS = (
    ("x86-tdp", "v7.3"),
    ("arm64", "v6.9"),
    ("x86-shadow", "v5.10"),
    ("x86-shadow", "v3.6"),
    ("riscv", "v6.9"),
    ("mips", "v6.9"),
    ("loongarch", "v6.9"),
    ("powerpc-hv", "v6.9"),
    ("powerpc-hpt", "v6.9"),
    ("powerpc-pr", "v6.9"),
    ("powerpc-e500", "v6.9"),
    ("s390", "v7.3"),
    ("x86-tdp", "v6.1"),
    ("arm64", "v5.10"),
)
"""A function is asked where it runs: each scenario on the first of these that runs it, then, if
nobody noticed, on the others."""


@cache
def places() -> list[Place]:
    """Every scenario on every kernel, and those of the corpus with their fixes in place."""
    made = [
        place(scenario, Era(era), arch)
        for arch, era in KERNELS
        for scenario in SCENARIOS.values()
        if not scenario.absent(Era(era), find_arch(arch))
    ]
    made += [place(bug.fixed_scenario, bug.fixed_era, bug.arch) for bug in corpus().values()]
    return [each for each in made if each.states <= STATES_MAX]


def asked(function: FunctionType) -> list[Place]:
    """Where a function's mutants are put to the test."""
    running = [each for each in places() if each.runs(function)]
    first: dict[str, Place] = {}
    for each in running:
        first.setdefault(each.scenario.name, each)
    rest = sorted((e for e in running if e not in first.values()), key=lambda e: e.states)
    return [*first.values(), *rest][:PLACES_MAX]


def module_of(function: FunctionType) -> str:
    return function.__module__.removeprefix("mmuwitness.model.")


def changes() -> Iterator[Mutation]:
    ghosts = not_of_a_kernel()
    for function in functions().values():
        if module_of(function) in SURVEYED and not function.__name__.startswith(OBSERVER):
            yield from mutations(function, ghosts)


def judged(change: Mutation) -> Judged:
    return judge_all(change, asked(change.function))


def outcome(number: int) -> tuple[int, str, str]:
    """Of the change with that number: "caught", "same", "not run" or "survived", and by what."""
    found = judged(list_of_changes()[number])
    if not found.judgements:
        return number, "not run", ""
    if found.caught:
        return number, "caught", found.judgements[-1].by
    return number, "same" if found.alike else "survived", ""


@cache
def list_of_changes() -> list[Mutation]:
    return list(changes())


def main(names: Sequence[str]) -> None:
    """names: only these modules (kvm.kvm_main) or functions."""
    began = time.monotonic()
    numbers = [
        number
        for number, each in enumerate(list_of_changes())
        if not names or {each.function.__qualname__, module_of(each.function)} & set(names)
    ]
    print(f"{len(places())} places, {time.monotonic() - began:.0f} s", flush=True)
    count: Counter[str] = Counter()
    context = multiprocessing.get_context("fork")
    with context.Pool(os.cpu_count()) as pool:
        for number, what, by in pool.imap(outcome, numbers, chunksize=1):
            change = list_of_changes()[number]
            count[what] += 1
            print(f"{what:9} {change.line:4} {change.name}  {by}", flush=True)
    noticed = count["caught"] + count["survived"]
    print(
        f"{dict(count)}: {count['caught'] / max(noticed, 1):.1%} of those that change a program are"
        f" caught; {time.monotonic() - began:.0f} s"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
