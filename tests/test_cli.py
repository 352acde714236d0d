"""The command line: exit codes, messages, plain text of at most 100 columns, never a traceback."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from unittest import mock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mmuwitness.cli import main
from mmuwitness.model.bugs.bug import corpus
from mmuwitness.model.claims import CLAIMS, everywhere
from mmuwitness.model.features import FEATURES
from mmuwitness.model.host import ARCHES
from mmuwitness.model.releases import RELEASES
from mmuwitness.model.scenarios import SCENARIOS
from mmuwitness.process.marks import marks
from mmuwitness.report.explain import KINDS, functions

COLUMNS = 100
HOLDS, VIOLATED, USAGE, INCONCLUSIVE = 0, 1, 2, 3


@dataclass(frozen=True)
class Done:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def message(self) -> str:
        """What is said on stderr, as one line."""
        return " ".join(self.err.split())


def run_words(*words: str) -> Done:
    """Run a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["mmuwitness", *words]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
            code: object = 0
        except SystemExit as exit:
            code = exit.code
    assert isinstance(code, int | None)
    return Done(code or 0, out.getvalue(), err.getvalue())


def run(command: str) -> Done:
    return run_words(*command.split())


def run_process(*words: str, options: tuple[str, ...] = (), **environment: str) -> Done:
    """Run a command in a process of its own."""
    done = subprocess.run(
        [sys.executable, *options, "-m", "mmuwitness", *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **environment},
    )
    return Done(done.returncode, done.stdout, done.stderr)


def settled(text: str) -> str:
    """Without what differs from run to run, or with every edit of the model."""
    text = re.sub(r"\d+\.\d M states/s", "N M states/s", text)
    return re.sub(r"\.py:\d+", ".py:N", text)


# Exit codes


@pytest.mark.parametrize(
    ("code", "command"),
    [
        (HOLDS, "check uprobe_one"),
        (HOLDS, "check uprobe_one --era v6.1.192 --arch arm64 --threads 2"),
        (HOLDS, "check cow_smp --era v2.6.32 --arch x86-shadow --claim coherent"),
        (VIOLATED, "check cow_smp --era v2.6.32 --arch x86-shadow"),
        (VIOLATED, "check cow_smp --era v2.6.32 --arch x86-shadow --json"),
        (VIOLATED, "check unmerge --era v6.1 --feature=-change_pte_bracketed --claim warns"),
        (INCONCLUSIVE, "check migrate --era v6.9 --memory 1"),
        (INCONCLUSIVE, "check migrate --era v6.9 --memory 1 --json"),
        (HOLDS, "verdict change_pte --era v6.1 --arch s390"),
        (HOLDS, "verdict change_pte --era v6.1 --arch arm64"),
        (HOLDS, "replay uprobe_one/v6.1/x86-tdp/0x4"),
        (HOLDS, "list scenarios"),
        (HOLDS, "explain wp_page_copy"),
        (HOLDS, "--help"),
        (USAGE, ""),
        (USAGE, "check"),
        (USAGE, "check uprobe_one reclaim_one"),
        (USAGE, "check uprobe_one --threads none"),
        (USAGE, "check uprobe_one --memory 0"),
        (USAGE, "explode"),
    ],
)
def test_exit_code(code: int, command: str) -> None:
    done = run(command)
    assert done.code == code, done.err
    assert "Traceback" not in done.out + done.err
    assert bool(done.err) == (code == USAGE)


def test_a_violation_beats_a_search_that_was_cut_short() -> None:
    done = run("check cow_migrate --arch arm64 --era v6.1 --memory 40 --json")
    data = json.loads(done.out)
    assert (data["complete"], data["stopped"]) == (False, "memory")
    assert data["claims"]["change_pte_alone"] == "violated" and done.code == VIOLATED
    assert "undecided" in data["claims"].values() and "holds" not in data["claims"].values()


# Names that nothing has


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("check kms", "unknown scenario 'kms': did you mean ksm? there are ksm, ksm_alone, "),
        ("check ksm --arch arm46", "unknown arch 'arm46': did you mean arm64? there are x86-tdp,"),
        ("check ksm --era v16.1", "unknown era 'v16.1': did you mean v6.1 or "),
        ("check ksm --era 2023", "unknown era '2023': there are v2.6.32 to v2.6.39, v3.0 to "),
        (
            "check ksm --reduce page",
            "unknown reduction 'page': did you mean pages? there are auto,",
        ),
        ("check ksm --claim I99", "unknown claim 'I99': did you mean I9? there are coherent, "),
        ("check ksm --claim coherence", "unknown claim 'coherence': did you mean coherent? "),
        ("check ksm --feature +kms", "unknown feature 'kms': did you mean ksm? there are aging_"),
        ("check ksm --feature ksm", "'ksm' changes nothing: write +ksm or -ksm"),
        ("check ksm --steps some", "'some': there are merged, every"),
        ("verdict change_spte", "unknown question 'change_spte': did you mean change_pte"),
        ("verdict change_pte --arch arm", "unknown arch 'arm': did you mean arm64?"),
        ("verdict change_pte --era v9", "unknown era 'v9': did you mean v6.9 or "),
        ("verdict change_pte --feature -ksm", "--feature changes a kernel: say which with --era"),
        ("check ksm --arch s390 --era v6.1", "s390 has no MMU notifier in v6.1's KVM"),
        ("check ksm --arch x86-tdp --era v3.7", "x86-tdp has no MMU notifier in v3.7's KVM"),
        ("list arch", "unknown kind 'arch': did you mean arches? there are scenarios, claims, "),
        ("explain write_protect", "unknown name 'write_protect': did you mean write_protect_page"),
        ("explain wp_page_kopy --steps", "unknown function 'wp_page_kopy': did you mean wp_page_"),
        ("explain wp_page_copy --steps --scenario kms", "unknown scenario 'kms': did you mean "),
        ("replay kms/v6.1/arm64/0", "unknown scenario 'kms': did you mean ksm?"),
        ("replay ksm/v6.1/arm46/0", "unknown arch 'arm46': did you mean arm64?"),
        ("replay ksm/v6.1,-kms/arm64/0", "unknown feature 'kms': did you mean ksm?"),
    ],
)
def test_an_unknown_name_lists_what_there_is(command: str, says: str) -> None:
    done = run(command)
    assert (done.code, done.out) == (USAGE, "")
    assert says in done.message
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["explain", ""], "unknown name ''"),
        (["explain", "foo"], "unknown name 'foo': see `mmuwitness list KIND`"),
        (["replay", "ksm//arm64/0"], "unknown era ''"),
        (["replay", "uprobe_one/v2.6.32/arm64/0"], "arm64 has no MMU notifier in v2.6.32's KVM"),
        (["replay", "uprobe_one/v6.1/arm64/0x99999999999"], "not a schedule of this model"),
    ],
)
def test_what_should_be_refused(words: list[str], says: str) -> None:
    done = run_words(*words)
    assert done.code == USAGE and says in done.message


# Schedules


@pytest.fixture(scope="module")
def discovery() -> str:
    """The ID of a counterexample."""
    done = run("check cow_smp --era v2.6.32 --arch x86-shadow --json")
    witness = json.loads(done.out)["witnesses"]["no_lost_write"]
    assert isinstance(witness, str)
    return witness


def test_a_discovery_can_be_replayed(discovery: str) -> None:
    done = run_words("replay", discovery)
    assert done.code == HOLDS
    assert done.lines[-1] == f"Replay: mmuwitness replay {discovery}"
    assert any("mm.stale_load: no -> yes" in line for line in done.lines)


@pytest.mark.parametrize(
    "schedule",
    [
        "",
        "garbage",
        "0x7.1b",
        "cow_smp/v2.6.32/x86-shadow",
        "cow_smp/v2.6.32/x86-shadow/0x7.1b/",
        "cow_smp/v2.6.32/x86-shadow/0x7.1b.1x17.2.2b.0.?",
        "cow_smp/v2.6.32/x86-shadow/3",
        "cow_smp/v2.6.32/x86-shadow/0z",
        "cow_smp/v2.6.32/x86-shadow:thread/0",
        "../../etc/passwd",
        "\x00/\n/\t/\x1b",
    ],
)
def test_what_is_no_schedule_is_a_usage_error(schedule: str) -> None:
    done = run_words("replay", schedule)
    assert (done.code, done.out) == (USAGE, "")
    assert done.err.startswith("mmuwitness: ") and "Traceback" not in done.err


def test_a_truncated_schedule_is_shorter_or_refused(discovery: str) -> None:
    whole = run_words("replay", discovery)
    steps = discovery.rpartition("/")[2]
    for length in {0, 1, len(steps) // 2, len(steps) - 1}:
        done = run_words("replay", discovery[: len(discovery) - len(steps) + length])
        assert done.code in (HOLDS, USAGE)
        assert len(done.out) < len(whole.out)
    for length in (1, len("cow_smp/v2"), len("cow_smp/v2.6.32/x86-shadow")):
        assert run_words("replay", discovery[:length]).code == USAGE


def test_a_schedule_of_another_program_is_refused(discovery: str) -> None:
    for other in (discovery.replace("cow_smp", "uprobe_one"), discovery.replace("v2.6.32", "v6.1")):
        done = run_words("replay", other)
        assert (done.code, done.out) == (USAGE, "")
        assert re.match(r"mmuwitness: not a schedule of this model: step \d+: process", done.err)


# Bad input of every kind

WORDS = (
    *("check", "verdict", "replay", "list", "explain", "--help", "--json", "-v", "--bogus", "-"),
    *("--era", "--arch", "--claim", "--feature", "--threads", "--memory", "--steps", "--scenario"),
    *("uprobe_one", "reclaim_one", "kms", "wp_page_copy", "X86.page_fault", "coherent", "I4"),
    *("v6.1", "v2.6.32", "v7.3", "v6.1.192", "v9.9", "arm64", "x86-tdp", "s390", "arm46"),
    *("+ksm", "-ksm", "+", "-change_pte_bracketed", "1", "2", "0", "-1", "1e9", "merged", "every"),
    *("scenarios", "features", "uprobe_one/v6.1/arm64/0x3", "uprobe_one/v6.1/arm64", "", "é", "%s"),
)


@pytest.mark.slow
@settings(max_examples=150)
@given(st.lists(st.sampled_from(WORDS), max_size=7))
@example(["check", "uprobe_one", "--era", "v6.1", "--arch", "arm64", "--claim", "I4"])
@example(["explain", "wp_page_copy", "--steps", "--scenario", "uprobe_one"])
@example(["replay", "uprobe_one/v6.1/arm64/0x3"])
@example(["check", "uprobe_one", "--feature", "-change_pte_bracketed", "--feature", "+ksm"])
def test_any_words_give_an_answer_or_a_message(words: list[str]) -> None:
    done = run_words(*words)  # any exception but SystemExit fails here
    assert done.code in (HOLDS, VIOLATED, USAGE, INCONCLUSIVE)
    assert bool(done.err) == (done.code == USAGE)
    assert "Traceback" not in done.out + done.err


# Plain text

SHOWN = [
    *(f"list {kind}" for kind in KINDS),
    "verdict change_pte --era v6.1 --era v6.12 -v",
    "check cow_smp --era v2.6.32 --arch x86-shadow",
    "check cow_migrate --era v6.1 --arch arm64",
    "check uprobe_one",
    "check migrate --memory 1",
    "explain Arm64.page_fault --steps --arch arm64",
    *("explain ksm", "explain I13", "explain arm64", "explain prefetch_guard", "explain v6.1.36"),
    *("explain wp_page_copy", "explain wp_page_copy --steps", "explain X86Tdp.direct_page_fault"),
    *("--help", "check --help", "verdict --help", "replay --help", "list --help", "explain --help"),
]


@pytest.mark.parametrize("command", SHOWN)
def test_output_is_plain_text_of_at_most_100_columns(command: str) -> None:
    done = run(command)
    assert done.code in (HOLDS, VIOLATED, INCONCLUSIVE) and done.err == ""
    # an ID is one word, however long it is
    lines = [line for line in done.lines if ": mmuwitness replay " not in line]
    assert max(len(line) for line in lines) <= COLUMNS
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", done.out), "a control character"


def test_changed_features_leave_the_table_at_most_100_columns() -> None:
    changes = "--feature=+arm64_change_pte --feature=+set_pte_at_notify"
    done = run(f"verdict change_pte --era v6.12 --arch arm64 {changes}")
    assert max(len(line) for line in done.lines) <= COLUMNS


@pytest.mark.parametrize("kind", KINDS)
def test_lists_have_no_trailing_blanks(kind: str) -> None:
    assert [line for line in run(f"list {kind}").lines if line != line.rstrip()] == []


@pytest.mark.slow
def test_a_pipe_gets_no_escape_codes() -> None:
    for command in ("check uprobe_one", "verdict change_pte --era v6.1 --arch arm64", "--help"):
        done = run_process(*command.split(), TERM="xterm-256color")
        assert done.code == HOLDS and done.out and "\x1b" not in done.out + done.err


def imported(*words: str) -> set[str]:
    """The top-level modules that a command imports."""
    done = run_process(*words, options=("-X", "importtime"))
    assert done.code == HOLDS
    names = (line.rpartition("|")[2].strip() for line in done.err.splitlines())
    return {name.partition(".")[0] for name in names}


@pytest.mark.slow
@pytest.mark.parametrize("command", ["--help", "check --help", "verdict --help"])
def test_help_is_quick(command: str) -> None:
    assert not imported(*command.split()) & {"numba", "numpy", "llvmlite", "rich"}


def test_help_names_every_verb_with_an_example() -> None:
    verbs = ("check", "verdict", "replay", "list", "explain")
    listed = run("--help").out
    assert all(re.search(rf"^  {verb} +\w", listed, re.MULTILINE) for verb in verbs)
    for verb in ("check", "verdict", "explain"):
        assert "Example: mmuwitness " + verb in run(f"{verb} --help").out


# What is printed


def test_verdict_is_as_the_golden_file(golden: Callable[[str, str], None]) -> None:
    golden("verdict-v6.1.txt", run("verdict change_pte --era v6.1").out)


def test_a_counterexample_is_as_the_golden_file(golden: Callable[[str, str], None]) -> None:
    done = run("check cow_smp --era v2.6.32 --arch x86-shadow")
    golden("check-cow_smp-v2.6.32.txt", settled(done.out))


def test_a_timeline_has_a_lane_for_each_process(discovery: str) -> None:
    lines = run_words("replay", discovery).lines
    assert lines[0] == f"cow_smp on x86-shadow, v2.6.32: {numbered(lines)[-1]} steps"
    head = next(line for line in lines if line.startswith("step"))
    assert head.split()[:4] == ["step", "vcpu0", "vcpu1", "vmm"]
    lanes = [head.index(name) for name in ("vcpu0", "vcpu1", "vmm")]
    for line in lines:
        if re.match(r" *\d+ ", line):
            assert sorted(line[at] for at in lanes) == ["*", "|", "|"]
            assert re.search(r"\w+\(\)  \w+/\w+\.py:\d+", line), line
    assert numbered(lines) == list(range(1, len(numbered(lines)) + 1))


def numbered(lines: list[str]) -> list[int]:
    return [int(match[1]) for line in lines if (match := re.match(r" {0,3}(\d+)  ", line))]


def test_a_warning_is_not_called_a_flush() -> None:
    done = run("verdict change_pte --era v6.1 --arch x86-tdp --feature=-change_pte_bracketed")
    assert "trips its WARN_ON" in done.out and "Only flushes" not in done.out


def test_check_prints_each_claim_its_bounds_and_the_memory_order() -> None:
    done = run("check uprobe_one --era v6.1")
    assert done.lines[0] == "uprobe_one on x86-tdp, v6.1: every claim holds"
    verdicts = {line.split()[-1]: line[2:15].strip() for line in done.lines if line[:2] == "  "}
    assert verdicts == {
        c.name: "never reached" if c.kind == "sometimes" else "holds"
        for c in CLAIMS.values()
        if c.where is everywhere
    }
    rest = " ".join(done.out.split())
    assert f"Complete: {SCENARIOS['uprobe_one'].bounds}; " in rest
    assert "Sequentially consistent" in rest


def test_check_says_what_it_did_not_see() -> None:
    done = run("check migrate --era v6.9 --memory 1")
    assert done.lines[0] == "migrate on x86-tdp, v6.9: INCONCLUSIVE"
    assert "NOT COMPLETE (the memory limit was reached)" in done.out
    assert "holds" not in done.out and "never reached" not in done.out


def test_json_of_check() -> None:
    done = run("check cow_smp --era v2.6.32 --arch x86-shadow --json")
    data = json.loads(done.out)
    assert (data["scenario"], data["kernel"], data["arch"]) == ("cow_smp", "v2.6.32", "x86-shadow")
    assert data["complete"] is True and data["stopped"] is None and data["deadlock"] is False
    assert set(data["claims"]) == {n for n, c in CLAIMS.items() if c.where is everywhere}
    assert {n for n, v in data["claims"].items() if v == "violated"} == {"no_lost_write"}
    reached = {n for n, v in data["claims"].items() if v in ("violated", "reached")}
    assert set(data["witnesses"]) == reached == {"no_lost_write", "zaps", "flushes"}
    only = json.loads(run("check uprobe_one --claim I4 --claim changes --json").out)
    assert only["claims"] == {"freed_page_unmapped": "holds", "changes": "never reached"}


NAMES = {
    "scenarios": set(SCENARIOS),
    "claims": set(CLAIMS),
    "arches": set(ARCHES),
    "eras": set(RELEASES),
    "features": {row.name for row in FEATURES},
    "functions": set(functions()),
    "bugs": set(corpus()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_list_names_everything(kind: str) -> None:
    listed = run_words("list", kind).out
    if kind == "marks":
        assert all(mark in listed for mark in marks())
    else:
        assert NAMES[kind] <= set(listed.split())


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("ksm", ["scenario ksm", "Bounds: 1 vCPU, 2 gfns", "Run: mmuwitness check ksm"]),
        ("freed_page_unmapped", ["claim freed_page_unmapped I4, always", "mapped by no SPTE"]),
        ("I6", ["claim no_lost_write I6, always", "Read when free: ptl"]),
        ("warns", ["claim warns, never", "every call is inside a window"]),
        ("arm64", ["arch arm64", "arch/arm64/kvm/mmu.c", "TLB entries are invalidated one by one"]),
        ("change_pte_op", ["feature change_pte_op", "v2.6.32 to before v6.10", "828502d30073",
                           "until commit 997308f9ae72", "known from: source read"]),
        ("v6.1.36", ["kernel v6.1.36", "arm64: ", "change_pte_skips_invalid_slot"]),
        ("wp_page_copy", ["function wp_page_copy(mm, addr, orig_pte, unshare)", "of mm/memory.c"]),
        ("h5", ["bug H5", "fixed by c2655835fd8c", "known from: source read", "Violates I8",
                "v5.12 -nonblock_start_paired", "Run: mmuwitness check --bug H5"]),
        ("R1", ["bug R1", "brought by 6bdb913f0a70", "its own kvm_change_spte_gfn()"]),
        ("X86.page_fault", ["function X86.page_fault(self, vcpu, fault)", "arch/x86/kvm/mmu"]),
    ],
)  # fmt: skip
def test_explain_one_of_each_kind(name: str, says: list[str]) -> None:
    done = run_words("explain", name)
    text = " ".join(done.out.split())
    assert done.code == HOLDS and [each for each in says if each not in text] == []


def test_explain_shows_where_steps_begin() -> None:
    lines = run("explain wp_page_copy --steps --era v6.1 --arch x86-tdp").lines
    assert lines[0] == "wp_page_copy() in ksm on x86-tdp, v6.1: > marks where a step begins"
    assert lines[1].split()[:2] == ["def", "wp_page_copy(mm,"]
    begins = {line[2:].partition("#")[0].strip(): line for line in lines[1:] if line[0] == ">"}
    assert "vcpu0: acquire MM.ptl" in begins["with spin_lock(mm.ptl):"]
    assert "if not copied:" not in begins and "copied = False" not in begins


def test_explain_of_a_function_that_nobody_calls_says_so() -> None:
    lines = run("explain migrate_pages --steps --scenario ksm").lines
    assert lines[1] == "  (no process of this scenario calls it)"
