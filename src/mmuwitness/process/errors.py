"""Errors in process code: they point to the author's own line and say what to write instead."""

from __future__ import annotations

import ast
from dataclasses import dataclass


@dataclass(frozen=True)
class Location:
    """A place in process code: function, file inside the package, 1-based line, column."""

    function: str
    file: str
    line: int
    column: int = 0

    def __str__(self) -> str:
        return f"{self.function}() {self.file}:{self.line}"


class ProcessError(Exception):
    """Process code that the language does not allow, or that cannot be folded."""

    def __init__(self, message: str, where: Location | None = None, hint: str = "") -> None:
        self.message, self.where, self.hint = message, where, hint
        self.source_line = ""
        super().__init__(message)

    def __str__(self) -> str:
        text = self.message
        if self.where:
            text = f"{self.where.file}:{self.where.line}: in {self.where.function}(): {text}"
        if self.source_line and self.where:
            caret = " " * self.where.column + "^"
            text += f"\n    {self.source_line.rstrip()}\n    {caret}"
        if self.hint:
            text += f"\n  {self.hint}"
        return text


def describe(node: ast.AST) -> str:
    """What a Python construct is called, for an error message."""
    names = {
        ast.Lambda: "a lambda",
        ast.ListComp: "a comprehension",
        ast.GeneratorExp: "a generator expression",
        ast.Try: "try/except",
        ast.Raise: "raise",
        ast.FunctionDef: "a nested function",
        ast.Yield: "yield",
        ast.Dict: "a dict display",
        ast.List: "a list display",
        ast.JoinedStr: "an f-string",
        ast.Starred: "a starred argument",
        ast.Delete: "del",
        ast.Global: "global",
    }
    return names.get(type(node), f"'{type(node).__name__}'")
