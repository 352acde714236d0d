"""Every test asserts something."""

import ast
from pathlib import Path

from tests.house.tree import (
    ROOT,
    Finding,
    called_name,
    expect_none,
    parse,
    python_files,
    relative,
    write_tree,
)

# What fails a test besides `assert`: pytest's own, the golden fixture, and helpers named for it.
ASSERTING = {"raises", "warns", "fail", "golden", "run_state_machine_as_test"}
ASSERTING_PREFIXES = ("assert_", "check_", "expect_")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def asserts(function: Function, local: dict[str, Function], seen: frozenset[str]) -> bool:
    """Whether it asserts, itself or by calling a function of the same file that does."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call):
            name = called_name(node)
            if name in ASSERTING or name.startswith(ASSERTING_PREFIXES):
                return True
            inner = local.get(name) if name not in seen else None
            if inner and asserts(inner, local, seen | {name}):
                return True
    return False


def findings(root: Path) -> list[Finding]:
    found = []
    for path in python_files(root, "tests"):
        if not path.name.startswith("test_"):
            continue
        functions = [node for node in ast.walk(parse(path)) if isinstance(node, Function)]
        local = {function.name: function for function in functions}
        for function in functions:
            if function.name.startswith("test_") and not asserts(function, local, frozenset()):
                what = f"{function.name}() asserts nothing"
                do = "say what must hold, or delete it"
                found.append(Finding(relative(root, path), function.lineno, what, do))
    return found


def test_repository() -> None:
    expect_none(findings(ROOT))


def test_accepts_every_way_of_asserting(tmp_path: Path) -> None:
    text = """
def test_plainly(): assert 1
def test_by_an_error():
    with pytest.raises(ValueError): f()
def test_by_a_golden_file(golden): golden('a.txt', 'a')
def test_by_a_helper(): agree()
def agree(): agree_fully()
def agree_fully(): assert 1
class TestThings:
    def test_method(self): np.testing.assert_equal(1, 1)
def helper(): pass
"""
    assert findings(write_tree(tmp_path, {"tests/test_a.py": text})) == []


def test_finds_tests_that_only_run(tmp_path: Path) -> None:
    text = "def test_runs(): helper()\ndef helper(): test_runs()\nasync def test_waits(): ...\n"
    found = findings(write_tree(tmp_path, {"tests/model/test_a.py": text}))
    assert [str(each) for each in found] == [
        f"tests/model/test_a.py:{line}: {name}() asserts nothing, say what must hold, or delete it"
        for line, name in ((1, "test_runs"), (3, "test_waits"))
    ]
