"""Whatever happens to the bytes of a text: events and a word about it, or a TraceError."""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmuwitness.trace.events import TraceError
from mmuwitness.trace.open import open_trace
from tests.trace.printed import rows

DATA = Path(__file__).parents[1] / "data"


def small_text() -> bytes:
    """The header and some events of a real trace, with a system call, a mark and a stack."""
    text = lzma.decompress((DATA / "x86/6.1-stock-ksm-merge.txt.xz").read_bytes())
    lines = text.splitlines(keepends=True)
    stack = next(number for number, line in enumerate(lines) if b"<stack trace>" in line)
    mark = next(number for number, line in enumerate(lines) if b"tracing_mark_write" in line)
    return b"".join([*lines[:14], *lines[stack - 2 : stack + 12], *lines[mark : mark + 2]])


TEXT = small_text()


def check(path: Path, content: bytes) -> None:
    """No event is there without anything said, unless all of them are."""
    path.write_bytes(content)
    try:
        trace = open_trace(str(path))
        found = rows(trace)
    except TraceError as refused:
        assert refused.why
        assert str(path) in str(refused)
        return
    assert found
    assert trace.complete == (not trace.notes and not trace.lost)


@pytest.mark.slow
def test_every_prefix(tmp_path: Path) -> None:
    whole = TEXT.replace(b"836/836", b"6/6")
    assert b"6/6" not in TEXT
    for size in range(len(whole)):
        check(tmp_path / "prefix", whole[:size])
    trace = open_trace(str(tmp_path / "prefix"))
    rows(trace)
    assert not trace.complete


@given(st.data())
def test_changed_bytes(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    content = bytearray(TEXT)
    for _ in range(data.draw(st.integers(1, 20))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(1, 255))
    path = tmp_path_factory.getbasetemp() / "changed"
    path.write_bytes(bytes(content))
    try:
        trace = open_trace(str(path))
        assert rows(trace)
    except TraceError as refused:
        assert refused.why


@given(st.binary(max_size=300), st.sampled_from([b"", b"\xfd7zXZ\x00", b"\x1f\x8b\x08\x00", TEXT]))
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, tail: bytes, head: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes"
    path.write_bytes(head + tail)
    try:
        assert rows(open_trace(str(path)))
    except TraceError as refused:
        assert refused.why
