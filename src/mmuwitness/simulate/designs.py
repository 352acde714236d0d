"""Designs: kernels as they were or might be. A stand-in: the engine's own takes its place."""

from __future__ import annotations

from typing import Any

from mmuwitness.model.era import UnknownName

Kernel = Any
DESIGNS: dict[str, Any] = {}


def find_design(name: str) -> Any:
    """By name; UnknownName lists what exists."""
    if name not in DESIGNS:
        raise UnknownName("design", name, list(DESIGNS))
    return DESIGNS[name]
