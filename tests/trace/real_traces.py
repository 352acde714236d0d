"""The real traces in tests/data, counted once each."""

from functools import cache
from pathlib import Path

from mmuwitness.trace.observed import ChangePteCounts, count_change_pte
from mmuwitness.trace.open import open_trace

DATA = Path(__file__).parents[1] / "data"
ARM64 = "arm64/scn6.1_a57.trace.xz"
TDP = "x86/6.1-tdp-ksm-merge.txt.xz"
EFFECTS = ("changed_present", "installed_read_only", "installed_writable", "did_nothing")


@cache
def count(name: str) -> ChangePteCounts:
    return count_change_pte(open_trace(str(DATA / name)))
