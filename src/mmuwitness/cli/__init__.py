"""The command line: one verb, one function.  Heavy imports stay inside the verbs.

Exit codes: 0 holds, 1 violated, 2 usage, 3 inconclusive, 70 internal error.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import typer

from mmuwitness.cli import audit, bugs, conform, export, model, record, simulate

USAGE, INTERNAL = 2, 70
VERBS: dict[str, Callable[..., None]] = {
    "verdict": model.verdict,
    "check": model.check,
    "bugs": bugs.bugs,
    "audit": audit.audit,
    "conform": conform.conform,
    "record": record.record,
    "export": export.export,
    "simulate": simulate.simulate,
    "sweep": simulate.sweep,
    "replay": model.replay,
    "list": model.list_names,
    "explain": model.explain,
}

app = typer.Typer(
    name="mmuwitness",
    help="An executable, checkable model of Linux's MMU notifiers and KVM's secondary MMU.",
    rich_markup_mode=None,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for name, verb in VERBS.items():
    app.command(name, context_settings=simulate.EXTRA if name == "simulate" else None)(verb)


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
