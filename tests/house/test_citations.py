"""A citation of a kernel commit can be looked up: 12 digits, its subject, its version."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

from tests.house.tree import (
    PACKAGE,
    ROOT,
    Finding,
    expect_none,
    parse,
    python_files,
    relative,
    text_files,
    write_tree,
)

DIGITS_MIN = 12
HEX = r"(?=[0-9a-f]*[0-9])(?P<{}>[0-9a-f]{{4,40}})\b"  # with a digit, so that it is not a word
CITATION = re.compile(
    "|".join(
        (
            r"\bcommits?\s+" + HEX.format("plain"),  # commit 0123456789ab
            r"\b" + HEX.format("subject") + r"\s+\(\"",  # 0123456789ab ("mm: subject")
            r"\bFixes:\s*" + HEX.format("fixes"),  # Fixes: 0123456789ab
            r"\bcommit\s*[=:]\s*[\"']" + HEX.format("field"),  # commit="0123456789ab"
        )
    ),
    re.IGNORECASE,
)
DATED = re.compile(r"\b(?:[Ss]ince|[Uu]ntil) commit\b")
WELL_FORMED = re.compile(
    r"(?:[Ss]ince|[Uu]ntil) commit [0-9a-f]{12,40} \(\".+?\"\) in v\d+\.\d+(?:\.\d+|-rc\d+)?\b"
)
FORM = '# Since commit <12 digits> ("subject") in vX.Y'


def short_digits(root: Path) -> Iterator[Finding]:
    for path in text_files(root):
        where = relative(root, path)
        if not where.startswith((f"src/{PACKAGE}/", "docs/")):
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        for match in CITATION.finditer(text):
            digits = next(group for group in match.groups() if group)
            if len(digits) < DIGITS_MIN:
                line = text.count("\n", 0, match.start(match.lastgroup or 0)) + 1
                what = f"commit {digits} has {len(digits)} digits"
                yield Finding(where, line, what, f"give at least {DIGITS_MIN}")


def comments(text: str) -> Iterator[tuple[int, str]]:
    """Blocks of comment lines, each joined into one line, with the number of its first."""
    start, block, last = 0, "", 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type != tokenize.COMMENT:
            continue
        if block and token.start[0] == last + 1:
            block += " " + token.string.lstrip("# ").rstrip()
        else:
            if block:
                yield start, block
            start, block = token.start[0], token.string.lstrip("# ").rstrip()
        last = token.start[0]
    if block:
        yield start, block


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield node.body[0].lineno, " ".join(text.split())


def ill_formed(root: Path) -> Iterator[Finding]:
    for path in python_files(root, f"src/{PACKAGE}/model"):
        text = path.read_text(encoding="utf-8")
        for line, said in [*comments(text), *docstrings(parse(path))]:
            for match in DATED.finditer(said):
                if not WELL_FORMED.match(said, match.start()):
                    what = f"'{said[match.start() :][:60]}' is not a dated citation"
                    yield Finding(relative(root, path), line, what, f"write {FORM}")


def findings(root: Path) -> list[Finding]:
    return sorted([*short_digits(root), *ill_formed(root)])


def test_repository() -> None:
    expect_none(findings(ROOT))


def test_accepts_citations_that_can_be_looked_up(tmp_path: Path) -> None:
    code = """
        # Since commit 2f064a59a11f ("sched: Change task_struct::state") in v5.14 it is __state.
        # Until commit 0123456789abcdef0123 ("mm: a long subject (with words) that goes over the
        # end of the line") in v6.2-rc1 both did.
        x = Feature("split", commit="c2655835fd8c")
        # we commit 4 pages; the commit added it; see commit dead-ends and 12 ("twelve")
    """.replace("\n        ", "\n")
    files = {"src/mmuwitness/model/mm/ksm.py": code, "docs/a.md": "commit c2655835fd8c, v5.12"}
    assert findings(write_tree(tmp_path, files)) == []


def test_finds_short_and_undated_citations(tmp_path: Path) -> None:
    files = {
        "docs/a.md": 'See\ncommit\nc265583.\nAnd 2f064a5 ("sched: x").\nFixes: 2f064a5\n',
        "src/mmuwitness/model/era.py": 'Feature(commit="c265583")\n',
        "src/mmuwitness/model/mm/ksm.py": "x = 1\n# Since commit c2655835fd8c in v5.12 it is y.\n",
        "src/mmuwitness/model/mm/rmap.py": '"""Until commit c2655835fd8c ("mm: x") it is y."""\n',
    }
    found = findings(write_tree(tmp_path, files))
    assert [(each.path.rpartition("/")[2], each.line) for each in found] == [
        ("a.md", 3),
        ("a.md", 4),
        ("a.md", 5),
        ("era.py", 1),
        ("ksm.py", 2),
        ("rmap.py", 1),
    ]
    assert str(found[0]) == "docs/a.md:3: commit c265583 has 7 digits, give at least 12"
