"""vCPUs that only hit may run ahead of others: nobody can tell."""

from __future__ import annotations

from typing import Any

import pytest

from mmuwitness.simulate.engine import Engine
from mmuwitness.simulate.meters import Run
from tests.simulate.small_runs import run


def run_with(monkeypatch: Any, quantum_ns: int, **parameters: float) -> Run:
    def wire_run(engine: Engine) -> None:
        original(engine)
        engine.run_record["quantum"] = quantum_ns

    original = Engine.wire_run
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "wire_run", wire_run)
        return run("ksm-density", "wrapped", era="v6.1", pages_to_scan=500, **parameters)


def test_with_a_vcpu_for_each_guest_it_is_exactly_the_same(monkeypatch: Any) -> None:
    """ksmd, and each other guest's memory, are never overtaken."""
    fine = run_with(monkeypatch, 1)
    assert fine.counters["fault refault"] > 100
    for quantum in (10_000, 1_000_000):
        coarse = run_with(monkeypatch, quantum)
        assert coarse.counters == fine.counters
        assert coarse.stall_ns == fine.stall_ns and coarse.cpu_ns == fine.cpu_ns
        assert coarse.series == fine.series


def test_with_several_vcpus_it_is_nearly_so(monkeypatch: Any) -> None:
    fine = run_with(monkeypatch, 1, vcpus=4)
    coarse = run_with(monkeypatch, 1_000_000, vcpus=4)
    assert coarse.counters["guest touches"] == pytest.approx(fine.counters["guest touches"], 1e-4)
    for name, count in fine.counters.items():
        if count > 500:
            assert coarse.counters[name] == pytest.approx(count, rel=0.1), name
