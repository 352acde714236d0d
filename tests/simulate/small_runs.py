"""Runs of seconds, for tests of workloads."""

from collections.abc import Mapping

from mmuwitness.model.era import Era
from mmuwitness.model.host import find_arch
from mmuwitness.simulate.cost import load_costs
from mmuwitness.simulate.designs import find_design
from mmuwitness.simulate.meters import Run, Value
from mmuwitness.simulate.runner import typical_costs
from mmuwitness.simulate.simulator import resolved, simulate

SMALL: dict[str, Value] = {"guests": 2, "memory": 1 / 64, "hours": 0.001}

PAGES = 4096
"""Of each guest then."""


def run(
    workload: str,
    design: str = "as-is",
    arch: str = "x86-tdp",
    era: str = "v6.12",
    seed: int = 1,
    small: Mapping[str, Value] = SMALL,
    **more: Value,
) -> Run:
    """A workload on few pages, with costs as shipped."""
    found, made = find_design(design), find_arch(arch)
    costs = typical_costs(load_costs(made.kernel_arch))
    kernel = found.kernel(Era(era), made)
    return simulate(workload, found, kernel, seed, resolved(workload, {**small, **more}), costs)


def marks(made: Run) -> set[str]:
    """What was covered."""
    return {name for name, count in made.counters.items() if name.startswith("mark ") and count}


WINDOWS = "kvm.kvm_main.kvm_mmu_notifier_invalidate_range_start"
EXITS = "kvm.vcpu.handle_exit"
FLUSHES = "kvm.kvm_main.kvm_flush_remote_tlbs"
