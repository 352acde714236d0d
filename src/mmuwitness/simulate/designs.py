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

VARIANTS = Path(__file__).parents[3] / "docs" / "variants"


@dataclass(frozen=True)
class Kernel:
    """What process code is folded for."""

    era: Era
    arch: Arch
    overrides: Mapping[str, FunctionType] = field(default_factory=dict)


@dataclass(frozen=True)
class Design:
    """changes: "+NAME" and "-NAME", features.  variant: a file of docs/variants, or the user's."""

    name: str
    text: str
    changes: tuple[str, ...] = ()
    variant: str = ""

    def kernel(self, era: Era, arch: Arch) -> Kernel:
        """This design on a kernel.  ProcessError: its file is wrong."""
        era = era.with_change(*self.changes)
        if not self.variant:
            return Kernel(era, arch)
        variant = load_variant(self.variant)
        return Kernel(variant.kernel(era), arch, variant.overrides_on(arch))


ALONE = ("+change_pte_bumps_seq", "-change_pte_returns_early", "-change_pte_warns_unbracketed")

DESIGNS = {
    design.name: design
    for design in (
        Design("as-is", "the kernel as it is"),
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
    )
}


def find_design(name: str) -> Design:
    """By name; a name that ends with .py is the user's own variant."""
    if name.endswith(".py"):
        return Design(Path(name).stem, f"variant {name}", variant=name)
    if name not in DESIGNS:
        raise UnknownName("design", name, list(DESIGNS))
    return DESIGNS[name]
