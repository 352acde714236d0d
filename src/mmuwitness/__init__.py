"""mmuwitness: an executable, checkable model of Linux's MMU notifiers and KVM's secondary MMU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmuwitness.api import (
        CheckResult,
        QuestionResult,
        Scenario,
        VariantResult,
        VerdictResult,
        check,
        check_variant,
        dead_lines,
        needed,
        verdict,
    )

__all__ = [
    "CheckResult",
    "QuestionResult",
    "Scenario",
    "VariantResult",
    "VerdictResult",
    "__version__",
    "check",
    "check_variant",
    "dead_lines",
    "needed",
    "verdict",
]

__version__ = "0.1.0.dev0"


def __dir__() -> list[str]:
    """For who completes names: what has not been imported yet is there too."""
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    """The API, imported when it is first asked for: `mmuwitness --help` needs none of it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mmuwitness import api

    return getattr(api, name)
