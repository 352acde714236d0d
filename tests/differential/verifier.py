"""SPIN at work: a Promela model becomes a verifier, and the verifier's report."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

MISSING = [tool for tool in ("spin", "gcc") if shutil.which(tool) is None]


def run(directory: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


def pan_report(
    model: Path, defines: list[str], directory: Path, *options: str, optimise: str = "-O2"
) -> str:
    """What SPIN's verifier prints, in the build that keeps every state and every step apart."""
    run(directory, "spin", "-o1", "-o2", "-o3", *(f"-D{d}" for d in defines), "-a", str(model))
    run(directory, "gcc", optimise, "-w", "-DNOREDUCE", "-DSAFETY", "-o", "pan", "pan.c")
    return run(directory, "./pan", *options)
