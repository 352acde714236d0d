"""What the verbs share: options that several have, and how they speak."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

EraOption = Annotated[str, typer.Option("--era", help="A kernel: v6.1, v6.1.192, v2.6.32 ...")]
ArchOption = Annotated[str, typer.Option("--arch", help="A secondary MMU: see `list arches`.")]
FeatureOption = Annotated[
    list[str] | None,
    typer.Option("--feature", help="+NAME puts a feature in, -NAME takes it out. Repeatable."),
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

    def close(self) -> None:
        if self.shown:
            sys.stderr.write("\r\033[K")
