"""The marks that process code has: what a verdict can be asked for."""

from __future__ import annotations

import ast
from functools import cache

from mmuwitness.model.functions import functions
from mmuwitness.process.language import source_of


def warning(function: str) -> str:
    """The mark of a WARN_ON."""
    return f"WARN_ON in {function}()"


@cache
def marks() -> dict[str, str]:
    """Every mark of the model, with the function that has it."""
    found = {}
    for name, function in functions().items():
        source = source_of(function)
        for node in ast.walk(source.tree):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            if node.func.id == "warn_on":
                found[warning(source.tree.name)] = name
            elif node.func.id == "cover":
                given = ast.unparse(node.args[0])
                found[str(eval(given, function.__globals__))] = name
    return dict(sorted(found.items()))
