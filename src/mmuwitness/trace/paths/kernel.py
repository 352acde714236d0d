"""The processes of the model for one kernel, as far as one trace shows them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from mmuwitness.model.era import Era
from mmuwitness.model.host import Host, find_arch
from mmuwitness.model.kvm.vcpu import vcpu_run
from mmuwitness.model.mm.ksm import ksmd
from mmuwitness.model.mm.memory import host_thread
from mmuwitness.trace.kernel import Dialect
from mmuwitness.trace.paths.automaton import Automaton
from mmuwitness.trace.paths.events import UNMODELLED, Recorded
from mmuwitness.trace.paths.graph import ALONE, Graph, Spec, conform_host, fold_graph
from mmuwitness.trace.paths.match import Matcher
from mmuwitness.trace.paths.observe import EMULATED, EXIT, OUTSIDE, RELEASE, WANTED, Observer
from mmuwitness.trace.paths.observe_arm64 import Stage2Observer
from mmuwitness.trace.paths.rounds import (
    cleans,
    collapses,
    forks,
    frees_lazily,
    migrates,
    moves,
    protects,
    reclaims,
    releases,
    splits,
    zaps,
    zaps_of_huge,
)

ARCHES = {"tdp": "x86-tdp", "rmap": "x86-shadow", "shadow": "x86-shadow", "stage2": "arm64"}
"""The MMU as the trace shows it: the model's architecture."""


@dataclass(frozen=True)
class Kernel:
    """The kernel whose model is asked: which features, which MMU of KVM, how it codes results."""

    era: Era
    mmu: str  # "tdp", "rmap", "shadow", "stage2"
    dialect: Dialect

    @property
    def outcomes(self) -> dict[str, tuple[int, ...]]:
        """What the handling of a fault came to: the codes that say so."""
        if self.mmu == "stage2":
            return {"emulate": ()}  # what else it comes to is not in the code
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
    host = fault_host(kernel.era, ARCHES[kernel.mmu], True)
    matcher = Matcher(
        host.world.sizes,
        host.kvm.nr_gfns,
        kernel.mmu != "shadow",
        kernel.outcomes,
        frozenset(recorded.on_stacks),
        OUTSIDE.union(UNMODELLED),
        kernel.mmu == "stage2",
    )
    observers = Stage2Observer if kernel.mmu == "stage2" else Observer
    observer = observers(kernel.mmu, host.world.sizes)
    return Automaton(graph_of(kernel.era, ARCHES[kernel.mmu]), observer, matcher, recorded)


@lru_cache
def graph_of(era: Era, arch: str) -> Graph:
    """The processes of the model, folded."""
    host, alone = fault_host(era, arch, True), fault_host(era, arch, False)
    specs = [
        Spec("ksm-merge", ksmd, (host.mm,), host),
        Spec("guest fault", vcpu_run, (host.vcpus[0],), host),
        Spec("host-write", host_thread, (host.mm,), host),
        Spec("host-write" + ALONE, host_thread, (alone.mm,), alone),
    ]
    for subscribed in (True, False):
        specs += range_specs(era, arch, subscribed)
    specs += exit_specs(era, arch)
    if arch == "arm64":
        outside = conform_host(era, find_arch(arch), True, 1, layout=BEHIND_A_HOLE, read_gfns=1)
        specs.append(Spec(EMULATED, vcpu_run, (outside.vcpus[0],), outside))
    one = conform_host(era, find_arch(arch), True, 1)
    specs.append(Spec(RELEASE, releases, (one.kvm,), one, {}, True))
    return fold_graph(specs, WANTED)


def fault_host(era: Era, arch: str, subscribed: bool) -> Host:
    """Eight gfns share a table page, as many as a fault of the shadow MMU prefetches."""
    return conform_host(era, find_arch(arch), subscribed, 8 if arch == "x86-shadow" else 1)


def range_specs(era: Era, arch: str, subscribed: bool) -> list[Spec]:
    """Who invalidates for the primary MMU's reasons."""
    found = find_arch(arch)
    host = conform_host(era, found, subscribed, 1)
    family = conform_host(era, found, subscribed, 1, forks=True)
    huge = conform_host(era, found, subscribed, 2, addresses=4, huge_pages=True)
    free = conform_host(era, found, subscribed, 2, addresses=4, pages=2, huge_pages=True)
    later = conform_host(era, found, subscribed, 1, defers_flushes=True)
    apart = conform_host(
        era, found, subscribed, 1, forks=True, addresses=1, layout=MEMSLOT_ELSEWHERE
    )
    tail = "" if subscribed else ALONE
    zap = "zap_page_range"
    return [
        Spec("madvise, zapping" + tail, zaps, (host.mm,), host, {zap: f"{zap}_single"}, True),
        Spec("madvise, zapping" + tail, zaps_of_huge, (huge.mm,), huge, {}, True),
        Spec("MADV_FREE" + tail, frees_lazily, (host.mm,), host, {}, True),
        Spec("munmap" + tail, zaps, (host.mm,), host, {zap: "unmap_vmas"}, True),
        Spec("mprotect, or NUMA balancing" + tail, protects, (host.mm,), host, {}, True),
        Spec("mremap" + tail, moves, (host.mm,), host, {}, True),
        Spec("fork" + tail, forks, (*family.children, family.mm), family, {}, True),
        Spec("fork" + tail, forks, (*apart.children, apart.mm), apart, {}, True),
        Spec("THP split" + tail, splits, (huge.mm,), huge, {}, True),
        Spec("THP collapse" + tail, collapses, (free.mm,), free, {}, True),
        Spec("reclaim" + tail, reclaims, (host.mm,), host),
        Spec("reclaim" + tail, reclaims, (later.mm,), later),
        Spec("reclaim" + tail, reclaims, (host.mm,), host, {}, True),
        Spec("reclaim" + tail, reclaims, (later.mm,), later, {}, True),
        Spec("writeback" + tail, cleans, (host.mm,), host),
        Spec("writeback" + tail, cleans, (host.mm,), host, {}, True),
        Spec("page migration" + tail, migrates, (host.mm,), host, MIGRATES),
        Spec("page migration" + tail, migrates, (host.mm,), host, MIGRATES, True),  # of a large one
    ]


def exit_specs(era: Era, arch: str) -> list[Spec]:
    """exit_mmap() after the notifiers were released: the list is there, and nobody is on it."""
    host = conform_host(era, find_arch(arch), False, 1)
    return [
        Spec(EXIT, zaps, (host.mm,), host, {"zap_page_range": kernel}, True)
        for kernel in ("unmap_vmas", "exit_mmap")
    ]


MEMSLOT_ELSEWHERE = ((0, 1, 1),)
"""In none of the addresses that are copied: those of another VMA."""

BEHIND_A_HOLE = ((1, 0, 1),)
"""The first gfn is in no memslot; the guest accesses no other."""

MIGRATES = {"try_to_unmap_one": "try_to_migrate_one"}
