"""How long the whole verdict matrix takes, from the shell: model cache empty, and warm.

Peers in the same run, on the same machine: the interpreter that starts and does nothing (what
start-up costs at least), and `mmuwitness --help`.  Run: python -m bench.verdict [--json]
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mmuwitness.process.disk_cache import cache_directory

RUNS = 3
COMMAND = [sys.executable, "-m", "mmuwitness"]
LIMITS = {"cold": 10.0, "warm": 3.0, "help": 0.2}


def seconds(arguments: list[str], cache: Path | None = None) -> float:
    """Wall-clock time of one process."""
    environment = dict(os.environ)
    if cache is not None:
        environment["MMUWITNESS_CACHE"] = str(cache)
    start = time.perf_counter()
    subprocess.run(arguments, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def cold_cache(directory: Path) -> Path:
    """A cache with the search core, which is compiled once per installation, and no program."""
    for path in cache_directory().glob("core*"):
        (directory / path.name).write_bytes(path.read_bytes())
    return directory


def measure() -> dict[str, float]:
    verdict = [*COMMAND, "verdict", "change_pte"]
    seconds(verdict)
    cold = []
    for _ in range(RUNS):
        with tempfile.TemporaryDirectory() as directory:
            cold.append(seconds(verdict, cold_cache(Path(directory))))
    return {
        "cold": statistics.median(cold),
        "warm": statistics.median(seconds(verdict) for _ in range(RUNS)),
        "help": statistics.median(seconds([*COMMAND, "--help"]) for _ in range(RUNS)),
        "python": statistics.median(seconds([sys.executable, "-c", "pass"]) for _ in range(RUNS)),
    }


def main() -> None:
    found = measure()
    if "--json" in sys.argv:
        print(json.dumps(found))
        return
    print(f"{'verdict change_pte':24} {'seconds':>8} {'limit':>6} {'x python start':>15}")
    for name, value in found.items():
        limit = f"{LIMITS[name]:6.1f}" if name in LIMITS else f"{'-':>6}"
        print(f"{name:24} {value:8.2f} {limit} {value / found['python']:15.1f}")


if __name__ == "__main__":
    main()
