"""What the verbs share: options that several have, and how they speak."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mmuwitness.trace.events import Trace

DEMO = Path(__file__).parents[1] / "trace" / "demo.txt.xz"

EraOption = Annotated[str, typer.Option("--era", help="A kernel: v6.1, v6.1.192, v2.6.32 ...")]
ArchOption = Annotated[str, typer.Option("--arch", help="A secondary MMU: see `list arches`.")]
FeatureOption = Annotated[
    list[str] | None,
    typer.Option("--feature", help="+NAME puts a feature in, -NAME takes it out. Repeatable."),
]
VariantOption = Annotated[
    str | None, typer.Option("--variant", help="A Python file that changes the model.")
]
LivenessOption = Annotated[
    bool, typer.Option("--liveness", help="What has to happen in the end, too.")
]
UnfairLocksOption = Annotated[
    bool, typer.Option("--unfair-locks", help="Who waits for a lock may be overtaken for ever.")
]
ReduceOption = Annotated[
    str, typer.Option("--reduce", help="auto, all, none, or vcpus,pages: explore up to symmetry.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine output.")]


def kernel(era: str, features: list[str] | None) -> Any:
    from mmuwitness.model.era import Era

    return Era(era, tuple(features or ()))


def say(text: str) -> None:
    typer.echo(text)


class Reporter:
    """One line on stderr, renewed, when it is a terminal and the work takes more than a second."""

    def __init__(self) -> None:
        self.shown = False

    def line(self, text: str) -> None:
        if sys.stderr.isatty():
            self.shown = True
            sys.stderr.write(f"\r\033[K{text}")
            sys.stderr.flush()

    def search(self, progress: Any) -> None:
        if progress.seconds > 1:
            self.line(
                f"{progress.states:,} states, {progress.rate / 1e6:.1f} M/s, "
                f"frontier {progress.frontier:,}, depth {progress.depth}"
            )

    def tasks(self, number: int, total: int) -> None:
        self.line(f"{number} of {total} explored")

    def read(self, done: int, total: int | None) -> None:
        self.line(f"{done >> 20:,} MiB" + (f" of {total >> 20:,}" if total else ""))

    def close(self) -> None:
        if self.shown:
            sys.stderr.write("\r\033[K")


@contextmanager
def reading(trace: str | None) -> Iterator[Trace]:
    """The trace of this name; None: the real one that comes with mmuwitness."""
    from mmuwitness.trace.open import open_trace

    reporter = Reporter()
    try:
        yield open_trace(trace or str(DEMO), reporter.read)
    finally:
        reporter.close()
