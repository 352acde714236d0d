"""What a file is, its content says: compressed, piped, damaged, and what is no trace at all."""

from __future__ import annotations

import gzip
import io
import lzma
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from mmuwitness.trace.compressed import ByteStream, map_stream
from mmuwitness.trace.events import TraceError
from mmuwitness.trace.open import open_trace
from tests.trace.printed import rows

DATA = Path(__file__).parents[1] / "data"
TEXT = lzma.decompress((DATA / "x86/6.1-tdp-ksm-merge.txt.xz").read_bytes())
DAT = lzma.decompress((DATA / "x86/6.1-tdp-ksm-merge.dat.xz").read_bytes())
ENTRIES = 3251  # of TEXT, as its header says
PACK: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}


class Pipe(io.BytesIO):
    """Standard input that is no file: it has a few bytes at a time and no size."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(min(size or 7000, 7000))


def piped(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(Pipe(content)))


@pytest.mark.parametrize("packed", PACK)
def test_compression_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: str
) -> None:
    content = PACK[packed](TEXT)
    path = tmp_path / "any.name"
    path.write_bytes(content)
    trace = open_trace(str(path))
    found = rows(trace)
    assert (len(found), trace.complete, trace.notes) == (ENTRIES, True, [])
    piped(monkeypatch, content)
    assert rows(open_trace("-")) == found


@pytest.mark.parametrize("packed", ["gzip", "xz", "zstd"])
def test_streams_one_after_the_other(tmp_path: Path, packed: str) -> None:
    middle = len(TEXT) // 2
    path = tmp_path / "two"
    path.write_bytes(PACK[packed](TEXT[:middle]) + PACK[packed](TEXT[middle:]))
    assert len(rows(open_trace(str(path)))) == ENTRIES


@pytest.mark.parametrize("packed", ["gzip", "xz", "zstd"])
def test_a_cut_stream_is_read_as_far_as_it_goes(tmp_path: Path, packed: str) -> None:
    content = PACK[packed](TEXT)
    path = tmp_path / "cut"
    path.write_bytes(content[: len(content) * 3 // 4])
    trace = open_trace(str(path))
    found = rows(trace)
    assert 0 < len(found) < ENTRIES
    assert not trace.complete
    assert trace.notes[0] == f"the {packed} stream is cut short, after line {len(found) + 12}"
    assert f"{len(found)} entries, but the header promises {ENTRIES}" in trace.notes[-1]


@pytest.mark.parametrize("packed", ["gzip", "xz", "zstd"])
def test_a_damaged_stream_is_read_as_far_as_it_goes(tmp_path: Path, packed: str) -> None:
    content = bytearray(PACK[packed](TEXT * 4))
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(byte ^ 0x55 for byte in content[middle : middle + 64])
    path = tmp_path / "damaged"
    path.write_bytes(content)
    try:
        trace = open_trace(str(path))
        found = len(rows(trace))
    except TraceError as refused:  # xz gives out nothing of a block that fails
        assert f"the {packed} stream is damaged" in str(refused)
    else:
        assert found > 0
        assert not trace.complete
        assert any(f"the {packed} stream" in note for note in trace.notes)


def test_trace_dat_is_found_by_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "trace"
    path.write_bytes(DAT)
    assert open_trace(str(path)).format == "trace.dat v7"
    path.write_bytes(gzip.compress(DAT))
    expected = sum(batch.events.height for batch in open_trace(str(path)).batches())
    piped(monkeypatch, DAT)
    assert sum(batch.events.height for batch in open_trace("-").batches()) == expected == 3241


def test_a_cut_trace_dat_says_so(tmp_path: Path) -> None:
    path = tmp_path / "cut"
    content = lzma.compress(DAT)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(
        TraceError, match=r"the xz stream is cut short, so .*the file has"
    ) as refused:
        open_trace(str(path))
    assert refused.value.place
    # All is there but the end of the stream itself.
    path.write_bytes(gzip.compress(DAT)[:-8])
    trace = open_trace(str(path))
    assert sum(batch.events.height for batch in trace.batches()) == 3241
    assert trace.notes == ["the gzip stream is cut short"]
    assert (trace.complete, trace.lost, trace.format) == (False, 0, "trace.dat v7")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "is empty"),
        (b"PERFILE2" + bytes(100), "this is perf.data, not a trace: write its text with `perf scr"),
        (b"\x7fELF\x02", "this is an ELF file"),
        (b"\xd4\xc3\xb2\xa1", "this is a pcap file"),
        (b"PK\x03\x04", "this is a zip archive, not a trace: unpack it"),
        (b"PAR1", "this is a Parquet file"),
        (b"name" + bytes(253) + b"ustar\x0000", "this is a tar archive"),
        (b"tracing" + bytes(30), "a part of a trace.dat"),
        ("\ufeffvmm".encode("utf-16-le"), "this is text in UTF-16"),
        (b"abc\0def", "byte 0 in what should be text"),
        (b"\xfd7zXZ\x00nothing", "the xz stream is"),
        (b"\x1f\x8bnothing", "the gzip stream is"),
        (b"\x28\xb5\x2f\xfdnothing", "the zstd stream is"),
    ],
)
def test_says_what_is_no_trace(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "trace.dat"
    path.write_bytes(content)
    with pytest.raises(TraceError) as refused:
        rows(open_trace(str(path)))
    assert what in str(refused.value)
    assert str(refused.value).startswith(str(path))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path, why in (
        (tmp_path / "none", "cannot be opened: No such file or directory"),
        (tmp_path, "cannot be opened: Is a directory"),
    ):
        with pytest.raises(TraceError, match=why):
            open_trace(str(path))


def test_standard_input_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    piped(monkeypatch, TEXT)
    trace = open_trace("-")
    assert len(rows(trace)) == ENTRIES
    with pytest.raises(TraceError, match="standard input: it can be read only once"):
        rows(trace)


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    path = tmp_path / "trace"
    path.write_bytes(TEXT)
    rows(open_trace(str(path), lambda done, size: told.append((done, size))))
    assert told[-1] == (len(TEXT), len(TEXT))


def test_maps_what_was_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    for content in (TEXT, gzip.compress(TEXT)):
        path.write_bytes(content)
        mapped = map_stream(ByteStream(str(path)))
        assert (mapped.content[:], mapped.damage) == (TEXT, None)
        piped(monkeypatch, content)
        assert map_stream(ByteStream("-")).content[:] == TEXT


def test_a_pipe_of_the_shell_works() -> None:
    script = "from mmuwitness.trace.open import open_trace\n"
    script += "print(sum(batch.events.height for batch in open_trace('-').batches()))"
    made = subprocess.run(
        [sys.executable, "-c", script], input=TEXT, capture_output=True, check=True, timeout=60
    )
    assert made.stdout.split() == [str(ENTRIES).encode()]
