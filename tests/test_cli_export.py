"""`export --promela`: which scenario it prints, and what it says where it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmuwitness.model.scenarios import SCENARIOS
from tests.test_cli import HOLDS, USAGE, run

VARIANT = "docs/variants/arm64_ranged_retry.py"


def test_a_scenario_is_printed_as_it_is_on_a_kernel() -> None:
    done = run("export --promela dontneed_one --arch arm64 --era v6.1")
    assert done.code == HOLDS and not done.err
    assert done.lines[0] == "/* dontneed_one on arm64, v6.1."
    assert f" * {SCENARIOS['dontneed_one'].text}" in done.lines
    assert "active proctype vcpu0() {" in done.lines
    assert done.out != run("export --promela dontneed_one --arch arm64 --era v3.11").out


def test_features_and_variants_change_what_is_printed() -> None:
    command = "export --promela ksm_first --arch arm64 --era v6.12"
    plain, changed = run(command), run(f"{command} --feature +set_pte_at_notify")
    assert changed.code == HOLDS and changed.lines[5:] != plain.lines[5:]
    variant = run(f"{command} --variant {VARIANT}")
    assert variant.code == HOLDS and "arm64_ranged_retry" in variant.lines[0]


def test_a_bug_brings_its_own_scenario() -> None:
    done = run("export --promela --bug h5")
    assert done.code == HOLDS and done.lines[0].startswith("/* H5 on x86-tdp, v5.12 -")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("export", "say TRACE --perfetto FILE, or --promela SCENARIO"),
        ("export trace.dat", "say TRACE --perfetto FILE, or --promela SCENARIO"),
        ("export trace.dat --perfetto x --era v6.1", "--era goes with --promela"),
        ("export trace.dat --perfetto x --bug H5", "--bug goes with --promela"),
        ("export --promela ksm --perfetto x", "--perfetto is for a trace"),
        ("export --promela", "name a scenario (`list scenarios`) or a --bug"),
        ("export --promela ksn", "unknown scenario 'ksn': did you mean ksm"),
        ("export --promela ksm --arch arm63", "unknown arch"),
        ("export --promela ksm --era v9", "v9"),
        ("export --promela ksm --feature ksm", "ksm"),
        ("export --promela ksm --arch riscv --era v3.7", "riscv has no MMU notifier in v3.7's KVM"),
        ("export --promela --bug H0", "unknown bug 'H0': did you mean"),
        ("export --promela ksm --bug H5", "leave SCENARIO out"),
        ("export --promela --bug H5 --arch arm64", "leave --arch out"),
        ("export --promela ksm --variant none.py", "none.py cannot be read"),
    ],
)
def test_what_cannot_be_exported(command: str, said: str) -> None:
    done = run(command)
    assert done.code == USAGE and not done.out
    assert said in done.message.replace("│", "")
    assert not Path("x").exists()
