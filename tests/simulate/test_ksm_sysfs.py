"""KSM as /sys/kernel/mm/ksm shows it, and its advisor, by hand."""

import numpy as np

from mmuwitness.model.era import Era
from mmuwitness.model.host import find_arch
from mmuwitness.model.mm.mm_types import Page
from mmuwitness.simulate.designs import Kernel
from mmuwitness.simulate.simulator import resolved
from mmuwitness.simulate.workloads.ksm_advisor import ScanTimeAdvisor
from mmuwitness.simulate.workloads.ksm_density import KsmDensity
from tests.simulate.small_runs import PAGES, SMALL, run

KSM = {"hours": 0.002, "pages_to_scan": 2000, "writes": 0.0}


def test_every_page_that_was_scanned_is_counted_once() -> None:
    """Nobody writes, so after some passes each content that two pages had is one KSM page's, and
    no page is volatile.  (Of zeros there are more than one KSM page takes.)"""
    parameters = resolved("ksm-density", SMALL | KSM)
    made = KsmDensity(parameters, Kernel(Era("v6.1"), find_arch("x86-tdp")), seed=1)
    world = made.machine.world
    contents = world.array(Page.content)[world.array(Page.refcount) != 0]
    counts = np.unique(contents, return_counts=True)[1]
    found = run("ksm-density", "wrapped", era="v6.1", **KSM).counters
    assert found["ksm full_scans"] >= 3
    shared, sharing = found["ksm pages_shared"], found["ksm pages_sharing"]
    assert shared + sharing + found["ksm pages_unshared"] == 2 * PAGES
    assert found["ksm pages_volatile"] == 0
    assert shared == np.count_nonzero(counts > 1) + (counts.max() - 1) // 256
    assert found["ksm general_profit"] == 4096 * sharing - 64 * 2 * PAGES


def test_the_advisor_scans_more_where_a_pass_took_too_long() -> None:
    """400 s where 200 are wanted: 50 % of the target, so twice the pages; of that 30 %, the first
    weighted change."""
    advisor = ScanTimeAdvisor(pages_to_scan=5000, change=100)
    advisor.passed(400, cpu_ms=40_000)
    assert (advisor.pages_to_scan, advisor.change, advisor.scan_time) == (10_000, 100, 400)


def test_the_advisor_is_bounded_by_cpu() -> None:
    """All of a CPU: a hundredth of the pages for each percent, and 70 percent at most."""
    advisor = ScanTimeAdvisor(pages_to_scan=10_000, change=100)
    advisor.passed(400, cpu_ms=400_000)
    assert advisor.pages_to_scan == 7000
    advisor = ScanTimeAdvisor(pages_to_scan=1000, change=100)
    advisor.passed(1, cpu_ms=100)
    assert advisor.pages_to_scan == 1000, "10 percent at least"


def test_a_run_follows_its_advisor() -> None:
    """Passes take a second: far less than wanted, so ksmd goes down to ten percent of a CPU."""
    advised = run("ksm-density", "wrapped", era="v6.8", **KSM, advisor=True).counters
    assert advised["ksm full_scans"] >= 2
    assert advised["ksm pages_to_scan"] != 500
