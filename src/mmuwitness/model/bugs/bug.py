"""What is known of a historical bug, and the table of them all."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from mmuwitness.model import bugs
from mmuwitness.model.claims import Claim, find_claims
from mmuwitness.model.era import Era, UnknownName
from mmuwitness.model.features.feature import MEMORY, Source
from mmuwitness.model.host import find_arch
from mmuwitness.model.scenarios import LARGE, SCENARIOS, find_scenario
from mmuwitness.model.scenarios.scenario import Scenario

FIXED = "-fixed"


@dataclass(frozen=True)
class Bug:
    """One bug.

    commit, subject: of the fix, or, where there was none, of what brought the bug (unfixed);
    release: the first with that commit.  source: how the commit is known.  reference: who found
    it, where, what people saw.  claim: what it violates before all.

    era: a kernel with the fix.  without: its features that are the fix.  Where no feature is:
    broken, functions that have the bug; mended, functions that have the fix of a bug that the
    model's own text has.  fair_locks: False if it takes locks that overtake.
    """

    id: str
    text: str
    commit: str
    subject: str
    release: str
    source: Source
    reference: str
    claim: str
    scenario: Scenario
    arch: str
    era: str
    without: tuple[str, ...] = ()
    broken: dict[str, Any] = field(default_factory=dict)
    mended: dict[str, Any] = field(default_factory=dict)
    unfixed: bool = False
    fair_locks: bool = True

    @property
    def fixed_era(self) -> Era:
        name, *changes = self.era.split()
        return Era(name, tuple(changes))

    @property
    def broken_era(self) -> Era:
        return self.fixed_era.with_change(*(f"-{name}" for name in self.without))

    @property
    def broken_scenario(self) -> Scenario:
        """The scenario with the bug in it, under the bug's name."""
        return replace(self.scenario, name=self.id, overrides=self.broken)

    @property
    def fixed_scenario(self) -> Scenario:
        return replace(self.scenario, name=self.id + FIXED, overrides=self.mended)

    @property
    def violates(self) -> Claim:
        return find_claims([self.claim])[0]

    @property
    def verified(self) -> bool:
        """Whether the commit and its subject were read, by whoever wrote it down."""
        return self.source != MEMORY

    @property
    def kernel_arch(self) -> str:
        return find_arch(self.arch).kernel_arch


@cache
def corpus() -> dict[str, Bug]:
    """Every bug by its id: the BUG of each module of this package that has one."""
    names = sorted(info.name for info in pkgutil.iter_modules(bugs.__path__))
    modules = [importlib.import_module(f"{bugs.__name__}.{name}") for name in names]
    found = [module.BUG for module in modules if hasattr(module, "BUG")]
    return {bug.id: bug for bug in found}


def find_bug(name: str) -> Bug:
    """The bug of that id, h7 as well as H7; UnknownName lists what exists."""
    if name.upper() not in corpus():
        raise UnknownName("bug", name, list(corpus()))
    return corpus()[name.upper()]


def known_scenario(name: str) -> Scenario | None:
    """The scenario of that name, be it in a table, a bug's, or that of a bug's fix."""
    if name in SCENARIOS or name in LARGE:
        return find_scenario(name)
    bug = corpus().get(name.removesuffix(FIXED))
    if bug is None:
        return None
    return bug.fixed_scenario if name.endswith(FIXED) else bug.broken_scenario


def scenario_of_schedule(name: str) -> Scenario:
    """The scenario that a schedule's ID begins with; UnknownName lists those of the table."""
    return known_scenario(name) or find_scenario(name)
