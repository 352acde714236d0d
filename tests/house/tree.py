"""The repository as the house tests see it: its files, their syntax trees, their imports."""

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "mmuwitness"

SEEN_HIDDEN = {".ci", ".gitignore"}
MADE = {"__pycache__", "build", "dist"}
TEXT_SUFFIXES = {"", ".c", ".cfg", ".lock", ".md", ".pml", ".py", ".sh", ".toml", ".txt", ".typed"}
# Inputs and outputs of tests: nobody writes them by hand, so no rule of style holds for them.
DATA = ("tests/data/", "tests/golden/")


@dataclass(frozen=True, order=True)
class Finding:
    path: str
    line: int
    what: str
    do: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.what}, {self.do}"


def expect_none(findings: Iterable[Finding]) -> None:
    lines = [str(finding) for finding in sorted(findings)]
    if lines:
        pytest.fail("\n".join(lines), pytrace=False)


def relative(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def text_files(root: Path) -> Iterator[Path]:
    """Files that people write: no hidden ones (but .ci and .gitignore), no caches, no builds."""
    for path in sorted(root.iterdir()):
        hidden = path.name.startswith(".") and path.name not in SEEN_HIDDEN
        if hidden or path.name in MADE or path.name.endswith(".egg-info"):
            continue
        if path.is_dir():
            yield from text_files(path)
        elif path.suffix in TEXT_SUFFIXES:
            yield path


def python_files(root: Path, *directories: str) -> list[Path]:
    found = (path for name in directories for path in sorted((root / name).rglob("*.py")))
    return [path for path in found if not relative(root, path).startswith(DATA)]


@cache
def _parse(path: Path, _mtime_ns: int, _size: int) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def parse(path: Path) -> ast.Module:
    stat = path.stat()
    return _parse(path, stat.st_mtime_ns, stat.st_size)


def module_name(root: Path, path: Path) -> str:
    """`src/mmuwitness/model/era.py` is `mmuwitness.model.era`, `tests/a/b.py` is `tests.a.b`."""
    parts = list(path.relative_to(root).with_suffix("").parts)
    if parts[0] == "src":
        del parts[0]
    if parts[-1] == "__init__":
        del parts[-1]
    return ".".join(parts)


@dataclass(frozen=True)
class Import:
    line: int
    target: str


def imports(root: Path, path: Path) -> list[Import]:
    """Every module that the file names in an import, wherever it stands, in absolute form.

    `from a import b` gives `a` and `a.b`: which of them is a module is for the caller to know.
    A call of `import_module` (or `__import__`) with a constant, or with an f-string that begins
    with one, counts too.
    """
    name = module_name(root, path)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: list[Import] = []
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            found += [Import(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            found.append(Import(node.lineno, base))
            found += [Import(node.lineno, f"{base}.{alias.name}") for alias in node.names]
        elif isinstance(node, ast.Call) and called_name(node) in {"import_module", "__import__"}:
            found += [Import(node.lineno, target) for target in _constants(node.args[:1])]
    return found


def _constants(nodes: list[ast.expr]) -> Iterator[str]:
    for node in nodes:
        first = node.values[0] if isinstance(node, ast.JoinedStr) and node.values else node
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            # `f"a.b.{name}"` imports something in a.b: `a.b.*` stands for all of it.
            yield first.value + ("*" if first is not node else "")


def called_name(call: ast.Call) -> str:
    """`f` for `f(...)` and for `a.b.f(...)`; empty for anything else that is called."""
    if isinstance(call.func, ast.Attribute):
        return call.func.attr
    return call.func.id if isinstance(call.func, ast.Name) else ""


def write_tree(root: Path, files: dict[str, str]) -> Path:
    """A small tree for a test of a checker."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root
