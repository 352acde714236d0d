"""The commands that README.md and docs/ show do run, and exit as they say."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.house.tree import ROOT, relative, write_tree

COMMAND = "$ mmuwitness"
EXIT = re.compile(r"# exit (\d+)$")
SECONDS_MAX = 600


@dataclass(frozen=True)
class Shown:
    path: str
    line: int
    command: str
    exit_code: int


def shown_in(where: str, text: str) -> list[Shown]:
    """The commands of every ```console block. `# exit N` after one says how it exits."""
    found: list[Shown] = []
    in_console = continued = mine = False
    for number, line in enumerate((line.strip() for line in text.splitlines()), 1):
        if line.startswith("```"):
            in_console = not in_console and line == "```console"
            continued = mine = False
        elif continued:
            more = f"{found[-1].command[:-1].rstrip()} {line}"
            found[-1] = Shown(where, found[-1].line, more, 0)
            continued = line.endswith("\\")
        elif in_console and line.startswith("$"):
            mine = line.startswith(COMMAND)
            if mine:
                found.append(Shown(where, number, line.removeprefix("$ "), 0))
                continued = line.endswith("\\")
        elif in_console and mine and (match := EXIT.match(line)):
            found[-1] = Shown(where, found[-1].line, found[-1].command, int(match[1]))
    return found


def shown(root: Path) -> list[Shown]:
    paths = [root / "README.md", *sorted((root / "docs").rglob("*.md"))]
    texts = ((relative(root, path), path) for path in paths if path.exists())
    return [each for where, path in texts for each in shown_in(where, path.read_text("utf-8"))]


def run(root: Path, directory: Path, command: str) -> subprocess.CompletedProcess[str]:
    """Run it where the tree's files are seen, and where a file that it makes is not in the tree."""
    for path in root.iterdir():
        if not path.name.startswith("."):
            (directory / path.name).symlink_to(path)
    binaries = Path(sys.executable).parent
    return subprocess.run(
        command,
        shell=True,
        cwd=directory,
        env={**os.environ, "PATH": f"{binaries}{os.pathsep}{os.environ.get('PATH', '')}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("each", shown(ROOT), ids=lambda each: f"{each.path}:{each.line}")
def test_command_exits_as_shown(each: Shown, tmp_path: Path) -> None:
    done = run(ROOT, tmp_path, each.command)
    if done.returncode != each.exit_code:
        pytest.fail(
            f"{each.path}:{each.line}: `{each.command}` exits {done.returncode}, not "
            f"{each.exit_code}: correct the command, or write `# exit {done.returncode}` after it\n"
            f"{done.stdout[-2000:]}{done.stderr[-2000:]}",
            pytrace=False,
        )


def test_readme_shows_commands() -> None:
    if not (ROOT / "README.md").exists():
        pytest.skip("README.md does not exist yet")
    assert shown(ROOT), "README.md:1: no ```console block has a line `$ mmuwitness ...`, show one"


def test_reads_commands_and_exits(tmp_path: Path) -> None:
    text = """
```console
$ git clone it
$ mmuwitness list
# exit 2 is not said here, but on a line of its own:
$ mmuwitness check a \\
    --era v6.1
violated: no_stale_spte
# exit 1
$ make demo
# exit 9
```
$ mmuwitness outside
```
$ mmuwitness in another kind of block
```
"""
    tree = write_tree(tmp_path, {"README.md": text, "docs/deep/a.md": "```console\n$ mmuwitness\n"})
    assert shown(tree) == [
        Shown("README.md", 4, "mmuwitness list", 0),
        Shown("README.md", 6, "mmuwitness check a --era v6.1", 1),
        Shown("docs/deep/a.md", 2, "mmuwitness", 0),
    ]


def test_runs_beside_the_tree_and_not_in_it(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "tree", {"docs/a.txt": "words\n"})
    (tmp_path / "elsewhere").mkdir()
    done = run(tree, tmp_path / "elsewhere", "cat docs/a.txt | tee made.txt; exit 3")
    assert (done.stdout, done.returncode) == ("words\n", 3)
    assert not (tree / "made.txt").exists()
