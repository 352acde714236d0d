"""What `audit` prints, draws and writes."""

import json
import lzma
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import typer
from matplotlib.image import imread
from typer.testing import CliRunner

from mmuwitness.cli.audit import audit as verb
from mmuwitness.report.audit_json import audit_json
from mmuwitness.report.audit_plot import plot_audit
from mmuwitness.report.audit_report import audit_text, exit_code, headline, share
from mmuwitness.trace.audit.auditor import audit_trace
from mmuwitness.trace.audit.tables import QueryError
from mmuwitness.trace.events import TraceError
from mmuwitness.trace.open import open_trace
from tests.trace.audited import DATA, DEMO, audit_of, audited
from tests.trace.test_windows import mn_end, mn_start, unmap

NAMES = sorted(
    f"{path.parent.name}/{path.name}"
    for path in (*DATA.glob("x86/*.xz"), *DATA.glob("arm64/*.xz"))
    if "_formats" not in path.name
)
app = typer.Typer()
app.command()(verb)


def run(*words: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(word) for word in words])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


@pytest.mark.parametrize("name", NAMES)
def test_a_screen_of_text(name: str) -> None:
    lines = audit_text(audited(name)).splitlines()
    assert max(map(len, lines)) <= 100
    assert len(lines) <= 48
    assert all(line == line.rstrip() for line in lines)
    assert json.loads(json.dumps(audit_json(audited(name))))["windows"] == audited(name).windows


def test_the_answer_comes_first() -> None:
    audit = audited("x86/6.1-tdp-ksm-merge.txt.xz")
    # 71 of 77; of each pair, the second start finds nothing, and 4 pages were never mapped.
    assert headline(audit) == (
        "92 % of 77 windows are KSM; 55 % of those zapped nothing; they cost 32 exits "
        "(all others: 0)."
    )
    (row,) = (line for line in audit_text(audit).splitlines() if line.startswith("KSM write"))
    assert row.split()[2:] == ["36", "36", "36", "32", "4", "32", "0", "32"]


def test_shares_do_not_round_to_all_or_nothing() -> None:
    assert [share(*each) for each in ((999, 1000), (1000, 1000), (1, 1000), (0, 9), (0, 0))] == [
        "over 99 %", "100 %", "under 1 %", "0 %", "0 %",
    ]  # fmt: skip


def test_what_is_unknown_is_a_dash_and_says_what_to_record(tmp_path: Path) -> None:
    text = audit_text(audit_of(f"vm-1 100 {unmap(0x1000, 0x2000)}\n", tmp_path))
    (row,) = (line for line in text.splitlines() if line.startswith("unknown"))
    assert row.split() == ["unknown", "1", "1", "-", "-", "-", "-", "-", "-"]
    assert "what guests paid is not recorded" in text
    for what in ("stacktrace trigger", "_range_end", "kvm_unmap_gfn_range", "spte_changed"):
        assert what in text.split("Record next")[1]


def test_nothing_is_said_to_be_nothing(tmp_path: Path) -> None:
    text = audit_text(audit_of("vm-1 100 kvm_entry: vcpu 0, rip 0x1\n", tmp_path))
    assert "no invalidation of guest memory (nothing happened, or none was recorded)" in text
    assert "kvm:kvm_unmap_hva_range with a stacktrace trigger" in text


def test_certain_causes_have_no_mark_and_others_do(tmp_path: Path) -> None:
    window = f"{{}} 100 {mn_start(0x1000, 0x2000)}\n{{}} 120 {mn_end(0x1000, 0x2000)}\n"
    assert "KSM, either step ?" in audit_text(audit_of(window.replace("{}", "ksmd-2"), tmp_path))
    assert "?" not in audit_text(audited("x86/6.1-stock-ksm-merge.txt.xz")).split("Look at")[0]


def test_lost_events_and_a_cut_end_are_said_and_exit_3(tmp_path: Path) -> None:
    with lzma.open(DATA / "x86/6.1-tdp-madvise.txt.xz", "rt") as file:
        whole = file.readlines()
    assert run(DATA / "x86/6.1-tdp-madvise.txt.xz")[0] == 0
    lossy, cut = tmp_path / "lossy.txt", tmp_path / "cut.txt"
    lossy.write_text("".join([*whole[:700], "CPU:1 [LOST 17 EVENTS]\n", *whole[700:]]))
    cut.write_text("".join(whole[:900])[:-20])
    for path, said in ((lossy, "INCOMPLETE (17 events lost)"), (cut, "INCOMPLETE")):
        code, text = run(path)
        assert code == exit_code(audit_trace(open_trace(str(path)))) == 3
        assert said in text
        assert run(path, "--sql", "select count(*) from events")[0] == 3


def test_the_bundled_trace() -> None:
    code, text = run("--demo")
    assert code == 0
    assert text.startswith("59 % of 170 windows are NUMA balancing")
    assert json.loads(run("--demo", "--json")[1])["pages_migrated"]["syscall_or_cpuset"] == 64


def test_bad_input_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "no.txt").write_text("root:x:0:0:root:/root:/bin/bash\n" * 200)
    with pytest.raises(TraceError, match=r"no\.txt"):
        run(tmp_path / "no.txt")
    assert run()[0] == 2
    assert run("--demo", DEMO)[0] == 2
    with pytest.raises(ValueError, match=r"\.png, \.svg or \.pdf"):
        run("--demo", "--plot", tmp_path / "a.bmp")
    with pytest.raises(ValueError, match="no directory"):
        run("--demo", "--plot", tmp_path / "none" / "a.png")
    with pytest.raises(ValueError, match=r"--parquet .*no\.txt: (File exists|Not a directory)"):
        run("--demo", "--parquet", tmp_path / "no.txt")


@pytest.mark.slow
def test_picture(tmp_path: Path) -> None:
    """Not empty: what it should look like was looked at."""
    path = tmp_path / "a.png"
    assert run("--demo", "--plot", path)[0] == 0
    pixels = imread(path)
    assert pixels.shape[0] > 800
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 50
    plot_audit(audit_of("vm-1 100 kvm_entry: vcpu 0, rip 0x1\n", tmp_path), tmp_path / "empty.svg")
    assert "no zapped SPTE recorded" in (tmp_path / "empty.svg").read_text()


def test_tables_in_sql() -> None:
    sql = (
        "select exit_reason, count(*) as n from kvm_exit join events using (row) "
        "where pid = 582 group by exit_reason order by n desc"
    )
    code, text = run("--demo", "--sql", sql)
    assert (code, text.split()) == (0, ["exit_reason", "n", "io", "4967", "npf", "548",
                                        "interrupt", "223"])  # fmt: skip
    rows = json.loads(run("--demo", "--json", "--sql", sql)[1])
    assert rows[0] == {"exit_reason": "io", "n": 4967}


def test_wrong_sql_names_the_tables() -> None:
    with pytest.raises(QueryError, match=r"--sql: .*(?s:.)*kvm_exit"):
        run("--demo", "--sql", "select nonsense from nowhere")


def test_tables_as_parquet(tmp_path: Path) -> None:
    directory = tmp_path / "tables"
    code, text = run("--demo", "--parquet", directory)
    assert code == 0
    assert f"20,743  {directory / 'events'}" in text
    changed = pl.read_parquet(directory / "kvm_tdp_mmu_spte_changed" / "*.parquet")
    assert changed.height == 976
    assert changed["old_spte"].dtype == pl.UInt64
    with pytest.raises(ValueError, match="give a new directory"):
        run("--demo", "--parquet", directory)
