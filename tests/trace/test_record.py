"""Recording, on a directory tree that behaves as tracefs does: see fake_tracefs.py."""

from __future__ import annotations

import errno
import itertools
import lzma
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from mmuwitness.trace.open import open_trace
from mmuwitness.trace.record import recorder as record_module
from mmuwitness.trace.record.host import Host
from mmuwitness.trace.record.pieces import merge
from mmuwitness.trace.record.recorder import clean, record
from mmuwitness.trace.record.tracefs import RecordError, Tracefs
from tests.trace.fake_host import CPU0, CPU1, fake_host, fake_tracefs, tracefs_of

DATA = Path(__file__).parent.parent / "data" / "x86"
# Thousands of small files: in memory, if the host has a place for that.
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
MINE = f"mmuwitness-{os.getpid()}"


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return fake_host(fake_tracefs(tmp_path / "tracefs"), tmp_path / "proc")


def test_records_what_the_processors_say_in_order_of_time(host: Host, tmp_path: Path) -> None:
    recorded = record(host, tmp_path / "a.txt", ["true"])
    lines = (tmp_path / "a.txt").read_text().splitlines()
    body = [line for line in lines if not line.startswith("#")]
    exit_0, window, *stack, result = CPU0.splitlines()
    exit_1, lost, madvise = CPU1.splitlines()
    # The kernel told of 3 lost events on the way; its statistics know of 5 and 1.
    rest = ["CPU:0 [LOST 1 EVENTS]", "CPU:1 [LOST 2 EVENTS]"]
    assert body == [exit_0, exit_1, window, *stack, lost, madvise, result, *rest]
    assert "# entries-in-buffer/entries-written: 6/6   #P:2" in lines
    assert "# recorded by mmuwitness: kernel 6.1.0 x86_64, clock mono" in lines
    assert recorded.events == {"kvm_exit": 2, "sys_madvise": 2, "kvm_unmap_hva_range": 1}
    assert (recorded.stacks, recorded.lost, recorded.status) == (1, 6, 0)
    assert not list(tmp_path.glob("a.txt.cpu*"))


def test_the_reader_of_traces_reads_it(host: Host, tmp_path: Path) -> None:
    recorded = record(host, tmp_path / "a.zst", ["true"])
    trace = open_trace(str(tmp_path / "a.zst"))
    events = [name for batch in trace.batches() for name in batch.events["event"].to_list()]
    assert len(events) == sum(recorded.events.values())
    assert (trace.lost, trace.notes) == (recorded.lost, [])


def test_zst_is_compressed(host: Host, tmp_path: Path) -> None:
    record(host, tmp_path / "a.txt", ["true"])
    record(host, tmp_path / "a.zst", ["true"])
    packed = (tmp_path / "a.zst").read_bytes()
    text = zstandard.ZstdDecompressor().decompressobj().decompress(packed)
    assert text == (tmp_path / "a.txt").read_bytes()


@pytest.mark.parametrize("probes", ["stock", "full"])
def test_sets_up_an_instance_of_its_own_and_removes_it(
    host: Host, tmp_path: Path, probes: str
) -> None:
    tracefs = tracefs_of(host)
    before = tracefs.snapshot()
    record(host, tmp_path / "a.txt", ["true"], probes=probes)
    assert tracefs.snapshot() == before
    at = f"instances/{MINE}"
    log = tracefs.log
    assert log.index(f"mono >> {at}/trace_clock") < log.index(f"1 >> {at}/tracing_on")
    assert f"stacktrace >> {at}/events/kvm/kvm_unmap_hva_range/trigger" in log
    assert f"stacktrace >> {at}/events/kvm/kvm_set_spte_hva/trigger" in log
    assert f"1 >> {at}/events/kvmmmu/kvm_tdp_mmu_spte_changed/enable" in log
    group = MINE.replace("-", "_")
    assert (f"1 >> {at}/events/{group}/enable" in log) == (probes == "full")
    probe = f"p:{group}/hva_to_pfn hva_to_pfn addr=$arg1:x64 >> kprobe_events"
    assert (probe in log) == (probes == "full")
    # Nothing of the top level is touched but what defines probes.
    writes = {each.rpartition(" >> ")[2] for each in log if " >> " in each}
    assert {path for path in writes if not path.startswith(at)} <= {"kprobe_events"}


def test_other_peoples_probes_stay(host: Host, tmp_path: Path) -> None:
    tracefs = tracefs_of(host)
    tracefs.write("kprobe_events", "p:theirs/mine do_wp_page")
    tracefs.write("kprobe_events", "r:mmuwitness/other do_wp_page")
    before = tracefs.snapshot()
    record(host, tmp_path / "a.txt", ["true"], probes="full")
    assert tracefs.snapshot() == before


def test_a_refused_probe_is_told_with_the_kernels_words(host: Host, tmp_path: Path) -> None:
    tracefs_of(host).functions.discard("hva_to_pfn")
    notes = record(host, tmp_path / "a.txt", ["true"], probes="full").notes
    refused = [note for note in notes if note.startswith("without probe of hva_to_pfn")]
    assert len(refused) == 2
    assert "Failed to resolve symbol" in refused[0]


def test_missed_probes_are_counted(host: Host, tmp_path: Path) -> None:
    rows = "  hva_to_pfn   12   0\n  kvm_unmap_gfn_ret  40   2\n  theirs   9   9\n"
    (tracefs_of(host).root / "kprobe_profile").write_text(rows)
    assert record(host, tmp_path / "a.txt", ["true"], probes="full").missed == 2
    assert record(host, tmp_path / "b.txt", ["true"]).missed == 0


def test_only_a_process_and_who_invalidates_for_others(host: Host, tmp_path: Path) -> None:
    recorded = record(host, tmp_path / "a.txt", ["true"], pid=100)
    at = f"instances/{MINE}"
    assert f"100 101 105 33 >> {at}/set_event_pid" in tracefs_of(host).log
    assert f"1 >> {at}/events/exceptions/page_fault_user/enable" in tracefs_of(host).log
    assert any("only process 100 (3 threads)" in note for note in recorded.notes)
    with pytest.raises(RecordError, match="--pid 9: there is no such process"):
        record(host, tmp_path / "b.txt", ["true"], pid=9)


class Failing:
    """Fails the operations of these numbers, or sends a signal at them."""

    def __init__(self, numbers: Sequence[int], error: int, number: int = 0) -> None:
        self.numbers, self.error, self.signal = set(numbers), error, number

    def __call__(self, operation: int) -> None:
        if operation in self.numbers:
            if self.signal:
                os.kill(os.getpid(), self.signal)
            else:
                raise OSError(self.error, os.strerror(self.error), "here")


def outcome(host: Host, out: Path, probes: str = "full") -> str:
    try:
        record(host, out, ["true"], probes=probes)
    except RecordError as error:
        return str(error)
    return ""


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, signal.SIGINT], ids=["EIO", "SIGINT"])
def test_whatever_fails_everything_is_removed(number: int) -> None:
    """One failure, or one signal, at each operation in turn."""
    said = Counter[bool]()
    for operation in itertools.count(1):
        with tempfile.TemporaryDirectory(dir=MEMORY) as name:
            tracefs = fake_tracefs(Path(name) / "tracefs")
            before = tracefs.snapshot()
            tracefs.before = Failing([operation], errno.EIO, number)
            text = outcome(fake_host(tracefs, Path(name) / "proc"), Path(name) / "a.txt")
            assert tracefs.snapshot() == before, (operation, text)
            assert not text or "here: " in text or "ended by SIG" in text
            said[bool(text)] += 1
            if tracefs.operations < operation:
                break
    assert said[True] > 5
    assert said[False] > 5


@pytest.mark.slow
@given(
    st.sets(st.integers(1, 70), min_size=2, max_size=8),
    st.sampled_from([errno.EBUSY, errno.ENOMEM, errno.EINVAL, errno.ENOSPC]),
    st.sampled_from(["stock", "full"]),
)
@settings(max_examples=60, deadline=None)
def test_several_failures_leave_nothing(numbers: set[int], error: int, probes: str) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        tracefs = fake_tracefs(Path(name) / "tracefs")
        before = tracefs.snapshot()
        tracefs.before = Failing(sorted(numbers), error)
        outcome(fake_host(tracefs, Path(name) / "proc"), Path(name) / "a.txt", probes)
        assert tracefs.snapshot() == before


def test_what_cannot_be_removed_is_said(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_module, "WAIT_SECONDS", 0.0)

    def busy(path: str) -> None:
        raise OSError(errno.EBUSY, "busy", path)

    monkeypatch.setattr(tracefs_of(host), "remove", busy)
    with pytest.raises(RecordError, match=rf"instances/{MINE}: cannot be removed: .*--clean"):
        record(host, tmp_path / "a.txt", ["true"])
    enables = (tracefs_of(host).root / f"instances/{MINE}/events").rglob("enable")
    assert {path.read_text() for path in enables} == {"0"}


def test_leftovers_of_a_killed_recorder_are_removed(host: Host, tmp_path: Path) -> None:
    tracefs = tracefs_of(host)
    before = tracefs.snapshot()
    for owner in ("100", "4194305"):  # 100 runs
        tracefs.make(f"instances/mmuwitness-{owner}")
        tracefs.write("kprobe_events", f"p:mmuwitness_{owner}/x do_wp_page")
        path = f"instances/mmuwitness-{owner}/events/mmuwitness_{owner}/enable"
        tracefs.write(path, "1")
    notes = record(host, tmp_path / "a.txt", ["true"]).notes
    assert any(note.startswith("process 100 records too") for note in notes)
    assert any(note.startswith("removed what recorder 4194305") for note in notes)
    assert tracefs.names("instances") == ["mmuwitness-100"]
    assert clean(tracefs, lambda pid: False) == [
        f"removed what recorder 100, which runs no more, left in {tracefs.root}"
    ]
    assert tracefs.snapshot() == before


def test_a_command_that_fails_is_told_and_one_that_is_not_there_too(
    host: Host, tmp_path: Path
) -> None:
    before = tracefs_of(host).snapshot()
    assert record(host, tmp_path / "a.txt", ["sh", "-c", "exit 3"]).status == 3
    with pytest.raises(RecordError, match="/not/there: cannot be run: No such file"):
        record(host, tmp_path / "b.txt", ["/not/there"])
    assert tracefs_of(host).snapshot() == before


def test_an_output_that_cannot_be_is_refused_before_anything_is_done(
    host: Host, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("precious")
    for name, why in (
        ("a.txt", "exists already"),
        ("a.dat", "text is recorded"),
        ("no/a.txt", "there is no directory"),
    ):
        with pytest.raises(RecordError, match=why):
            record(host, tmp_path / name, ["true"])
    assert tracefs_of(host).log == []
    assert (tmp_path / "a.txt").read_text() == "precious"


def test_a_signal_ends_the_recording_and_what_there_is_is_written(
    host: Host, tmp_path: Path
) -> None:
    tracefs, pid = tracefs_of(host), os.getpid()
    before = tracefs.snapshot()

    def ask_to_end(text: str) -> None:
        if text.startswith("recording"):
            os.kill(pid, signal.SIGTERM)

    recorded = record(host, tmp_path / "a.txt", ["sleep", "60"], say=ask_to_end)
    assert recorded.ended_by == "SIGTERM"
    assert recorded.status == -signal.SIGTERM
    assert recorded.events["kvm_exit"] == 2
    assert tracefs.snapshot() == before
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_full_disk_is_said_and_what_was_read_is_kept(host: Host, tmp_path: Path) -> None:
    before = tracefs_of(host).snapshot()
    (tmp_path / "a.txt.cpu1").symlink_to("/dev/full")
    with pytest.raises(RecordError, match=r"No space left.*kept in .*a\.txt\.cpu0"):
        record(host, tmp_path / "a.txt", ["sleep", "60"])
    assert (tmp_path / "a.txt.cpu0").read_text() == CPU0
    assert tracefs_of(host).snapshot() == before


def split_by_processor(text: str, path: Path) -> list[Path]:
    """The pieces that the processors would have written."""
    files: dict[str, list[str]] = {}
    processor = ""
    for line in text.splitlines(keepends=True):
        found = re.search(r"\[(\d{3})\]", line)
        processor = found[1] if found else processor
        files.setdefault(processor, []).append(line)
    for name, lines in files.items():
        (path / name).write_text("".join(lines))
    return [path / name for name in files]


def without_header(text: str) -> str:
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))


@pytest.mark.parametrize("name", ["6.1-stock-ksm-merge", "6.1-tdp-ksm-merge"])
def test_merging_gives_a_real_trace_again(name: str, tmp_path: Path) -> None:
    text = without_header(lzma.decompress((DATA / f"{name}.txt.xz").read_bytes()).decode())
    pieces = split_by_processor(text, tmp_path)
    with (tmp_path / "merged").open("wb") as out:
        names = merge(pieces, "", {}, out, lambda number: None)
    assert (tmp_path / "merged").read_text() == text
    # The table of event counts that was made of these runs says 77 starts of KVM, 71 of them
    # followed by .change_pte().
    starts = names["kvm_unmap_hva_range"]
    assert (starts, names["kvm_set_spte_hva"]) == (77, 71)
    assert names["<stack trace>"] in (0, 77 + 71)


def test_writes_append_and_errors_say_where(tmp_path: Path) -> None:
    """As the kernel's kprobe_events needs it: overwriting it removes the probes of all."""
    (tmp_path / "kprobe_events").write_text("p:theirs/mine f\n")
    tracefs = Tracefs(tmp_path)
    tracefs.write("kprobe_events", "p:mine/x g")
    assert tracefs.read("kprobe_events") == "p:theirs/mine f\np:mine/x g\n"
    with pytest.raises(OSError, match="not/there"):
        tracefs.write("not/there", "1")
    assert tracefs.names("not") == []


@pytest.mark.slow
def test_the_record_modules_need_nothing_but_python() -> None:
    """So that they can be copied to a small host: nothing heavy is imported."""
    code = "import sys, mmuwitness.trace.record.recorder; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"polars", "numba", "numpy", "typer", "zstandard"} & set(done.stdout.split())
