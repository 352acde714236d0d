"""The command line: one verb, one layer.  Heavy imports stay inside the verbs.

Exit codes: 0 holds, 1 violated, 2 usage, 3 inconclusive, 70 internal error.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

USAGE, INTERNAL = 2, 70

app = typer.Typer(
    name="mmuwitness",
    help="An executable, checkable model of Linux's MMU notifiers and KVM's secondary MMU.",
    rich_markup_mode=None,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

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


@app.command()
def verdict(
    question: Annotated[str, typer.Argument(help="change_pte")],
    arch: Annotated[list[str] | None, typer.Option("--arch", help="Only this arch.")] = None,
    era: Annotated[list[str] | None, typer.Option("--era", help="Only this kernel.")] = None,
    feature: FeatureOption = None,
    as_json: JsonOption = False,
    verbose: Annotated[bool, typer.Option("-v", help="Print a witness of each effect.")] = False,
) -> None:
    """Can a hook ever do anything?  Per arch and kernel, by exploring every interleaving.

    Example: mmuwitness verdict change_pte --arch arm64 -v
    """
    from mmuwitness.explore.verdict import verdict_change_pte
    from mmuwitness.model.era import UnknownName
    from mmuwitness.report.verdict_table import verdict_json, verdict_text

    if question != "change_pte":
        raise UnknownName("question", question, ["change_pte"])
    if feature and not era:
        raise typer.BadParameter("--feature changes a kernel: say which with --era")
    eras = [kernel(name, feature) for name in era or ()]
    reporter = Reporter()
    try:
        cells = verdict_change_pte(arch or (), eras, reporter.tasks)
    finally:
        reporter.close()
    if as_json:
        say(json.dumps(verdict_json(cells), indent=1))
    else:
        say(verdict_text(cells, witness_blocks(cells) if verbose else ()))
    if not all(cell.complete for cell in cells):
        raise typer.Exit(3)


def witness_blocks(cells: Any) -> list[str]:
    """A timeline for each effect of each span of the matrix."""
    from mmuwitness.explore.verdict import spans
    from mmuwitness.report.verdict_table import WORDS
    from mmuwitness.report.witness import timeline_text

    return [
        f"{'=' * 92}\n{span[0].arch}: {WORDS[effect]}\n{timeline_text(span[-1].witness(effect))}"
        for span in spans(cells)
        for effect in span[-1].effects
    ]


@app.command()
def check(
    scenario: Annotated[str, typer.Argument(help="See `list scenarios`.")],
    era: EraOption = "v7.3",
    arch: ArchOption = "x86-tdp",
    claim: Annotated[list[str] | None, typer.Option("--claim", help="Only this claim.")] = None,
    feature: FeatureOption = None,
    steps: Annotated[
        str, typer.Option("--steps", help="merged, or every: each shared access is a step.")
    ] = "merged",
    threads: Annotated[
        int, typer.Option("--threads", min=0, max=62, help="0: as many as processors.")
    ] = 0,
    memory: Annotated[int, typer.Option("--memory", min=1, help="Limit in MiB.")] = 8192,
    as_json: JsonOption = False,
) -> None:
    """Is a protocol safe?  Every claim over every interleaving; shortest counterexamples.

    Example: mmuwitness check cow_migrate --arch arm64 --era v6.1
    """
    from mmuwitness.explore.explorer import explore
    from mmuwitness.explore.programs import Folding
    from mmuwitness.model.claims import CLAIMS, find_claims
    from mmuwitness.model.era import UnknownName
    from mmuwitness.model.host import find_arch
    from mmuwitness.model.scenarios import find_scenario
    from mmuwitness.report.check_report import check_json, check_text, exit_code

    wanted, made = find_scenario(scenario), find_arch(arch)
    asked, host_era = find_claims(claim or CLAIMS), kernel(era, feature)
    if not made.applies(host_era):
        raise typer.BadParameter(f"{arch} has no MMU notifier in {host_era}'s KVM")
    if steps not in ("merged", "every"):
        raise UnknownName("way to step", steps, ["merged", "every"])
    reporter = Reporter()
    try:
        found = explore(
            wanted,
            host_era,
            arch,
            folding=Folding(every=steps == "every"),
            threads=threads or min(os.cpu_count() or 1, 62),
            memory_limit_bytes=memory << 20,
            progress=reporter.search,
        )
    finally:
        reporter.close()
    if as_json:
        say(json.dumps(check_json(found, asked), indent=1))
    else:
        say(check_text(found, asked))
    raise typer.Exit(exit_code(found, asked))


@app.command()
def replay(
    schedule: Annotated[str, typer.Argument(help="The ID that check or verdict printed.")],
    every_line: Annotated[
        bool, typer.Option("--pdb", help="Step through it in the Python debugger.")
    ] = False,
) -> None:
    """Run one schedule again, on the text of the model itself, and draw it."""
    from mmuwitness.explore.schedule_id import parse_schedule
    from mmuwitness.report.witness import debug_schedule, timeline_text

    wanted = parse_schedule(schedule)
    if every_line:
        debug_schedule(wanted)
    say(timeline_text(wanted))


@app.command("list")
def list_names(
    kind: Annotated[
        str, typer.Argument(help="scenarios, claims, arches, eras, features, functions")
    ],
) -> None:
    """What there is: scenarios, claims, arches, eras, features, functions."""
    from mmuwitness.report.explain import list_text

    say(list_text(kind))


@app.command()
def explain(
    name: Annotated[
        str, typer.Argument(help="A scenario, claim, arch, feature, kernel, function.")
    ],
    steps: Annotated[bool, typer.Option("--steps", help="Where a function's steps begin.")] = False,
    scenario: Annotated[str, typer.Option("--scenario", help="In which scenario.")] = "ksm",
    era: EraOption = "v6.1",
    arch: ArchOption = "x86-tdp",
) -> None:
    """What a name stands for, and where in the kernel it comes from.

    Example: mmuwitness explain wp_page_copy --steps
    """
    from mmuwitness.report.explain import explain_text, steps_text

    say(steps_text(name, scenario, kernel(era, None), arch) if steps else explain_text(name))


def guarded(run: Callable[[], None]) -> int:
    """Run the command line; bad input is one clear message and exit code 2."""
    from mmuwitness.process.errors import ProcessError

    try:
        run()
    except (ValueError, ProcessError) as error:
        typer.echo(f"mmuwitness: {error}", err=True)
        return USAGE
    except KeyboardInterrupt:
        typer.echo("mmuwitness: interrupted", err=True)
        return 3
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except Exception:
        import traceback

        traceback.print_exc()
        typer.echo("mmuwitness: this is a defect of mmuwitness, not of what you asked", err=True)
        return INTERNAL
    return 0


def main() -> None:
    """Entry point of the console script."""
    sys.exit(guarded(app))


if __name__ == "__main__":
    main()
