"""One run. A stand-in: the engine takes its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mmuwitness.simulate.meters import Run, Value


def resolved(workload: str, given: Mapping[str, Any]) -> dict[str, Value]:
    """The parameters of a workload, with defaults for what is not given."""
    return dict(given)


def simulate(
    workload: str,
    design: Any,
    kernel: Any,
    seed: int,
    parameters: Mapping[str, Value],
    costs: Mapping[str, int],
    progress: Callable[[float], None] | None = None,
) -> Run:
    """costs: ns by the name of what takes them.  progress is told the share that is done."""
    raise ValueError(f"{workload} cannot be run: there is no engine")
