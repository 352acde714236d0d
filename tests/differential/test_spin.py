"""SPIN is the independent checker: it explores Promela models of some scenarios, written by hand,
and has to find the states, the steps and the verdicts that mmuwitness finds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mmuwitness.explore.explorer import explore
from mmuwitness.explore.search import SearchResult, search
from mmuwitness.model.claims import CLAIMS
from mmuwitness.model.era import Era
from mmuwitness.model.host import find_arch
from mmuwitness.model.kvm.kvm_main import INSTALLS_READ_ONLY
from mmuwitness.model.scenarios import find_scenario
from mmuwitness.process.native import NativeProgram, compile_ir
from mmuwitness.process.program import fold
from tests.differential.pan import MISSING, pan_report

MODELS = Path(__file__).parent / "spin"
ERA = Era("v5.10")  # what the Promela models are written for
INSTALLS = "CHANGE_PTE_INSTALLS("  # their word for INSTALLS_READ_ONLY

pytestmark = [
    pytest.mark.slow,
    pytest.mark.spin,
    pytest.mark.skipif(bool(MISSING), reason=f"{' and '.join(MISSING)} not found"),
]


@dataclass(frozen=True)
class Found:
    """What an exploration found.  violations: pairs of a state and a claim that it violates."""

    states: int
    steps: int
    claims: frozenset[str]
    violations: int


def found_here(result: SearchResult, native: NativeProgram, most: int, claims: list[str]) -> Found:
    assert result.complete and result.deadlock is None
    violations = 0
    if result.violated:
        for index in result.indices():
            violations += native.call(result.state(index), most)[1][0].bit_count()
    violated = frozenset(claims[bit] for bit in result.violated)
    return Found(result.states, result.edges, violated, violations)


def report_on(model: str, macros: str, directory: Path) -> str:
    """What SPIN prints of a model that was written by hand."""
    path = MODELS / f"{model}.pml"
    return pan_report(path, macros.split(), directory, "-m1000000", "-w20", "-c0")


def found_by_spin(report: str) -> Found:
    # With the claims and the time it took, pan says nothing: no deadlock, no search cut short.
    said = [line for line in report.splitlines() if line.startswith(("pan:", "error:"))]
    violated = re.compile(r"pan:\d+: assertion violated \(violated==(\d+)\) \(at depth \d+\)")
    others = [line for line in said if not violated.match(line)]
    assert [line for line in others if not re.match(r"pan: (elapsed time|rate) ", line)] == []

    def number(pattern: str) -> int:
        return int(re.findall(rf"^{pattern}", report, re.MULTILINE)[0])

    violations = number(r"State-vector \d+ byte, depth reached \d+, errors: (\d+)$")
    transitions = number(r" +(\d+) transitions \(= stored\+matched\)$")
    names = {claim.number: claim.name for claim in CLAIMS.values()}
    return Found(
        number(r" +(\d+) states, stored$"),
        # A violation is a step from a state to itself, and the initial state counts as a step.
        transitions - violations - 1,
        frozenset(names[f"I{number}"] for number in violated.findall(report)),
        violations,
    )


def spin_installs(model: str, report: str) -> bool:
    """Whether change_pte() installs an SPTE in some step that SPIN reached."""
    lines = (MODELS / f"{model}.pml").read_text().splitlines()
    steps = {at for at, line in enumerate(lines, 1) if INSTALLS in line and "d_step" in line}
    return bool(steps - {int(at) for at in re.findall(r'pml:(\d+), state \d+, "D_STEP', report)})


@pytest.mark.parametrize(
    ("scenario", "arch", "model", "macros"),
    [
        ("dontneed", "x86-tdp", "dontneed", ""),
        ("dontneed_one", "x86-tdp", "dontneed", "NGFN=1 NPAGES=2"),
        ("dontneed_smp", "x86-tdp", "dontneed", "NVCPU=2 NGFN=1 NPAGES=3"),
        ("uprobe", "x86-tdp", "uprobe", ""),
        ("uprobe_one", "x86-tdp", "uprobe", "NGFN=1 NPAGES=2"),
        ("ksm_alone", "x86-tdp", "ksm", ""),
        ("ksm", "x86-tdp", "ksm", "NEIGHBOUR"),
        ("ksm_alone", "arm64", "ksm", "ARM64"),
        ("ksm", "arm64", "ksm", "ARM64 NEIGHBOUR"),
    ],
)
def test_spin_agrees(scenario: str, arch: str, model: str, macros: str, tmp_path: Path) -> None:
    explored = explore(find_scenario(scenario), ERA, arch)
    compiled = explored.compiled
    here = found_here(
        explored.result, explored.native, compiled.successors_max, list(compiled.claims)
    )
    report = report_on(model, macros, tmp_path)
    assert here == found_by_spin(report)
    # Any other effect of change_pte() violates an assertion of the Promela model.
    assert explored.reached_marks() == [INSTALLS_READ_ONLY] * spin_installs(model, report)


def mmu_invalidate_retry(kvm, mmu_seq):
    """Wrong on purpose: no lookup is ever stale."""
    return False


@pytest.mark.parametrize(
    ("scenario", "macros"),
    [
        ("dontneed_one", "NGFN=1 NPAGES=2"),
        pytest.param("dontneed", "", marks=pytest.mark.slow),
    ],
)
def test_spin_finds_the_same_violations(scenario: str, macros: str, tmp_path: Path) -> None:
    host = find_scenario(scenario).host(ERA, find_arch("x86-tdp"))
    overrides: Any = host.overrides
    overrides["kvm.kvm_main.mmu_invalidate_retry"] = mmu_invalidate_retry
    program = fold(host)
    native, most = NativeProgram(compile_ir(program.lowered.text)), program.lowered.successors_max
    result = search(native.address, program.initial, most)
    here = found_here(result, native, most, list(program.claims))
    assert {"coherent", "freed_page_unmapped", "no_lost_write"} <= here.claims
    assert here == found_by_spin(report_on("dontneed", f"NEVER_RETRIES {macros}", tmp_path))
