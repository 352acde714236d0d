"""A file of the model stands for a file of the kernel, and its first line says for which."""

import ast
import re
from pathlib import Path

from tests.house.tree import (
    PACKAGE,
    ROOT,
    Finding,
    expect_none,
    parse,
    python_files,
    relative,
    write_tree,
)

TOP = r"(?<![\w/])(?:arch|drivers|fs|include|kernel|lib|mm|virt|Documentation)/"
KERNEL_FILE = re.compile(TOP + r"[\w./{},*-]*\.(?:c|h|S|rst)\b")
KERNEL_DIRECTORY = re.compile(TOP)


def findings(root: Path) -> list[Finding]:
    found = []
    model = f"src/{PACKAGE}/model"
    for path in python_files(root, *(f"{model}/{part}" for part in ("mm", "lib", "kvm", "arch"))):
        tree = parse(path)
        is_package = path.name == "__init__.py"
        if is_package and not tree.body:
            continue
        first = (ast.get_docstring(tree) or "").partition("\n")[0]
        if not (KERNEL_DIRECTORY if is_package else KERNEL_FILE).search(first):
            what = "the first line names no kernel file"
            do = 'begin with its path, as in """mm/ksm.c: kernel samepage merging."""'
            found.append(Finding(relative(root, path), 1, what, do))
    return found


def test_repository() -> None:
    expect_none(findings(ROOT))


def test_accepts_files_that_say_it(tmp_path: Path) -> None:
    files = {
        "mm/__init__.py": '"""The primary MMU: mm/."""',
        "mm/ksm.py": '"""mm/ksm.c: merging.\n\nMore."""',
        "mm/mm_types.py": '"""`include/linux/mm_types.h`."""',
        "kvm/__init__.py": "",
        "kvm/kvm_main.py": '"""The secondary MMU (virt/kvm/kvm_main.c)."""',
        "arch/arm64.py": '"""arch/arm64/kvm/mmu.c and arch/arm64/kvm/hyp/pgtable.c."""',
        "host.py": "x = 1",
    }
    tree = write_tree(tmp_path, {f"src/mmuwitness/model/{name}": files[name] for name in files})
    assert findings(tree) == []


def test_finds_files_that_do_not(tmp_path: Path) -> None:
    files = {
        "mm/ksm.py": '"""Kernel samepage merging.\n\nmm/ksm.c is where it is."""',
        "kvm/kvm_main.py": "# virt/kvm/kvm_main.c",
        "arch/arm64.py": '"""src/mm/x.c"""',
        "arch/__init__.py": '"""Architectures."""',
    }
    tree = write_tree(tmp_path, {f"src/mmuwitness/model/{name}": files[name] for name in files})
    assert sorted(each.path.removeprefix("src/mmuwitness/model/") for each in findings(tree)) == [
        "arch/__init__.py",
        "arch/arm64.py",
        "kvm/kvm_main.py",
        "mm/ksm.py",
    ]
