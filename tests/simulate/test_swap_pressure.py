"""Reclaim: what goes to swap comes back with its content, and memory stays within its bounds."""

import numpy as np
import pytest

from mmuwitness.model.era import Era
from mmuwitness.model.host import find_arch
from mmuwitness.model.mm.mm_types import MM, Page
from mmuwitness.simulate.arrays import Array
from mmuwitness.simulate.designs import Kernel
from mmuwitness.simulate.engine import Engine
from mmuwitness.simulate.machine import Guest, pages_of
from mmuwitness.simulate.program import ManyProgram
from mmuwitness.simulate.simulator import resolved
from mmuwitness.simulate.workloads.swap_pressure import SwapPressure
from tests.simulate.small_runs import EXITS, PAGES, WINDOWS, run

PRESSURE = {"resident": 0.5, "hot": 0.25, "rest": 0.1}


@pytest.mark.parametrize("arch", ["x86-tdp", "arm64"])
def test_every_page_that_is_swapped_out_had_its_window(arch: str) -> None:
    made = run("swap-pressure", arch=arch, **PRESSURE).counters
    out = made["mm.rmap.page_remove_rmap"]
    assert out > 1000
    assert made[WINDOWS] == pytest.approx(out, abs=100)
    assert made["fault refault"] > 1000
    assert 0 <= made["memory free pages"] <= PAGES


def test_hot_pages_are_spared() -> None:
    """Without asking who is young the clock would take them all in turn."""
    made = run("swap-pressure", **PRESSURE, hot_touches=0.99).counters
    assert made["mm.rmap.folio_referenced_one"] > 1.2 * made["mm.rmap.try_to_unmap_one"]


def test_with_memory_for_all_nobody_exits() -> None:
    made = run("swap-pressure", "nothing", **PRESSURE).counters
    assert made.get(EXITS, 0) == 0
    assert made["memory used pages"] == 2 * PAGES


def test_contents_survive_swap() -> None:
    """A guest that only reads: each page holds, in memory or in its slot, what it held at first."""
    parameters = resolved(
        "swap-pressure", {"guests": 1, "memory": 1 / 64, "writes": 0.0, **PRESSURE}
    )
    kernel = Kernel(Era("v6.12"), find_arch("x86-tdp"))
    made = SwapPressure(parameters, kernel, seed=3)
    guest = made.guests[0]
    before = contents_of(guest)
    engine = Engine(ManyProgram(guest, made.all_calls()), made.guests, 8)
    made.start(engine)
    engine.run(2_000_000_000)
    vcpu = engine.tasks[0]
    assert vcpu["exits"] > 1000
    resident = pages_of(guest.world, MM.pte) >= 0
    assert 0 < np.count_nonzero(~resident) < PAGES
    assert np.array_equal(contents_of(guest), before)


def contents_of(guest: Guest) -> Array:
    world = guest.world
    pages = pages_of(world, MM.pte)
    held = world.array(Page.content)[np.maximum(pages, 0)]
    contents: Array = np.where(pages >= 0, held, world.array(MM.swap))
    return contents
