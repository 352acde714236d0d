"""Imports go only leftwards: model, process, explore, trace, simulate, report, api, cli."""

from pathlib import Path

from tests.house.tree import (
    PACKAGE,
    ROOT,
    Finding,
    expect_none,
    imports,
    module_name,
    python_files,
    relative,
    write_tree,
)

LAYERS = ("model", "process", "explore", "trace", "simulate", "report", "api", "cli")
ORDER = " -> ".join(LAYERS)
# The package hands the API on, by its own name and when asked for it.
HANDS_ON = ("__init__", "api")
# As in the kernel: mm and lib know no kvm, and the common part of kvm knows no arch.
NEVER = {"model.mm": "model.kvm", "model.lib": "model.kvm", "model.kvm": "model.arch"}


def is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def layer(module: str) -> str:
    """The layer of a module name without the package: `model.mm.ksm` is in `model`."""
    top = module.partition(".")[0]
    return "cli" if top == "__main__" else top


def findings(root: Path) -> list[Finding]:
    found: set[Finding] = set()
    for path in python_files(root, f"src/{PACKAGE}"):
        where = relative(root, path)
        module = module_name(root, path).removeprefix(PACKAGE).lstrip(".")
        if not module:
            module = "__init__"
        elif layer(module) not in LAYERS:
            found.add(Finding(where, 1, f"{module} is in no layer", f"put it into one of {ORDER}"))
            continue
        for each in imports(root, path):
            target = each.target.removeprefix(PACKAGE + ".")
            if target == each.target or layer(target) not in LAYERS:
                continue
            what = f"{module} imports {target}"
            if (module, layer(target)) == HANDS_ON:
                continue
            if rank(module) < rank(target):
                do = f"imports go only leftwards in {ORDER}: move what it needs to the left"
                found.add(Finding(where, each.line, what, do))
            for left, right in NEVER.items():
                if is_in(module, left) and is_in(target, right):
                    do = f"{left} never imports {right}: let model/host.py wire them"
                    found.add(Finding(where, each.line, what, do))
    return sorted(found)


def rank(module: str) -> int:
    """How far to the right; the package itself is imported by all, and so is left of all."""
    return LAYERS.index(layer(module)) if layer(module) in LAYERS else -1


def test_repository() -> None:
    expect_none(findings(ROOT))


def test_accepts_leftward_imports(tmp_path: Path) -> None:
    files = {
        "src/mmuwitness/__init__.py": "def __getattr__(name):\n    from mmuwitness import api",
        "src/mmuwitness/api.py": "from mmuwitness.report import tables",
        "src/mmuwitness/__main__.py": "from mmuwitness.cli import main",
        "src/mmuwitness/cli.py": "from mmuwitness import __version__, model, report",
        "src/mmuwitness/model/mm/ksm.py": "from .. import state\nfrom . import rmap",
        "src/mmuwitness/model/host.py": "from .mm import ksm\nfrom .kvm import kvm_main",
        "src/mmuwitness/model/arch/x86.py": "from mmuwitness.model.kvm import kvm_host",
        "src/mmuwitness/explore/search.py": "import numpy\nfrom ..process import steps",
    }
    assert findings(write_tree(tmp_path, files)) == []


def test_finds_rightward_imports(tmp_path: Path) -> None:
    files = {
        "src/mmuwitness/__init__.py": "from .explore import search",
        "src/mmuwitness/model/era.py": "def f():\n    import mmuwitness.process.steps",
        "src/mmuwitness/process/cfg.py": "from ..explore.search import Search",
        "src/mmuwitness/trace/audit.py": "from mmuwitness import report",
        "src/mmuwitness/report/tables.py": "import_module(f'mmuwitness.cli.{name}')",
        "src/mmuwitness/report/text.py": "from mmuwitness.api import check",
    }
    found = findings(write_tree(tmp_path, files))
    assert [(each.path.removeprefix("src/mmuwitness/"), each.line) for each in found] == [
        ("__init__.py", 1),
        ("__init__.py", 1),
        ("model/era.py", 2),
        ("process/cfg.py", 1),
        ("process/cfg.py", 1),
        ("report/tables.py", 1),
        ("report/text.py", 1),
        ("report/text.py", 1),
        ("trace/audit.py", 1),
    ]
    assert str(found[2]).startswith(
        "src/mmuwitness/model/era.py:2: model.era imports process.steps, imports go only leftwards"
    )


def test_finds_what_the_kernel_does_not_do(tmp_path: Path) -> None:
    files = {
        "src/mmuwitness/model/mm/ksm.py": "from ..kvm.kvm_main import kvm_unmap_gfn_range",
        "src/mmuwitness/model/kvm/kvm_main.py": "def f():\n    from ..arch import x86",
    }
    found = findings(write_tree(tmp_path, files))
    assert {(Path(each.path).name, each.line) for each in found} == {
        ("kvm_main.py", 2),
        ("ksm.py", 1),
    }


def test_finds_a_file_outside_the_layers(tmp_path: Path) -> None:
    found = findings(write_tree(tmp_path, {"src/mmuwitness/utils.py": ""}))
    assert [each.what for each in found] == ["utils is in no layer"]
