"""The golden fixture of tests/conftest.py."""

from pathlib import Path

import pytest

from tests.conftest import compare_golden


def test_accepts_and_then_agrees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMUWITNESS_GOLDEN", "accept")
    assert compare_golden(tmp_path, "deep/a.txt", "one\ntwo") is None
    monkeypatch.delenv("MMUWITNESS_GOLDEN")
    assert compare_golden(tmp_path, "deep/a.txt", "one\ntwo\n") is None


def test_shows_what_differs_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MMUWITNESS_GOLDEN", raising=False)
    assert "to write it: make golden" in (compare_golden(tmp_path, "a.txt", "one") or "")
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    complaint = compare_golden(tmp_path, "a.txt", "one\nthree\n") or ""
    assert "-two\n+three\n" in complaint
    assert "make golden" in complaint
