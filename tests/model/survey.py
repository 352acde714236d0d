"""The lines of the protocol changed, one change at a time: which changes do the shipped claims
and scenarios notice?  `make survey` runs it and writes what nobody noticed to
survivors.toml, where each survivor has its reason."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from types import FunctionType

from mmuwitness.explore.mutants import Judged, Place, judge_all, place
from mmuwitness.model.bugs.bug import corpus
from mmuwitness.model.era import Era
from mmuwitness.model.functions import functions
from mmuwitness.model.host import find_arch
from mmuwitness.model.scenarios import SCENARIOS
from mmuwitness.process.mutate import Mutation, mutations, not_of_a_kernel

SURVIVORS = Path(__file__).with_name("survivors.toml")
NOT_SAID = "not looked into"
STATES_MAX = 60_000
PLACES_MAX = 14

SURVEYED = (
    *("kvm.kvm_main", "kvm.memslots", "kvm.srcu"),
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


def changes() -> Iterator[Mutation]:
    ghosts = not_of_a_kernel()
    for function in functions().values():
        if function.__module__.removeprefix("mmuwitness.model.") in SURVEYED:
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


def read_reasons() -> dict[str, dict[str, str]]:
    """By function, the survivors and why each is one."""
    return tomllib.loads(SURVIVORS.read_text()) if SURVIVORS.exists() else {}


def to_toml(reasons: dict[str, dict[str, str]]) -> str:
    head = "# What the survey left over, by function, and why.  Written by `make survey`.\n"
    tables = []
    for name, rows in sorted(reasons.items()):
        lines = [f"{quoted(text)} = {quoted(why)}" for text, why in rows.items()]
        tables.append("\n".join([f"[{quoted(name)}]", *lines]))
    return head + "\n" + "\n\n".join(tables) + "\n"


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def main(names: Sequence[str]) -> None:
    """names: only these functions; the others keep their entries."""
    began = time.monotonic()
    numbers = [
        number
        for number, each in enumerate(list_of_changes())
        if not names or each.function.__qualname__ in names
    ]
    print(f"{len(places())} places, {time.monotonic() - began:.0f} s", flush=True)
    before = read_reasons()
    after = {name: rows for name, rows in before.items() if names and name not in names}
    count: Counter[str] = Counter()
    context = multiprocessing.get_context("fork")
    with context.Pool(os.cpu_count()) as pool:
        for number, what, by in pool.imap(outcome, numbers, chunksize=1):
            change = list_of_changes()[number]
            count[what] += 1
            if what == "survived":
                known = before.get(change.function.__qualname__, {})
                rows = after.setdefault(change.function.__qualname__, {})
                rows[change.text] = known.get(change.text, NOT_SAID)
            print(f"{what:9} {change.line:4} {change.name}  {by}", flush=True)
    SURVIVORS.write_text(to_toml(after))
    noticed = count["caught"] + count["survived"]
    print(f"{dict(count)}: {count['caught'] / max(noticed, 1):.1%} of those that change a program"
          f" are caught; {time.monotonic() - began:.0f} s")  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
