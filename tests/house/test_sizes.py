"""A file fits into a head, a function on a screen, a line into a terminal."""

import ast
import statistics
from pathlib import Path

from tests.house.tree import ROOT, Finding, expect_none, parse, python_files, relative, write_tree

FILE_LINES_MAX = 500
FILE_LINES_MEDIAN_MAX = 200
FUNCTION_LINES_MAX = 70
LINE_COLUMNS_MAX = 100


def findings(root: Path) -> list[Finding]:
    found: list[Finding] = []
    sizes: list[int] = []
    for path in python_files(root, "src", "tests", "bench", "docs"):
        where = relative(root, path)
        lines = path.read_text(encoding="utf-8").splitlines()
        if where.startswith("src/") and path.name != "__init__.py":
            sizes.append(len(lines))
        if len(lines) > FILE_LINES_MAX:
            what = f"the file has {len(lines)} lines"
            found.append(
                Finding(where, FILE_LINES_MAX + 1, what, f"split it: {FILE_LINES_MAX} at most")
            )
        for number, line in enumerate(lines, 1):
            if len(line) > LINE_COLUMNS_MAX:
                what = f"the line has {len(line)} columns"
                found.append(Finding(where, number, what, f"break it: {LINE_COLUMNS_MAX} at most"))
        found += long_functions(where, parse(path))
    if sizes and statistics.median(sizes) > FILE_LINES_MEDIAN_MAX:
        what = f"the median file has {statistics.median(sizes):.0f} lines"
        do = f"split the longest: the median is {FILE_LINES_MEDIAN_MAX} at most"
        found.append(Finding("src", 1, what, do))
    return found


def long_functions(where: str, tree: ast.Module) -> list[Finding]:
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        length = (node.end_lineno or node.lineno) - node.lineno + 1
        if length > FUNCTION_LINES_MAX:
            what = f"{node.name}() has {length} lines"
            do = f"split it: {FUNCTION_LINES_MAX} at most"
            found.append(Finding(where, node.lineno, what, do))
    return found


def test_repository() -> None:
    expect_none(findings(ROOT))


def test_accepts_what_just_fits(tmp_path: Path) -> None:
    function = "def f():\n" + "    pass\n" * (FUNCTION_LINES_MAX - 1)
    files = {
        "src/mmuwitness/longest.py": function + "#\n" * (FILE_LINES_MAX - FUNCTION_LINES_MAX),
        "src/mmuwitness/short.py": "#" * LINE_COLUMNS_MAX,
        "src/mmuwitness/shorter.py": "#",
    }
    assert findings(write_tree(tmp_path, files)) == []


def test_finds_what_is_one_too_long(tmp_path: Path) -> None:
    files = {
        "src/mmuwitness/file.py": "#\n" * (FILE_LINES_MAX + 1),
        "src/mmuwitness/function.py": "#\ndef f():\n" + "    pass\n" * FUNCTION_LINES_MAX,
        "tests/test_line.py": "#\n" + "#" * (LINE_COLUMNS_MAX + 1),
    }
    assert [str(each) for each in findings(write_tree(tmp_path, files))] == [
        "src/mmuwitness/file.py:501: the file has 501 lines, split it: 500 at most",
        "src/mmuwitness/function.py:2: f() has 71 lines, split it: 70 at most",
        "tests/test_line.py:2: the line has 101 columns, break it: 100 at most",
        "src:1: the median file has 286 lines, split the longest: the median is 200 at most",
    ]
