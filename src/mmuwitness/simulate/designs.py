"""Designs: kernels as they were or might be, that one workload is run on.

A design is a change of features of the kernel that is asked for, or a variant file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType

from mmuwitness.explore.variant import load_variant
from mmuwitness.model.arch.arch import Arch
from mmuwitness.model.era import Era, UnknownName
from mmuwitness.simulate.kernel.aging import RANGED, ZAPS
from mmuwitness.simulate.kernel.numa import TOLD
from mmuwitness.simulate.kernel.precise import PRECISE
from mmuwitness.simulate.meters import DO_NOTHING

VARIANTS = Path(__file__).parents[3] / "docs" / "variants"


@dataclass(frozen=True)
class Kernel:
    """What process code is folded for.  daemons: False if nothing runs but the guests."""

    era: Era
    arch: Arch
    overrides: Mapping[str, FunctionType] = field(default_factory=dict)
    daemons: bool = True


@dataclass(frozen=True)
class Design:
    """changes: "+NAME" and "-NAME", features.  variant: a file of docs/variants, or the user's.
    overrides: functions of `simulate.kernel` in the place of the model's.  daemons: see Kernel."""

    name: str
    text: str
    changes: tuple[str, ...] = ()
    variant: str = ""
    overrides: Mapping[str, FunctionType] = field(default_factory=dict)
    daemons: bool = True

    def kernel(self, era: Era, arch: Arch) -> Kernel:
        """This design on a kernel.  ProcessError: its file is wrong."""
        era = era.with_change(*self.changes)
        if not self.variant:
            return Kernel(era, arch, self.overrides, self.daemons)
        variant = load_variant(self.variant)
        return Kernel(variant.kernel(era), arch, variant.overrides_on(arch))


ALONE = ("+change_pte_bumps_seq", "-change_pte_returns_early", "-change_pte_warns_unbracketed")

DESIGNS = {
    design.name: design
    for design in (
        Design("as-is", "the kernel as it is"),
        Design(DO_NOTHING, "the guests alone: no ksmd, no scanner, no balloon", daemons=False),
        Design("wrapped", "change_pte inside a window (v3.7 to v6.9)", ("+set_pte_at_notify",)),
        Design("removed", "no change_pte: the window only (v6.10)", ("-set_pte_at_notify",)),
        Design(
            "unwrapped-2009",
            "change_pte without a window (v2.6.33 to v3.6)",
            ("-change_pte_bracketed", *ALONE),
        ),
        Design(
            "ksm-only",
            "KSM calls change_pte without a window, others open windows without it",
            variant=str(VARIANTS / "ksm_only_change_pte.py"),
        ),
        Design(
            "prefetch",
            "change_pte maps the new page, inside its window (x86)",
            variant=str(VARIANTS / "x86_prefetch_guarded.py"),
        ),
        Design(
            "global-retry",
            "a fault retries if any window is open (x86 until v5.12; arm64, riscv, powerpc)",
            ("-range_retry_hva", "-range_retry_gfn"),
        ),
        Design(
            "ranged-retry",
            "a fault retries if its gfn is in the hull of the open windows (x86 since v5.12)",
            ("+range_retry_gfn", "+prefetch_guard"),
        ),
        Design(
            "precise-ranges",
            "a fault retries if a window over its own gfn is open; no kernel does",
            ("+range_retry_gfn", "+prefetch_guard"),
            overrides=PRECISE,
        ),
        Design(
            "no-fast-page-fault",
            "writes that the dirty log wants to know of take mmu_lock (x86 until v3.6; TDP v5.15)",
            ("-x86_fast_page_fault", "-x86_tdp_fast_page_fault"),
        ),
        Design(
            "aging-flushes",
            "a page that was young is one flush of the whole VM (x86 until v6.13)",
            ("-aging_flush_elided",),
        ),
        Design(
            "aging-flushes-range",
            "a page that was young is a flush of its gfn alone; no x86 kernel does",
            overrides=RANGED,
        ),
        Design(
            "aging-never-flushes",
            "A bits are cleared, TLBs left alone (x86 since v6.13)",
            ("+aging_flush_elided",),
        ),
        Design(
            "age-zaps",
            "SPTEs that are asked for go, and their faults say that they are young",
            ("+aging_flush_elided",),
            overrides=ZAPS,
        ),
        Design(
            "numa-told",
            "NUMA windows zap only what becomes PROT_NONE, as an RFC of 2023 had it",
            overrides=TOLD,
        ),
    )
}


def find_design(name: str) -> Design:
    """By name; a name that ends with .py is the user's own variant."""
    if name.endswith(".py"):
        return Design(Path(name).stem, f"variant {name}", variant=name)
    if name not in DESIGNS:
        raise UnknownName("design", name, list(DESIGNS))
    return DESIGNS[name]
