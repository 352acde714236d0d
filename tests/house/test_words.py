"""No notes to oneself, and nothing that points outside the repository."""

import re
from pathlib import Path

from tests.house.tree import DATA, ROOT, Finding, expect_none, relative, text_files, write_tree

# Each pattern is written so that it does not find itself.
NOTES = re.compile(r"\b(TO[D]O|FIX[M]E|XX[X]|HAC[K])\b")
OUTSIDE = re.compile(r"\.\./share[d]\b|(?<![\w.\-$)}*])/(?:wor[k]|far[m])/")


def findings(root: Path) -> list[Finding]:
    found = []
    for path in text_files(root):
        where = relative(root, path)
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        for number, line in enumerate(lines, 1):
            for match in OUTSIDE.finditer(line):
                what = f"'{match[0]}' points outside the repository"
                found.append(Finding(where, number, what, "say it here or leave it out"))
            if where.startswith(DATA):
                continue
            for match in NOTES.finditer(line):
                do = "do it, or file an issue and leave it out"
                found.append(Finding(where, number, f"'{match[0]}' is a note to oneself", do))
    return found


def test_repository() -> None:
    expect_none(findings(ROOT))


def test_accepts_ordinary_words(tmp_path: Path) -> None:
    text = "hackers, todos, XXXX\nmktemp -d x.XXXXXX\nframework/x ../sharedmem kernel/work/x\n"
    note = "".join(("FIX", "ME"))
    files = {"README.md": text, "tests/data/real.txt": note, ".git/x": note, "build/x.py": note}
    assert findings(write_tree(tmp_path, files)) == []


def test_finds_notes_and_paths_outside(tmp_path: Path) -> None:
    note, outside = "".join(("TO", "DO")), "".join(("/wo", "rk/x"))
    files = {
        "Makefile": f"# {note}: later\n",
        "src/mmuwitness/a.py": f"\n# see ../{'shared'}/x\n",
        "tests/data/a.txt": f"file {outside}\n",
    }
    assert [str(each) for each in findings(write_tree(tmp_path, files))] == [
        f"Makefile:1: '{note}' is a note to oneself, do it, or file an issue and leave it out",
        f"src/mmuwitness/a.py:2: '../{'shared'}' points outside the repository, "
        "say it here or leave it out",
        f"tests/data/a.txt:1: '{outside[:-1]}' points outside the repository, "
        "say it here or leave it out",
    ]
