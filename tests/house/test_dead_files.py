"""Every module under src is used: imported by another one or by a test, or started by a person."""

import ast
import tomllib
from pathlib import Path

from tests.house.tree import (
    ROOT,
    Finding,
    called_name,
    expect_none,
    imports,
    module_name,
    parse,
    python_files,
    relative,
    write_tree,
)


def entry_points(root: Path) -> set[str]:
    project = root / "pyproject.toml"
    if not project.exists():
        return set()
    scripts = tomllib.loads(project.read_text(encoding="utf-8"))["project"].get("scripts", {})
    return {target.partition(":")[0] for target in scripts.values()}


def discovered(root: Path, path: Path) -> set[str]:
    """The packages whose modules the file finds by `iter_modules(__path__)`, as `package.*`."""
    names = {each.target.rpartition(".")[2]: each.target for each in imports(root, path)}
    found = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Call) and called_name(node) in {"iter_modules", "walk_packages"}:
            for argument in node.args[:1]:
                match argument:
                    case ast.Name(id="__path__"):
                        found.add(module_name(root, path) + ".*")
                    case ast.Attribute(value=ast.Name(id=name), attr="__path__") if name in names:
                        found.add(names[name] + ".*")
    return found


def named(path: Path) -> set[str]:
    """The strings that the file holds: a table may name modules that are imported when needed."""
    constants = (node for node in ast.walk(parse(path)) if isinstance(node, ast.Constant))
    return {node.value for node in constants if isinstance(node.value, str)}


def findings(root: Path) -> list[Finding]:
    used = entry_points(root)
    for path in python_files(root, "src", "tests", "bench"):
        own = module_name(root, path)
        used |= {each.target for each in imports(root, path)} - {own}
        used |= discovered(root, path)
    for path in python_files(root, "src"):
        used |= named(path) - {module_name(root, path)}
    found = []
    for path in python_files(root, "src"):
        module = module_name(root, path)
        if path.name in {"__init__.py", "__main__.py"} or module in used:
            continue
        if module.rpartition(".")[0] + ".*" not in used:
            what = "no other module and no test imports this one"
            found.append(Finding(relative(root, path), 1, what, "use it or delete it"))
    return found


def test_repository() -> None:
    expect_none(findings(ROOT))


def test_knows_every_way_of_use(tmp_path: Path) -> None:
    files = {
        "pyproject.toml": "[project]\nscripts.tool = 'tool.cli:main'",
        "src/tool/__init__.py": "",
        "src/tool/cli.py": "def main():\n    from .verbs import check",
        "src/tool/verbs/check.py": "import tool.state",
        "src/tool/state.py": "from importlib import import_module",
        "src/tool/table.py": "",
        "src/tool/tested.py": "",
        "src/tool/found/__init__.py": "import pkgutil\npkgutil.iter_modules(__path__)",
        "src/tool/found/one.py": "import pkgutil\nfrom .. import also\niter_modules(also.__path__)",
        "src/tool/also/two.py": "import_module(f'tool.named.{name}')\nX = ['tool.table']",
        "src/tool/named/three.py": "",
        "tests/test_tested.py": "from tool import tested",
    }
    assert findings(write_tree(tmp_path, files)) == []


def test_finds_a_module_that_only_knows_itself(tmp_path: Path) -> None:
    files = {"src/tool/dead.py": "import tool.dead", "src/tool/found/lost.py": ""}
    assert [str(each) for each in findings(write_tree(tmp_path, files))] == [
        f"src/tool/{name}.py:1: no other module and no test imports this one, use it or delete it"
        for name in ("dead", "found/lost")
    ]
