"""SPIN's opinion on liveness: acceptance cycles under weak fairness, on the same programs.

SPIN knows weak fairness only, so what it is compared with are lassos without fair locks."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmuwitness.explore.explorer import explore
from mmuwitness.explore.lasso import StateGraph
from mmuwitness.explore.programs import Folding, fold_scenario
from mmuwitness.model.bugs.bug import known_scenario
from mmuwitness.report.promela.model import promela_text
from tests.differential.verifier import MISSING, run
from tests.model.mutants import kernel

pytestmark = [
    pytest.mark.slow,
    pytest.mark.spin,
    pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}"),
]
LIVE = Folding(liveness=True)
PENDING = {
    "fault_maps": "VCPU_faulting && MM_invalidating == 0",
    "other_windows_pass": "VCPU_faulting && MM_open_windows[VCPU_fault_gfn] == 0",
    "windows_close": "KVM_mmu_invalidate_in_progress != 0 || KVM_mn_active_invalidate_count != 0",
}
"""The claims once more, by hand."""

CASES = [
    ("fault_once", "x86-tdp", "v6.1"),
    ("fault_beside_window", "arm64", "v7.3"),
    ("fault_beside_window", "x86-tdp", "v7.3"),
    ("fault_in_storm", "x86-tdp", "v7.3"),
    ("memslot_beside_storm", "mips", "v5.10"),
]


@pytest.mark.parametrize("claim", PENDING)
@pytest.mark.parametrize(("name", "arch", "era"), CASES)
def test_spin_finds_the_same_claims_violated(
    name: str, arch: str, era: str, claim: str, tmp_path: Path
) -> None:
    scenario = known_scenario(name)
    assert scenario is not None
    found = explore(scenario, kernel(era), arch, folding=LIVE)
    compiled = found.compiled
    graph = StateGraph(
        found.native.address, compiled.successors_max, found.result, compiled.lock_points
    )
    ours = graph.lasso(compiled.claims.index(claim), fair_locks=False)

    text = promela_text(fold_scenario(scenario, kernel(era), arch, LIVE), name)
    without_observer = text[: text.index("active proctype observer")]
    model = tmp_path / "model.pml"
    pending = PENDING[claim]
    if "MM_open_windows[" not in without_observer:
        pending = pending.replace("MM_open_windows[VCPU_fault_gfn]", "MM_open_windows")
    if "KVM_mn_active_invalidate_count" not in without_observer:
        pending = pending.partition(" || ")[0]
    model.write_text(f"{without_observer}\nltl goes_on {{ []<> !({pending}) }}\n")
    run(tmp_path, "spin", "-o1", "-o2", "-o3", "-a", str(model))
    fair = len(compiled.processes) + 1
    run(tmp_path, "gcc", "-O1", "-w", "-DNOREDUCE", f"-DNFAIR={fair}", "-o", "pan", "pan.c")
    report = run(tmp_path, "./pan", "-a", "-f", "-m999999")
    assert "max search depth too small" not in report
    assert ("acceptance cycle" in report.partition("(Spin Version")[0]) == (ours is not None)
