"""Exploring a scenario: threads, limits, interruption, the cache of compiled programs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mmuwitness.explore import explorer, search_workers
from mmuwitness.explore.explorer import explore
from mmuwitness.explore.programs import Folding, compiled_program, thorough_code
from mmuwitness.model.claims import CLAIMS
from mmuwitness.model.era import Era
from mmuwitness.model.scenarios import find_scenario

ERA = Era("v6.1")


def facts(found):
    result = found.result
    return (
        (result.states, result.edges, result.depth, result.complete),
        sorted(found.violated()),
        sorted(found.reached_marks()),
    )


@pytest.mark.slow
def test_threads_find_the_same() -> None:
    scenario = find_scenario("cow")
    one = explore(scenario, ERA, "arm64")
    two = explore(scenario, ERA, "arm64", threads=2)
    assert facts(one) == facts(two)
    assert one.result.states > 100_000
    claim = CLAIMS["change_pte_alone"]
    assert len(one.schedule_of(claim).steps) == len(two.schedule_of(claim).steps)


def test_thorough_code_finds_the_same() -> None:
    scenario = find_scenario("uprobe")
    quick = explore(scenario, ERA, "arm64")
    assert facts(quick) == facts(explore(scenario, ERA, "arm64", folding=Folding(thorough=True)))


@pytest.mark.parametrize("threads", [1, 2])
def test_a_long_search_goes_on_with_better_code(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = find_scenario("cow")
    quick = explore(scenario, ERA, "x86-tdp")
    made = []

    def made_better(*arguments):
        made.append(thorough_code(*arguments))
        return made[-1]

    monkeypatch.setattr(explorer, "thorough_code", made_better)
    monkeypatch.setattr(search_workers, "IMPROVE_SECONDS", 0.0)
    monkeypatch.setattr(search_workers, "CALL_SECONDS", 0.001)
    improved = explore(scenario, ERA, "x86-tdp", threads=threads)
    assert facts(improved) == facts(quick)
    assert len(made) == 1 and made[0] != compiled_program(scenario, ERA, "x86-tdp", Folding())[1]


def test_memory_limit_keeps_what_was_found() -> None:
    found = explore(find_scenario("ksm_both"), ERA, "arm64", memory_limit_bytes=1 << 20)
    assert (found.complete, found.result.stopped) == (False, "memory")
    assert found.result.states > 1000
    undecided = [c for c in CLAIMS.values() if found.verdict_of(c) == "undecided"]
    assert undecided, "a search that is not complete decides no claim that held so far"


def test_interrupt_keeps_what_was_found() -> None:
    def interrupt(progress):
        raise KeyboardInterrupt

    sizes = {"mergeable": 2, "written_gfns": 2, "pages": 4}
    large = replace(find_scenario("ksm_both"), sizes=sizes)
    found = explore(large, ERA, "arm64", progress=interrupt, memory_limit_bytes=4 << 30)
    assert (found.complete, found.result.stopped) == (False, "interrupted")
    assert found.result.states > 0


def test_cache_is_used_and_survives_damage(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MMUWITNESS_CACHE", str(tmp_path))
    scenario = find_scenario("uprobe_one")
    first, code = compiled_program(scenario, ERA, "arm64", Folding())
    again, cached = compiled_program(scenario, ERA, "arm64", Folding())
    assert (first, code) == (again, cached)
    for path in tmp_path.glob("program-*"):
        path.write_text("{ damaged")
    assert compiled_program(scenario, ERA, "arm64", Folding())[0] == first
    for path in tmp_path.glob("object-*"):
        path.write_bytes(b"damaged")
    assert compiled_program(scenario, ERA, "arm64", Folding())[1] == code


def test_kernels_that_agree_share_a_program() -> None:
    scenario = find_scenario("uprobe_one")
    digests = {e: compiled_program(scenario, Era(e), "x86-tdp", Folding())[0].digest for e in
               ("v6.0", "v6.1", "v6.1.192", "v6.12", "v7.3")}  # fmt: skip
    assert digests["v6.0"] == digests["v6.1"] == digests["v6.1.192"]
    assert digests["v6.12"] == digests["v7.3"] != digests["v6.1"]
