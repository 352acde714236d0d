"""The processes of the model for one kernel, as far as one trace shows them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from mmuwitness.model.era import Era
from mmuwitness.model.host import find_arch
from mmuwitness.model.kvm.vcpu import vcpu_run
from mmuwitness.model.mm.ksm import ksmd
from mmuwitness.model.mm.memory import host_thread
from mmuwitness.trace.kernel import Dialect
from mmuwitness.trace.paths.events import UNMODELLED, Recorded
from mmuwitness.trace.paths.graph import Graph, conform_host, fold_graph
from mmuwitness.trace.paths.match import Matcher
from mmuwitness.trace.paths.observe import WANTED, Observer
from mmuwitness.trace.paths.tasks import ALONE, Automaton

ARCHES = {"tdp": "x86-tdp", "rmap": "x86-shadow", "shadow": "x86-shadow"}
"""The MMU as the trace shows it: the model's architecture."""


@dataclass(frozen=True)
class Kernel:
    """The kernel whose model is asked: which features, which MMU of KVM, how it codes results."""

    era: Era
    mmu: str  # "tdp", "rmap", "shadow"
    dialect: Dialect

    @property
    def outcomes(self) -> dict[str, tuple[int, ...]]:
        """What the handling of a fault came to: the codes that say so."""
        fixed, retry = self.dialect.fixed, self.dialect.retry
        assert fixed is not None
        return {
            "continue": (0,),
            "retry": (retry,),
            "fixed": (fixed,),
            "spurious": (fixed + 1,),
            "error": (retry,),
            "emulate": (retry + 1, *((3,) if fixed == 5 else ())),  # 3: RET_PF_WRITE_PROTECTED
            "failed": (0, retry),  # v6.1 looks at the pfn after kvm_faultin_pfn() has returned
        }


def automaton_of(kernel: Kernel, recorded: Recorded) -> Automaton:
    """The processes of this kernel, as this trace shows them."""
    host = conform_host(kernel.era, find_arch(ARCHES[kernel.mmu]), True)
    matcher = Matcher(
        host.world.sizes,
        host.kvm.nr_gfns,
        kernel.mmu != "shadow",
        kernel.outcomes,
        frozenset(recorded.on_stacks),
        frozenset(UNMODELLED),
    )
    observer = Observer(kernel.mmu, host.world.sizes)
    return Automaton(graph_of(kernel.era, ARCHES[kernel.mmu]), observer, matcher, recorded)


@lru_cache
def graph_of(era: Era, arch: str) -> Graph:
    """The processes of the model, folded."""
    host = conform_host(era, find_arch(arch), True)
    alone = conform_host(era, find_arch(arch), False)
    return fold_graph(
        (
            ("ksm-merge", ksmd, (host.mm,), host),
            ("guest fault", vcpu_run, (host.vcpus[0],), host),
            ("host-write", host_thread, (host.mm,), host),
            (ALONE, host_thread, (alone.mm,), alone),
        ),
        WANTED,
    )
